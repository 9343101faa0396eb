"What guards the quick way to read a pair: it is the careful way, or hands over to it."
from dataclasses import replace
import numpy as np, pytest
from PIL import Image
from segmenter.classes import ClassList
from segmenter.datasets import Dataset, load_dataset
from segmenter.reading import read_pair

@pytest.fixture
def make(tmp_path):
    def make(labels, image=None, suffix='.jpg', mode=None, exif=None, names='abc', **kwargs):
        image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*labels.shape, 3), np.uint8)) if image is None else image
        files = tmp_path/f'i{suffix}', tmp_path/'l.png'
        image.save(files[0], **(dict(exif=exif) if exif else {}))
        Image.fromarray(labels, mode).save(files[1]) if mode != 'P' else _palette(labels).save(files[1])
        return Dataset('made', 'train', [files[0]], [files[1]], kwargs.pop('classes', ClassList(list(names))), **kwargs)
    return make

def _palette(labels):
    picture = Image.fromarray(labels, 'P')
    picture.putpalette([200, 100, 50]*256)
    return picture

def agree(d):
    image, labels = read_pair(d, 0)
    assert np.array_equal(image, d.image(0)[..., ::-1]) and np.array_equal(labels, d.label_map(0)) and labels.dtype == d.label_map(0).dtype
    return image, labels

IDS = np.random.default_rng(1).integers(0, 3, (20, 30)).astype(np.uint8)

@pytest.mark.parametrize('suffix', ['.jpg', '.png', '.bmp', '.webp'])
def test_pictures_of_any_kind(make, suffix): agree(make(IDS, suffix=suffix))

@pytest.mark.parametrize('orientation', range(1, 9))
def test_exif_orientation_is_honoured(make, orientation):
    exif = Image.Exif()
    exif[0x112] = orientation
    ids = IDS if orientation < 5 else IDS.reshape(30, 20)
    d = make(ids, Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)), exif=exif)
    assert agree(d)[0].shape[:2] == ids.shape

@pytest.mark.parametrize('mode', ['L', 'RGBA', 'CMYK', '1'])
def test_grey_and_other_colours(make, mode):
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)).convert(mode)
    agree(make(IDS, picture, '.jpg' if mode == 'CMYK' else '.png'))

def test_palette_one_bit_and_sixteen_bit_label_maps(make):
    agree(make(IDS, mode='P')), agree(make(IDS > 0)), agree(make(IDS.astype(np.uint16)))

def test_voids_and_tables(make):
    agree(make(IDS, reduce_zero_label=True)), agree(make(IDS, void_label=1)), agree(make(IDS*7, table={0: 2, 7: 255, 14: 0}))
    agree(make(IDS, classes=ClassList('abc', ignore_index=-1))), agree(make(IDS, classes=ClassList('abc', ignore_index=77)))
    agree(make(IDS, classes=ClassList([f'c{i}' for i in range(300)], ignore_index=400)))

def test_refusals_name_the_file(make):
    d = make(IDS + 1)
    with pytest.raises(ValueError, match=r'l\.png: ids outside the 3 classes: 3'): read_pair(d, 0)
    with pytest.raises(ValueError, match='for an image of'): read_pair(make(IDS[:7], Image.fromarray(np.zeros((20, 30, 3), np.uint8))), 0)
    d.images[0].write_bytes(d.images[0].read_bytes()[:50])
    with pytest.raises(ValueError, match=r'i\.jpg'): read_pair(d, 0)
    d = make(IDS)
    d.labels[0].write_bytes(d.labels[0].read_bytes()[:60])
    with pytest.raises(ValueError, match=r'l\.png'): read_pair(d, 0)
    d.images[0].unlink()
    with pytest.raises(FileNotFoundError, match=r'i\.jpg'): read_pair(d, 0)
    with pytest.raises(ValueError, match='no label maps'): read_pair(replace(make(IDS), labels=None), 0)

def test_land_cover():
    d = load_dataset('landcover', 'val')
    for i in range(5):
        image, labels = read_pair(d, i)
        assert np.array_equal(image, d.image(i)[..., ::-1]) and np.array_equal(labels, d.label_map(i))

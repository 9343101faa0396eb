import copy, os
import numpy as np
import pytest
import torch
from PIL import Image
from step_by_step import step_by_step
from segmenter.model import create_model
from segmenter.patches import SCENE_CLASSES, scene
from segmenter.pipelines import eval_resize, normalize
from segmenter.predict import (MULTI_SCALE, Prediction, Protocol, class_list_of, make_views, predict, predict_stream, protocol_for,
                               view_size)
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

def test_the_bar_ends_full_and_on_the_error_stream(model, capfd):
    predict(model, IMAGE, progress=True)
    seen = capfd.readouterr()
    assert '100%' in seen.err and not seen.out

def test_a_stream_gives_what_predict_gives_and_reads_ahead_little(model, photos):
    taken = []
    def images():
        for size in (40, 64, 80, 33, 90, 51)*2:
            taken.append(size)
            yield IMAGE[:size]
    stream = predict_stream(model, images(), window_batch=3)
    first = next(stream)
    assert len(taken) < 5 and np.array_equal(first.label_map, predict(model, IMAGE[:40]).label_map)
    rest = list(stream)
    assert [len(p.label_map) for p in rest] == taken[1:]
    same = [(p.label_map == predict(model, p.image).label_map).mean() for p in rest]
    assert min(same) > .9999

def test_a_stream_leaves_the_model_in_its_mode_between_images(model):
    model.train()
    stream = predict_stream(model, [IMAGE]*3)
    next(stream)
    assert model.training
    model.eval()

def test_a_stream_names_what_cannot_be_read_and_goes_on(model, photos, tmp_path):
    (tmp_path/'empty.jpg').write_bytes(b'')
    failed = {}
    found = list(predict_stream(model, [photos/'a.png', tmp_path/'empty.jpg', photos/'b.jpg'], failed=failed.__setitem__))
    assert [p.name for p in found] == ['a', 'b'] and 'empty.jpg' in failed[tmp_path/'empty.jpg']
    with pytest.raises(ValueError, match='empty.jpg'): list(predict_stream(model, [tmp_path/'empty.jpg']))

def test_a_thread_of_pixels_is_refused_in_one_line(model):
    with pytest.raises(ValueError, match='5000×1|crop or pad') as caught: predict(model, np.zeros((1, 5000, 3), np.uint8), im_size=0, window_size=512)
    assert '\n' not in str(caught.value)

@pytest.mark.parametrize('shape', [(1, 1), (1, 60), (5000, 40), (40, 5000)])
def test_long_and_tiny_images_are_segmented(model, shape):
    found = predict(model, np.zeros((*shape, 3), np.uint8))
    assert found.label_map.shape == shape and found.probabilities((0, 1)).shape == (7, 1, shape[1])

def test_every_output_is_written_and_reads_back(model, tmp_path):
    import json
    found = predict(model, IMAGE)
    paths = dict(zip('lopscr', found.save(tmp_path, 'x', ['labels', 'overlay', 'palette', 'statistics', 'confidence', 'probabilities'], True, True, 16)))
    assert sorted(os.listdir(tmp_path)) == sorted(p.name for p in paths.values())
    assert np.array_equal(np.array(Image.open(paths['p'])), found.label_map) and Image.open(paths['o']).width > IMAGE.shape[1]
    facts = json.loads(paths['s'].read_text())
    assert sum(c['pixels'] for c in facts['classes']) == facts['height']*facts['width'] == found.label_map.size
    np.testing.assert_allclose(np.array(Image.open(paths['c']))/65535, found.probabilities().max(0), atol=1e-4)
    np.testing.assert_allclose(np.load(paths['r']).transpose(2, 0, 1), found.probabilities(), atol=1e-3)

def test_probabilities_of_rows_and_names(model):
    found = predict(model, IMAGE, multi_scale=True)
    whole, name = found.probabilities(), found.classes.names[3]
    np.testing.assert_allclose(found.probabilities((7, 9), [name, 0]), whole[[3, 0], 7:9], atol=1e-6)
    for rows in ((5, 5), (-1, 4), (80, 91)):
        with pytest.raises(ValueError, match='of an image with 90'): found.probabilities(rows)

@pytest.mark.slow
def test_two_thousand_predictions_do_not_grow():
    import psutil
    model = PatchColours(*scene(90, 130), SCENE_CLASSES, window_size=32, im_size=48)
    me, sizes = psutil.Process(), np.random.default_rng(0).integers(30, 200, (40, 2))
    for i in range(2000):
        predict(model, np.zeros((*sizes[i % 40], 3), np.uint8)).confidence()
        if i == 200: early = me.memory_info().rss
    assert me.memory_info().rss < 1.02*early

@pytest.mark.slow
def test_a_large_image_is_segmented_in_bounded_memory():
    import resource
    image = np.tile(scene(450, 900)[0], (6, 6, 1))
    model = PatchColours(IMAGE, TRUTH, SCENE_CLASSES, patch_size=16, window_size=224, window_stride=160)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert predict(model, image, im_size=0).label_map.shape == image.shape[:2]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1_000_000

@pytest.mark.parametrize('precision', ['bf16', 'fp16'])
def test_half_precision_is_refused_on_a_processor_in_one_line(model, precision):
    for ask in (lambda: predict(model, IMAGE, precision=precision), lambda: next(predict_stream(model, [IMAGE], precision=precision))):
        with pytest.raises(ValueError, match='is for a GPU') as caught: ask()
        assert '\n' not in str(caught.value)

@pytest.mark.gpu
@pytest.mark.parametrize('dials', [dict(precision='bf16'), dict(precision='fp16'), dict(compile=True)])
def test_dials_of_a_gpu_change_few_labels(model, dials):
    if not torch.cuda.is_available(): pytest.skip('no GPU')
    there = copy.deepcopy(model).cuda()
    assert (predict(there, IMAGE, **dials).label_map == predict(there, IMAGE).label_map).mean() > .98

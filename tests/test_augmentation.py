"What guards the quick transforms: stock and ours, the same seeds, equal arrays."
import importlib, itertools, subprocess, sys
import numpy as np, pytest, torch
from segmenter.augmentation import (Distortion, Finish, Flip, ScaledCrop, class_counts, faster, randomness, resized_window, split_finish)
from segmenter.classes import import_mmseg
from segmenter.datasets import load_dataset
from segmenter.pipelines import train_pipeline, val_pipeline

@pytest.fixture(scope='module')
def tiles():
    "Real pictures with their label maps, BGR; one cut to an odd shape."
    data = load_dataset('landcover', 'train')
    pairs = [(data.image(i)[..., ::-1].copy(), data.label_map(i)) for i in (3, 40, 77, 120)]
    return pairs + [(pairs[0][0][:150, :61].copy(), pairs[0][1][:150, :61].copy())]

@pytest.fixture(scope='module')
def t(): return import_mmseg('datasets.transforms')

def item(pair): return dict(img=pair[0].copy(), img_shape=pair[0].shape[:2], gt_seg_map=pair[1].copy(), seg_fields=['gt_seg_map'])

def through(transforms, pair, key):
    with randomness(*key):
        d = item(pair)
        for transform in transforms: d = transform(d)
        return d, np.random.rand()

def agree(stock, ours, tiles, n=8):
    for (k, pair), i in itertools.product(enumerate(tiles), range(n)):
        (a, following), (b, following_too) = through(stock, pair, (k, i)), through(ours, pair, (k, i))
        for name in ('img', 'gt_seg_map'): assert np.array_equal(a[name], b[name]) and a[name].dtype == b[name].dtype, (name, k, i)
        assert a['img_shape'] == b['img_shape'] and following == following_too

def finished(pipeline):
    short, end = split_finish(faster(pipeline))
    def close(d):
        x, y, sizes = end.collect([d])
        x = end(x, sizes)[0].permute(1, 2, 0).numpy()
        return d | dict(img=x, gt_seg_map=y[0].numpy(), img_shape=x.shape[:2])
    return [*short, close]

@pytest.mark.parametrize('im_size, crop_size, max_ratio', [(224, 160, 2), (224, 64, 4), (64, 96, 4), (300, 224, 8)])
@pytest.mark.parametrize('normalization', ['vit', 'deit'])
def test_whole_pipelines_agree_to_the_bit(tiles, im_size, crop_size, max_ratio, normalization):
    pipeline = train_pipeline(im_size, crop_size, max_ratio, normalization)
    agree(pipeline, finished(pipeline), tiles, n=3)

@pytest.mark.parametrize('kwargs', [dict(photometric=False), dict(scale_range=(1., 1.)), dict(scale_range=(.5, .5)), dict(ignore_index=3)])
def test_the_dials_agree_too(tiles, kwargs):
    pipeline = train_pipeline(224, 100, **kwargs)
    agree(pipeline, finished(pipeline), tiles, n=4)

def test_crops_by_other_rules_agree(tiles, t):
    resize = train_pipeline(224, 64)[0]
    for crop in (t.RandomCrop((64, 90)), t.RandomCrop(50, cat_max_ratio=.3), t.RandomCrop((300, 300), cat_max_ratio=.99, ignore_index=4)):
        agree([resize, crop], [ScaledCrop(resize, crop)], tiles)

def test_windows_of_sixteen_bit_and_negative_labels_agree(tiles):
    wide = [(image, labels.astype(np.int16)*17 - 1) for image, labels in tiles]
    pipeline = train_pipeline(224, 100, ignore_index=-1)
    agree(pipeline, finished(pipeline), wide, n=6)

def test_every_flip_agrees(tiles, t):
    for flip in (t.RandomFlip(prob=.5), t.RandomFlip(prob=1.), t.RandomFlip(prob=[.2, .5], direction=['vertical', 'diagonal'])):
        agree([flip], [Flip(flip)], tiles)

def test_swapped_labels_are_left_to_the_stock_flip(t):
    flip = t.RandomFlip(prob=.5, swap_seg_labels=[(1, 2)])
    assert faster([flip]) == [flip]

@pytest.mark.parametrize('kwargs', [{}, dict(brightness_delta=100), dict(contrast_range=(0, 5)), dict(saturation_range=(0, 9)), dict(hue_delta=179)])
def test_distortion_agrees_on_all_colours(t, kwargs):
    grid = np.stack(np.meshgrid(*[np.arange(0, 256, 5)]*3, indexing='ij'), -1).reshape(-1, 52, 3).astype(np.uint8)
    stock = t.PhotoMetricDistortion(**kwargs)
    agree([stock], [Distortion(stock)], [(grid, np.zeros(grid.shape[:2], np.uint8))], n=40)

def test_windows_of_resized_noise_are_windows_of_the_whole():
    import cv2
    rng = np.random.default_rng(0)
    for _ in range(200):
        h, w, height, width = rng.integers(1, 400, 4).tolist()
        box = tuple(tuple(sorted(rng.choice(n + 1, 2, replace=False).tolist())) for n in (height, width))
        for shape, how in ((h, w, 3), cv2.INTER_LINEAR), ((h, w), cv2.INTER_NEAREST):
            noise = rng.integers(0, 256, shape, np.uint8)
            whole = cv2.resize(noise, (width, height), interpolation=how)[slice(*box[0]), slice(*box[1])]
            assert np.array_equal(resized_window(noise, (height, width), box), whole), (h, w, height, width, box)

def test_an_inexact_opencv_resizes_the_whole(monkeypatch):
    import cv2
    module, noise, box = importlib.import_module('segmenter.augmentation'), np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8), ((3, 20), (5, 30))
    monkeypatch.setattr(module, '_corners_are_exact', lambda: False)
    monkeypatch.setattr(module, '_linear', lambda *a: pytest.fail('the corner was used'))
    assert np.array_equal(resized_window(noise, (50, 60), box), cv2.resize(noise, (60, 50))[3:20, 5:30])

@pytest.mark.parametrize('dtype', [np.uint8, np.int16, np.int64])
def test_counts_are_those_of_sorting(dtype):
    ids = np.random.default_rng(0).integers(0, 40, (50, 60)).astype(dtype)
    ids[:7] = 255 if dtype == np.uint8 else -1
    values, counts = np.unique(ids, return_counts=True)
    found = class_counts(ids, int(ids[0, 0]))
    assert {int(v): int(n) for v, n in zip(values, counts) if v != ids[0, 0]} == {int(v): int(found[v]) for v in np.flatnonzero(found)}

def test_counts_are_exact_beyond_the_floats(monkeypatch):
    assert class_counts(np.zeros((4097, 4097), np.uint8))[0] == 4097**2

def test_a_pipeline_of_others_stays(tiles):
    def mine(d): return d | dict(img=255 - d['img'])
    pipeline = train_pipeline(224, 100)
    mixed = [mine, pipeline[0], mine, *pipeline[1:]]
    assert faster(mixed)[:4] == mixed[:4] and split_finish([mine])[1] is None
    agree(mixed, finished(mixed), tiles, n=4)

def test_validation_keeps_its_resize():
    short, end = split_finish(faster(val_pipeline(224, 2)))
    assert [type(x).__name__ for x in short] == ['Resize'] and isinstance(end, Finish) and end.size is None

def test_other_paddings_and_orders_of_colour_are_honoured():
    from mmcv.transforms import Normalize, Pad
    pair = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8), np.zeros((20, 30), np.uint8)
    for normalize, pad in ((Normalize([1, 2, 3], [4, 5, 6], to_rgb=False), Pad(size=(25, 40), pad_val=dict(img=7, seg=9))),):
        stock = pad(normalize(item(pair)))
        x, y, sizes = Finish(normalize, pad).collect([item(pair)])
        assert np.array_equal(Finish(normalize, pad)(x, sizes)[0].permute(1, 2, 0).numpy(), stock['img']) and np.array_equal(y[0].numpy(), stock['gt_seg_map'])
    reflect = Pad(size=(25, 40), padding_mode='reflect')
    assert split_finish([normalize, reflect]) == ([normalize, reflect], None)

def test_importing_the_module_imports_neither_mmseg_nor_opencv():
    code = "import sys, segmenter.augmentation; assert not {'mmseg', 'mmcv', 'cv2', 'fastai', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, '-c', code], check=True)

@pytest.mark.gpu
def test_a_gpu_normalises_to_the_same_bits():
    finish = split_finish(train_pipeline(224, 100, normalization='deit'))[1]
    x = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).repeat(2, 3, 1, 1)
    sizes = [(16, 16), (9, 12)]
    assert torch.equal(finish(x, sizes), finish(x.cuda(), sizes).cpu())

def test_memory_is_used_again_only_when_nobody_refers_to_it():
    from segmenter.augmentation import _Buffers
    buffers = _Buffers()
    def take(): return buffers.empty((5,), torch.float32).fill_(1)
    def reused(hold):
        t = take()
        place, held = t.data_ptr(), hold(t)
        del t
        others = [take() for _ in range(5)]
        return place in [o.data_ptr() for o in others]
    w = torch.ones(5, requires_grad=True)
    for hold in (lambda t: t[1:], lambda t: t.numpy(), lambda t: t.numpy()[2:], lambda t: (t*w).sum(), lambda t: t.view(torch.int32), lambda t: [t], torch.utils.dlpack.to_dlpack):
        assert not reused(hold)
    assert reused(lambda t: None)

def test_batches_that_are_kept_stay_what_they_are():
    data = load_dataset('landcover', 'train')
    from segmenter.pipelines import SegmentationDataset, SegmentationLoader
    loader = SegmentationLoader(SegmentationDataset(data, train_pipeline(224, 32)), 8)
    kept = list(loader)
    copies = [(x.clone(), y.clone()) for x, y in kept]
    for _ in loader: pass
    assert all(torch.equal(x, u) and torch.equal(y, v) for (x, y), (u, v) in zip(kept, copies))

"What guards the pipelines: parameters, bookkeeping of labels, and batches that can be had again."
import random, subprocess, sys
from dataclasses import replace
import numpy as np, pytest, torch
from PIL import Image
from segmenter.classes import ClassList
from segmenter.datasets import Dataset, load_dataset
from segmenter.guards import UnknownName
from segmenter.patches import SCENE_CLASSES, scene
from segmenter.pipelines import (EpochSampler, SegmentationDataset, SegmentationLoader, dataloaders, denormalize, eval_resize,
    normalize, train_pipeline, val_pipeline)

@pytest.fixture(scope='module')
def streets(tmp_path_factory):
    "Seven streets of different sizes."
    folder, images, labels = tmp_path_factory.mktemp('streets'), [], []
    for i in range(7):
        for kind, array, files in zip(('image', 'labels'), scene(60 + 7*i, 90 - 5*i), (images, labels)):
            files.append(folder/f'{kind}{i}.png')
            Image.fromarray(array.astype(np.uint8)).save(files[-1])
    return Dataset('streets', 'train', images, labels, ClassList(SCENE_CLASSES))

def loaders(d, **kwargs): return dataloaders(d, d, **dict(batch_size=3, crop_size=32, im_size=48, device='cpu') | kwargs)

def same(a, b): return all(torch.equal(x, y) for one, other in zip(a, b, strict=True) for x, y in zip(one, other, strict=True))

def test_importing_the_module_imports_neither_fastai_nor_mmseg():
    code = "import sys, segmenter.pipelines; assert not {'mmseg', 'mmcv', 'fastai', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, '-c', code], check=True)

@pytest.mark.parametrize('name', ['vit', 'deit'])
def test_normalisation_is_mmcvs_and_can_be_undone(name):
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    stock = dict(img=image[..., ::-1].copy())
    for t in val_pipeline(20, normalization=name): stock = t(stock)
    assert np.abs(normalize(image, name).numpy() - stock['img'].transpose(2, 0, 1)).max() < 1e-6
    assert (denormalize(normalize(image, name), name) == image).all()

def test_the_constants_of_deit_are_the_rounded_ones():
    black, white = (normalize(np.full((1, 1, 3), v, np.uint8), 'deit').flatten() for v in (0, 255))
    mean, std = torch.tensor([123.68, 116.28, 103.53]), torch.tensor([58.40, 57.12, 57.38])
    torch.testing.assert_close(black, -mean/std)
    torch.testing.assert_close(white, (255 - mean)/std)

def test_an_unknown_normalisation_is_refused():
    with pytest.raises(UnknownName, match='vit'): normalize(np.zeros((1, 1, 3), np.uint8), 'vitt')

@pytest.mark.parametrize('size, im_size, max_ratio, expected', [
    ((683, 512), 512, 4, (683, 512)), ((1024, 2048), 1024, 2, (1024, 2048)), ((100, 1000), 512, 4, (205, 2048)),
    ((375, 500), 520, 8, (520, 693)), ((1, 1), 224, 2, (224, 224))])
def test_sizes_at_evaluation(size, im_size, max_ratio, expected): assert eval_resize(*size, im_size, max_ratio) == expected

def test_the_training_pipeline_has_the_authors_parameters():
    resize, crop, flip, distort, to_float, pad = train_pipeline(520, 480, 8)
    assert resize.scale == (4160, 520) and resize.ratio_range == (.5, 2.) and resize.resize.keep_ratio
    assert crop.crop_size == (480, 480) and crop.cat_max_ratio == .75 and crop.ignore_index == 255
    assert flip.prob == .5 and flip.direction == 'horizontal'
    assert (distort.brightness_delta, distort.contrast_lower, distort.contrast_upper, distort.hue_delta) == (32, .5, 1.5, 18)
    assert (distort.saturation_lower, distort.saturation_upper) == (.5, 1.5)
    assert to_float.to_rgb and to_float.mean.tolist() == [127.5]*3
    assert pad.size == (480, 480) and pad.pad_val == dict(img=0, seg=255)

def test_image_and_labels_stay_together(streets):
    d, worst = SegmentationDataset(streets, [t for t in train_pipeline(48, 32) if type(t).__name__ != 'PhotoMetricDistortion']), []
    for i in range(len(d)):
        x, y = d[i]
        image, car = denormalize(x).astype(int), (y == SCENE_CLASSES.index('car')).numpy()
        if car.any(): worst.append((image[..., 0] - image[..., 2])[car].mean())
    assert worst and min(worst) > 60 # cars are red and nothing else is

def test_padding_is_zero_and_void_and_nothing_else_is_void(streets):
    d = SegmentationDataset(streets, train_pipeline(48, 64, scale_range=(.5, .5)))
    for i in range(len(d)):
        x, y = d[i]
        inside = torch.zeros(64, 64, dtype=bool)
        h, w = eval_resize(*streets.image(i).shape[:2], 24)
        inside[:h, :w] = True
        assert ((y != 255) == inside).all() and (x[:, ~inside] == 0).all()

def test_another_void_id_goes_through(streets):
    d = replace(streets, classes=ClassList(SCENE_CLASSES, ignore_index=99))
    _, y = next(iter(loaders(d, scale_range=(.5, .5)).train))
    assert 99 in y and 255 not in y

@pytest.mark.parametrize('epoch', [0, 3])
def test_two_workers_and_none_give_the_same_batches(streets, epoch):
    batches = []
    for n in (0, 2):
        dls = loaders(streets, num_workers=n)
        dls.train.set_epoch(epoch)
        batches.append(list(dls.train))
    assert same(*batches) and [len(x) for x, _ in batches[0]] == [3, 3, 1]

def test_an_epoch_is_the_same_after_other_epochs_and_peeks(streets):
    dls = loaders(streets)
    first = list(dls.train)
    dls.train.set_epoch(1)
    other = list(dls.train)
    dls.train.one_batch()
    dls.train.set_epoch(0)
    assert same(first, list(dls.train)) and not torch.equal(first[0][0], other[0][0])

def test_seeds_give_different_orders_and_augmentations(streets):
    a, b = (SegmentationDataset(streets, train_pipeline(48, 32), seed=s)[0][0] for s in (0, 1))
    assert not torch.equal(a, b)
    assert list(EpochSampler(50, 0)) != list(EpochSampler(50, 1))

def test_nobody_elses_random_numbers_move(streets):
    def after(work):
        random.seed(0), np.random.seed(0), torch.manual_seed(0)
        work()
        return random.random(), np.random.rand(), torch.rand(1).item()
    train = loaders(streets).train
    assert after(lambda: list(train)) == after(lambda: None)

def test_every_sample_is_drawn_once():
    for epoch in range(3):
        s = EpochSampler(101, seed=4)
        s.epoch = epoch
        assert sorted(s) == list(range(101)) and len(s) == 101
    assert list(EpochSampler(5, shuffle=False)) == [0, 1, 2, 3, 4]

def test_validation_gives_whole_images_with_the_files_label_maps(streets):
    for i, (x, y) in enumerate(loaders(streets).valid):
        assert x.shape[2:] == eval_resize(*streets.image(i).shape[:2], 48) and (y[0].numpy() == streets.label_map(i)).all()

def test_an_undeclared_id_stops_the_batch_in_workers_too(streets):
    d = replace(streets, classes=ClassList(SCENE_CLASSES[:3]))
    for n in (0, 1):
        with pytest.raises(ValueError, match=r'labels\d\.png: ids outside the 3 classes'): loaders(d, num_workers=n).one_batch()

def test_a_learner_trains_on_it(streets):
    from fastai.learner import Learner
    torch.manual_seed(0)
    model, calls = torch.nn.Conv2d(3, 5, 1), []
    def loss_func(logits, y):
        calls.append(tuple(y.shape))
        return torch.nn.functional.cross_entropy(torch.nn.functional.interpolate(logits, y.shape[1:]), y, ignore_index=255)
    learn = Learner(loaders(streets), model, loss_func=loss_func, lr=.1)
    with learn.no_logging(): learn.fit(3)
    assert len(learn.recorder.losses) == 9 and calls[0] == (3, 32, 32)
    assert learn.recorder.losses[-1] < learn.recorder.losses[0]

def test_show_batch_draws_images_labels_and_a_legend(streets):
    import matplotlib
    matplotlib.use('Agg')
    dls = loaders(streets)
    figure = dls.show_batch()
    assert len(figure.axes) == 6 and {t.get_text() for t in figure.legends[0].get_texts()} <= set(SCENE_CLASSES)
    assert len(dls.valid.show_batch().axes) == 2

def test_the_last_ids_of_16_bits_reach_the_batch(tmp_path):
    ids = (np.arange(48*48).reshape(48, 48) % 300).astype(np.uint16)
    Image.fromarray(ids).save(tmp_path/'l.png')
    Image.fromarray(np.zeros((48, 48, 3), np.uint8)).save(tmp_path/'i.png')
    d = Dataset('many', 'train', [tmp_path/'i.png'], [tmp_path/'l.png'], ClassList([f'c{i}' for i in range(300)], ignore_index=-1))
    _, y = SegmentationDataset(d, train_pipeline(48, 64, scale_range=(1, 1), ignore_index=-1))[0]
    assert y.max() == 299 and y.min() == -1 and (y >= 0).sum() == 48*48

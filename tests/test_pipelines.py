"What guards the pipelines: parameters, bookkeeping of labels, and batches that can be had again."
import os, random, subprocess, sys
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

@pytest.mark.parametrize('bands', [1, 2, 5])
def test_pictures_of_other_bands_show_the_first_three_or_the_first_as_grey(bands):
    from segmenter.encoder import NORMALIZATIONS, Normalization
    NORMALIZATIONS['bands'] = Normalization(mean=[.5]*bands, std=[.25]*bands)
    try: picture = denormalize(torch.arange(bands*2.).reshape(bands, 1, 2) - 2, 'bands')
    finally: del NORMALIZATIONS['bands']
    shown = [0, 1, 2] if bands > 3 else [0, 0, 0]
    values = np.arange(bands*2.).reshape(bands, 1, 2) - 2
    assert picture.tolist() == np.clip(values[shown].transpose(1, 2, 0)*42.5 + 128, 0, 255).astype(np.uint8).tolist()

@pytest.mark.parametrize('size, grown', [((20, 20), (20, 20)), ((13, 20), (20, 20)), ((25, 9), (25, 20))])
def test_images_of_other_bands_are_padded_to_the_crop_and_no_further(size, grown):
    from segmenter.pipelines import _Bands
    item = dict(img=np.full((*size, 5), 3, np.uint8), gt_seg_map=np.full(size, 2, np.uint8))
    found = _Bands([1]*5, [2]*5, 20, 9)(item)
    assert found['img'].shape == (*grown, 5) and found['gt_seg_map'].shape == grown
    assert (found['img'] == 1).sum() == 5*size[0]*size[1] == (found['img'] != 0).sum()
    assert (found['gt_seg_map'] == 2).sum() == size[0]*size[1] and set(found['gt_seg_map'].flat) <= {2, 9}
    assert _Bands([1]*5, [2]*5, None, 9)(item)['img'].shape == (*size, 5)

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

@pytest.mark.parametrize('start', ['forkserver', 'spawn'])
def test_workers_need_not_be_forked(streets, start):
    "As on macOS, and with Python 3.14 everywhere."
    dls = loaders(streets, num_workers=1)
    dls.train.multiprocessing_context = start
    assert same(list(loaders(streets).train), list(dls.train))

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
        with pytest.raises(ValueError, match=r'labels\d\.png: ids outside the 3 classes'): next(iter(loaders(d, num_workers=n).train))

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

def test_samples_are_those_of_the_transforms_as_they_stand(streets):
    from segmenter.augmentation import randomness
    d = SegmentationDataset(streets, pipeline := train_pipeline(48, 32, normalization='deit'), seed=2)
    for d.epoch, i in ((0, 0), (0, 5), (4, 5), (9, 2)):
        with randomness(2, d.epoch, i):
            item = dict(img=streets.image(i)[..., ::-1].copy(), gt_seg_map=streets.label_map(i), seg_fields=['gt_seg_map'])
            for t in pipeline: item = t(item)
        x, y = d[i]
        assert np.array_equal(x.permute(1, 2, 0).numpy(), item['img']) and np.array_equal(y.numpy(), item['gt_seg_map'])

@pytest.mark.parametrize('workers', [0, 2])
def test_an_epoch_can_be_entered_in_the_middle(streets, workers):
    train = loaders(streets, batch_size=2, num_workers=workers, weights=[1, 9, 1, 1, 1, 1, 1]).train
    train.set_epoch(2)
    whole = list(train)
    for cursor in (3, 1, 4):
        train.set_epoch(2, cursor=cursor)
        assert len(train) == 4 and same(whole[cursor:], list(train))
    train.set_epoch(2)
    assert same(whole, list(train))
    with pytest.raises(ValueError, match='cursor 5'): train.set_epoch(2, cursor=5)

def test_an_image_drawn_twice_is_cropped_twice(streets):
    train = loaders(streets, batch_size=7, weights=[1, 0, 0, 0, 0, 0, 0]).train
    x, y = train.one_batch()
    assert len({picture.numpy().tobytes() for picture in x}) > 4

def test_draws_of_one_image_are_counted_within_the_epoch():
    from segmenter.pipelines import _Draws
    order = EpochSampler(12, seed=3, weights=[5] + [1]*11)
    draws = list(_Draws(order))
    assert [d.index for d in draws] == order.order() and max(d.again for d in draws) > 1
    assert [d.again for d in draws] == [[d.index for d in draws[:i]].count(draws[i].index) for i in range(12)]
    order.start = 7
    assert list(_Draws(order)) == draws[7:]

def test_weights_are_shares_of_draws():
    s = EpochSampler(4, seed=1, weights=[0, 1, 1, 2])
    drawn = []
    for s.epoch in range(500): drawn += s.order()
    shares = np.bincount(drawn, minlength=4)/2000
    assert shares[0] == 0 and np.abs(shares - [0, .25, .25, .5]).max() < .05 and len(s) == 4 and s.order() == s.order()

@pytest.mark.parametrize('weights', [[1, 2], [1, -1, 1], [0, 0, 0], [np.nan, 1, 1], [np.inf, 1, 1]])
def test_weights_that_are_none_are_refused(weights):
    with pytest.raises(ValueError, match='weights must be 3 numbers'): EpochSampler(3, weights=weights)

def test_workers_stay_and_know_the_epoch(streets):
    train = loaders(streets, num_workers=2).train
    first = list(train)
    pids = [w.pid for w in train._iterator._workers]
    train.set_epoch(1)
    second = list(train)
    assert pids == [w.pid for w in train._iterator._workers] and not torch.equal(first[0][0], second[0][0])

def test_an_epoch_left_early_does_not_show_in_the_next(streets):
    train = loaders(streets, num_workers=2, batch_size=1).train
    whole = list(train)
    for stop in (1, 3):
        for i, _ in enumerate(train):
            if i == stop: break
        assert same(whole, list(train))

def test_workers_get_what_fits_into_memory_and_keep_nothing_themselves(streets):
    d = SegmentationDataset(streets, train_pipeline(48, 32))
    list(SegmentationLoader(d, 2, num_workers=1))
    small = SegmentationDataset(streets, train_pipeline(48, 32), memory=30000)
    list(SegmentationLoader(small, 2, num_workers=1))
    assert len(d.kept) == 7 and len(small.kept) == 1

def test_what_is_kept_already_is_not_counted_twice(streets):
    one = sum(array.nbytes for array in SegmentationDataset(streets, train_pipeline(48, 32))._read(0))
    d = SegmentationDataset(replace(streets, images=streets.images[:1]*4, labels=streets.labels[:1]*4), train_pipeline(48, 32), memory=4*one)
    d._read(0), d._read(1)
    d._keep_all()
    assert sorted(d.kept) == [0, 1, 2, 3] and d.memory == 0
    short = SegmentationDataset(d.dataset, train_pipeline(48, 32), memory=4*one - 1)
    short._keep_all()
    assert sorted(short.kept) == [0]

def test_a_transform_that_writes_gets_a_copy(streets):
    def invert(item):
        np.subtract(255, item['img'], out=item['img'])
        return item
    d = SegmentationDataset(streets, [invert, *train_pipeline(48, 32)])
    assert torch.equal(d[0][0], d[0][0]) and d.foreign

def test_another_loader_can_have_the_samples(streets):
    d = SegmentationDataset(streets, train_pipeline(48, 32))
    x, y = next(iter(torch.utils.data.DataLoader(d, 3)))
    assert torch.equal(x[1], d[1][0]) and y.shape == (3, 32, 32)

def test_a_pipeline_with_another_end_works(streets):
    d = SegmentationDataset(streets, [*train_pipeline(48, 32), lambda item: item | dict(img=item['img']*2)])
    plain = SegmentationDataset(streets, train_pipeline(48, 32))
    assert torch.equal(d[3][0], 2*plain[3][0]) and torch.equal(d[3][1], plain[3][1]) and d.finish is None

def _tree_memory():
    "Resident bytes of this process and all below it."
    parents = {}
    for name in filter(str.isdigit, os.listdir('/proc')):
        try: parents[int(name)] = int(open(f'/proc/{name}/stat').read().rsplit(')', 1)[1].split()[1])
        except OSError: pass
    tree = {os.getpid()}
    while more := {p for p, parent in parents.items() if parent in tree} - tree: tree |= more
    return sum(int(open(f'/proc/{p}/statm').read().split()[1]) for p in tree)*os.sysconf('SC_PAGE_SIZE')

@pytest.mark.slow
@pytest.mark.skipif(not os.path.isdir('/proc/self'), reason='reads /proc')
@pytest.mark.parametrize('memory', [0, 2**28])
def test_memory_does_not_grow_over_ten_epochs_with_two_workers(tmp_path, memory):
    from segmenter.bench import photo_set
    samples = SegmentationDataset(photo_set(tmp_path, 24), train_pipeline(512, 512), memory=memory)
    loader, held = SegmentationLoader(samples, 8, num_workers=2), []
    for epoch in range(11):
        loader.set_epoch(epoch)
        for _ in loader: held.append((epoch, _tree_memory()))
    peaks = [max(m for e, m in held if e == epoch) for epoch in range(11)]
    print('growth over ten epochs:', peaks[10]/peaks[0] - 1)
    assert max(peaks[1:])/peaks[0] < 1.02, peaks

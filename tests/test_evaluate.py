import csv
import json
import os
from dataclasses import replace
import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from step_by_step import step_by_step
from test_metrics import by_pixel_loop
from segmenter.datasets import load_dataset
from segmenter.evaluate import _chosen, baselines, evaluate, named_protocol, show_per_class, show_samples
from segmenter.metrics import ConfusionMatrix
from segmenter.patches import SCENE_CLASSES, scene
from segmenter.predict import Protocol, make_views
from segmenter.windows import PatchColours

@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    "A plain folder of drawn scenes: three to learn from, four to be measured on, each of another size, with void in it."
    root = tmp_path_factory.mktemp('scenes')
    for split, sizes in dict(train=[(60, 90), (64, 80), (50, 70)], val=[(60, 90), (48, 100), (70, 70), (51, 77)]).items():
        for part in 'images', 'annotations': (root/part/split).mkdir(parents=True)
        for i, (height, width) in enumerate(sizes):
            image, labels = scene(height, width)
            labels[:5] = 255
            Image.fromarray(np.roll(image, 7*i, 1)).save(root/'images'/split/f'{i}.png')
            Image.fromarray(np.roll(labels, 7*i, 1).astype(np.uint8)).save(root/'annotations'/split/f'{i}.png')
    (root/'classes.txt').write_text('\n'.join([*SCENE_CLASSES, 'boat']))
    return root

@pytest.fixture(scope='module')
def val(folder): return load_dataset(folder, 'val')

@pytest.fixture(scope='module')
def model(): return PatchColours(*scene(60, 90), [*SCENE_CLASSES, 'boat'], patch_size=4, window_size=32, window_stride=20, im_size=48)

@pytest.mark.parametrize('multi_scale', [False, True])
def test_scores_equal_the_step_by_step_way_and_a_loop_over_pixels(model, val, multi_scale):
    found = evaluate(model, val, multi_scale=multi_scale, progress=False)
    predictions, truths = [], []
    for i in range(len(val)):
        truth = val.label_map(i)
        views, flips = make_views(val.image(i), found.protocol)
        assert len(views) == (12 if multi_scale else 1)
        predictions.append(step_by_step(model, views, flips, truth.shape, 32, 20).argmax(0).numpy().ravel())
        truths.append(truth.ravel())
    iou, acc, pixel = by_pixel_loop(np.concatenate(predictions), np.concatenate(truths), 6)
    np.testing.assert_allclose(found.scores.IoU, iou, atol=.02)
    np.testing.assert_allclose([found.scores.mIoU, found.scores.mAcc, found.scores.aAcc], [np.nanmean(iou), np.nanmean(acc), pixel], atol=.02)
    assert found.n_images == 4 and found.multi_scale == multi_scale and np.isnan(found.scores.IoU[5])

def test_the_truth_as_prediction_scores_one_hundred(val):
    class Oracle(PatchColours):
        def masks(self, images): return torch.nn.functional.one_hot(self.labels, 6).permute(2, 0, 1)[None].float()
    oracle = Oracle(*scene(60, 90), range(6), patch_size=1, window_size=256, im_size=0)
    for i in range(len(val)):
        truth = val.label_map(i)
        if truth.shape[0] != truth.shape[1]: continue
        oracle.labels = torch.from_numpy(np.where(truth == 255, 0, truth).astype(np.int64))
        oracle.config.window_size = oracle.config.window_stride = truth.shape[0]
        found = evaluate(oracle, type(val)(val.name, val.split, [val.images[i]], [val.labels[i]], val.classes), im_size=0, progress=False)
        assert found.scores.mIoU == found.scores.aAcc == 100

def test_the_protocol_of_the_number_is_kept(model, val):
    found = evaluate(model, val, im_size=40, window_size=24, limit=1, progress=False)
    p = found.record()['protocol']
    assert (p['im_size'], p['window_size'], p['window_stride'], p['max_ratio']) == (40, 24, 24, val.settings.max_ratio)

def test_files_have_the_authors_keys_and_are_plain(model, val, tmp_path):
    found = evaluate(model, val, progress=False)
    paths = found.write(tmp_path/'beside')
    assert [p.name for p in paths] == ['scores_ss.yml', 'eval_ss.json', 'per_class_ss.csv', 'confusion_ss.csv']
    assert sorted(os.listdir(tmp_path/'beside')) == sorted(p.name for p in paths)
    scores = yaml.safe_load(paths[0].read_text())
    assert sorted(scores) == ['cat_iou', 'inference', 'mean_accuracy', 'mean_iou', 'pixel_accuracy']
    assert scores['inference'] == 'single_scale' and scores['mean_iou'] == round(found.scores.mIoU, 2)
    assert len(scores['cat_iou']) == 6 and np.isnan(scores['cat_iou'][5])
    record = json.loads(paths[1].read_text(), parse_constant=pytest.fail)
    assert record['n_images'] == 4 and record['classes'][5]['IoU'] is None and record['unit'] == 'percent'
    rows = list(csv.DictReader(open(paths[2])))
    assert [r['name'] for r in rows] == list(val.classes.names) and rows[5]['IoU'] == ''
    matrix = np.array([row[1:] for row in csv.reader(open(paths[3]))][1:], int)
    assert np.array_equal(matrix, found.confusion.matrix.numpy())

def test_several_views_have_files_of_their_own(model, val, tmp_path):
    names = [p.name for p in evaluate(model, val, limit=1, multi_scale=True, progress=False).write(tmp_path)]
    assert names[0] == 'scores_ms.yml' and yaml.safe_load((tmp_path/names[0]).read_text())['inference'] == 'multi_scale'

def test_baselines_equal_counting_by_hand(folder, val):
    train = load_dataset(folder, 'train')
    labels = np.concatenate([train.label_map(i).ravel() for i in range(len(train))])
    colours = np.concatenate([(train.image(i)//8).reshape(-1, 3) for i in range(len(train))])
    majority = np.bincount(labels[labels != 255]).argmax()
    table = {}
    for colour, label in zip(map(tuple, colours.tolist()), labels.tolist()):
        if label != 255: table.setdefault(colour, [0]*6)[label] += 1
    rule = lambda c: int(np.argmax(table[c])) if c in table else majority
    truths = np.concatenate([val.label_map(i).ravel() for i in range(len(val))])
    guesses = [rule(tuple(c)) for i in range(len(val)) for c in (val.image(i)//8).reshape(-1, 3).tolist()]
    means = np.array([(colours[labels == c]).mean(0) if (labels == c).any() else [1e9]*3 for c in range(6)])
    nearest = [int(((means - c)**2).sum(1).argmin()) for i in range(len(val)) for c in (val.image(i)//8).reshape(-1, 3)]
    found = baselines(train, val)
    for name, guess in (('majority class', np.full_like(truths, majority)), ('colour table', guesses), ('nearest colour', nearest)):
        iou, _, pixel = by_pixel_loop(guess, truths, 6)
        np.testing.assert_allclose(found[name].IoU, iou)
        assert found[name].aAcc == pytest.approx(pixel)

def test_a_limit_takes_the_same_spread_images_each_time():
    assert list(_chosen(100, 4)) == [0, 25, 50, 75] and list(_chosen(3, None)) == [0, 1, 2] == list(_chosen(3, 3))

def test_evaluations_that_mean_nothing_are_refused(model, val):
    with pytest.raises(ValueError, match='a model of 5 classes'): evaluate(PatchColours(*scene(60, 90), SCENE_CLASSES), val, progress=False)
    with pytest.raises(ValueError, match='at least 1'): evaluate(model, val, limit=0, progress=False)

def test_a_folder_that_cannot_be_written_to_is_named(model, val, tmp_path):
    (tmp_path/'file').write_text('')
    with pytest.raises(ValueError, match='choose another'): evaluate(model, val, limit=1, progress=False).write(tmp_path/'file')

def test_named_protocols_are_those_of_the_released_models():
    from types import SimpleNamespace
    from segmenter.datasets import SETTINGS
    def of(dataset, size, window, stride, name, **changes):
        config = SimpleNamespace(im_size=size, window_size=window, window_stride=stride, image_size=window, dataset=dataset)
        p, said = named_protocol(SimpleNamespace(config=config), SimpleNamespace(settings=SETTINGS[dataset]), name, **changes)
        return p.im_size, p.window_size, p.window_stride, p.max_ratio, said
    assert of('ade20k', 512, 512, 512, 'published') == (512, 512, 512, 4, 'published')
    assert of('ade20k', 640, 640, 640, 'published') == (640, 640, 640, 4, 'published')
    assert of('pascal_context', 520, 480, 320, 'published') == (520, 480, 320, 8, 'published')
    assert of('cityscapes', 1024, 768, 512, 'published') == (1024, 768, 512, 2, 'published')
    assert of('ade20k', 640, 640, 640, 'head') == (512, 640, 608, 4, 'head')
    assert of('cityscapes', 1024, 768, 512, 'head') == (1024, 768, 736, 2, 'head')
    assert of('ade20k', 512, 512, 512, 'head', window_stride=512) == (512, 512, 512, 4, 'head, window_stride 512')
    with pytest.raises(KeyError, match='unknown protocol'): of('ade20k', 512, 512, 512, 'mmseg')

def test_the_protocol_has_its_name_in_the_record_and_in_words(model, val):
    found = evaluate(model, val, limit=1, im_size=0, multi_scale=True, progress=False)
    assert found.record()['protocol']['name'] == 'published, im_size 0'
    assert found.describe() == 'short side native, window 32, stride 20, 12 views, ratios 0.5, 0.75, 1, 1.25, 1.5, 1.75 and mirrored (published, im_size 0)'

def test_a_protocol_of_ones_own_is_used_as_it_is(model, val):
    p = Protocol(im_size=44, window_size=24, window_stride=10)
    found = evaluate(model, val, protocol=p, progress=False)
    assert found.protocol == p and found.protocol_name == 'given'

def test_the_counts_of_the_images_add_up_to_the_matrix(model, val):
    found = evaluate(model, val, progress=False)
    right, truth, guess = found.images.parts().sum(1)
    m = found.confusion.matrix.numpy()
    assert np.array_equal(right, m.diagonal()) and np.array_equal(truth, m.sum(1)) and np.array_equal(guess, m.sum(0))
    assert found.images.indices == [0, 1, 2, 3]

def test_meters_see_every_image_once(model, val):
    class Meter:
        seen, reduced = [], 0
        def update(self, prediction, truth): self.seen.append((prediction.shape, truth.shape))
        def all_reduce(self): self.reduced += 1
    meter = Meter()
    evaluate(model, val, meters=[meter], progress=False)
    assert len(meter.seen) == 4 and meter.reduced == 1 and all(a == b for a, b in meter.seen)

def test_memory_does_not_grow_with_the_data_set(model, val):
    import tracemalloc
    from segmenter.boundaries import BoundaryIoU
    from segmenter.sizes import SizeBins
    def peak(n):
        many = replace(val, images=list(val.images)*n, labels=list(val.labels)*n)
        tracemalloc.start()
        evaluate(model, many, meters=[BoundaryIoU(6), SizeBins(6)], progress=False)
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size
    peak(1)
    assert peak(40) - peak(5) < 35*4*1500 # the lists of counts: far less than a label map of 4000 to 6000 bytes

def test_pictures_are_drawn_without_a_screen(model, val):
    import matplotlib
    matplotlib.use('Agg')
    found = evaluate(model, val, progress=False)
    assert len(show_per_class(found).patches) == 5
    assert len(show_samples(model, val, [0, 2]).axes) == 6

# --- long proofs

@pytest.mark.slow
def test_camvids_validation_split_is_measured_whole(shared_data, tmp_path):
    import torch
    from segmenter import create_model
    from segmenter.boundaries import BoundaryIoU
    from segmenter.intervals import bootstrap
    from segmenter.reports import write_report
    from segmenter.sizes import SizeBins
    data = load_dataset('camvid', 'val', shared_data)
    torch.manual_seed(0)
    model = create_model(backbone='vit_tiny_patch16_384', n_classes=11, image_size=352, embed_dim=64, depth=1, n_heads=1, decoder='mask_transformer',
                         decoder_depth=1, dataset='camvid', classes=list(data.classes.names)).eval()
    meters, counted = dict(boundary=BoundaryIoU(11), sizes=SizeBins(11)), ConfusionMatrix(11)
    found = evaluate(model, data, meters=meters.values(), progress=False, each=lambda i, p: counted.update(p.label_map, data.label_map(i)))
    assert found.n_images == 101 and torch.equal(counted.matrix, found.confusion.matrix)
    assert int(found.confusion.matrix.sum()) == sum(int((data.label_map(i) != 255).sum()) for i in range(101))
    right, missed, false, _ = meters['sizes'].counts.sum(1)
    m = found.confusion.matrix
    assert torch.equal(right, m.diagonal()) and torch.equal(right + missed, m.sum(1)) and torch.equal(right + false, m.sum(0))
    alone, blocks = bootstrap(found.images), bootstrap(found.images, block=25)
    assert alone.low < found.scores.mIoU < alone.high and blocks.score == alone.score
    assert len(write_report(found, tmp_path, data, model=model, measured=meters, block=25, n=2)) == 10

def interleaved(ours, theirs, repeats=7):
    "Median of how many times longer the other way takes, both in turn."
    import time
    ours(), theirs()
    ratios = []
    for _ in range(repeats):
        a = time.perf_counter(); ours(); b = time.perf_counter(); theirs(); c = time.perf_counter()
        ratios.append((c - b)/(b - a))
    return float(np.median(ratios))

@pytest.mark.slow
def test_one_count_is_much_faster_than_three_histograms_and_equal():
    k, rng = 150, np.random.default_rng(0)
    truth = torch.from_numpy(np.kron(rng.integers(0, k, (16, 22)), np.ones((32, 31), int))).to(torch.uint8)
    guess = torch.where(torch.rand(truth.shape) < .8, truth, torch.randint(0, k, truth.shape, dtype=torch.uint8))
    truth[:9] = 255
    wide = guess.long() # predictions are kept as int64 there
    def histograms(): # as mmsegmentation counts an image
        keep = truth != 255
        t, p = truth[keep].long(), wide[keep]
        return [torch.histc(x.float(), bins=k, min=0, max=k - 1) for x in (p[p == t], p, t)]
    m = ConfusionMatrix(k).update(guess, truth).matrix
    assert all(torch.equal(a.long(), b) for a, b in zip(histograms(), (m.diagonal(), m.sum(0), m.sum(1))))
    ratio = interleaved(lambda: ConfusionMatrix(k).update(guess, truth), histograms)
    print(f'three histograms / one count: {ratio:.1f}')
    assert ratio > 8 # 15 and more on a quiet machine

@pytest.mark.slow
def test_a_look_up_is_much_faster_than_a_loop_over_classes_and_equal():
    from segmenter.classes import colour, default_palette
    labels, palette = np.kron(np.random.default_rng(0).integers(0, 150, (16, 22)), np.ones((32, 31), int)).astype(np.uint8), default_palette(150)
    def loop():
        picture = np.zeros((*labels.shape, 3), np.uint8)
        for c in range(150): picture[labels == c] = palette[c]
        return picture
    assert np.array_equal(colour(labels, palette), loop())
    ratio = interleaved(lambda: colour(labels, palette), loop)
    print(f'a loop over classes / a look-up: {ratio:.1f}')
    assert ratio > 15

import csv
import json
import os
import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from step_by_step import step_by_step
from test_metrics import by_pixel_loop
from segmenter.datasets import load_dataset
from segmenter.evaluate import _chosen, baselines, evaluate, show_per_class, show_samples
from segmenter.patches import SCENE_CLASSES, scene
from segmenter.predict import make_views
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

def test_pictures_are_drawn_without_a_screen(model, val):
    import matplotlib
    matplotlib.use('Agg')
    found = evaluate(model, val, progress=False)
    assert len(show_per_class(found).patches) == 5
    assert len(show_samples(model, val, [0, 2]).axes) == 6

import numpy as np
import pytest
import torch
from segmenter.metrics import ConfusionMatrix

def by_pixel_loop(prediction, target, n_classes, ignore_index=255):
    "The definitions, one pixel at a time."
    both, guess, true, right, seen = [0]*n_classes, [0]*n_classes, [0]*n_classes, 0, 0
    for p, t in zip(np.ravel(prediction).tolist(), np.ravel(target).tolist()):
        if t == ignore_index: continue
        both[t] += p == t; guess[p] += 1; true[t] += 1; right += p == t; seen += 1
    iou = [100*b/(g + t - b) if g + t else float('nan') for b, g, t in zip(both, guess, true)]
    acc = [100*b/t if t else float('nan') for b, t in zip(both, true)]
    return iou, acc, 100*right/seen

@pytest.mark.parametrize('n_classes, seed', [(2, 0), (5, 1), (19, 2), (150, 3)])
def test_scores_equal_a_loop_over_pixels(n_classes, seed):
    rng = np.random.default_rng(seed)
    confusion, predictions, targets = ConfusionMatrix(n_classes), [], []
    for shape in (31, 17), (20, 45):
        target = rng.integers(0, n_classes - n_classes//4, shape).astype(np.uint8)
        prediction = np.where(rng.random(shape) < .6, target, rng.integers(0, n_classes, shape)).astype(np.uint8)
        target[rng.random(shape) < .1] = 255
        confusion.update(prediction, target)
        predictions.append(prediction.ravel()); targets.append(target.ravel())
    iou, acc, pixel = by_pixel_loop(np.concatenate(predictions), np.concatenate(targets), n_classes)
    scores = confusion.compute()
    np.testing.assert_allclose(scores.IoU, iou, rtol=1e-12)
    np.testing.assert_allclose(scores.Acc, acc, rtol=1e-12)
    np.testing.assert_allclose([scores.aAcc, scores.mIoU, scores.mAcc], [pixel, np.nanmean(iou), np.nanmean(acc)], rtol=1e-12)

def test_void_pixels_do_not_count():
    clean = ConfusionMatrix(4).update([0, 1, 2], [0, 1, 1])
    with_void = ConfusionMatrix(4).update([0, 1, 2, 3, 0], [0, 1, 1, 255, 255])
    assert torch.equal(clean.matrix, with_void.matrix)

def test_another_ignore_index_is_honoured():
    assert int(ConfusionMatrix(3, ignore_index=-1).update([0, 1], [-1, 1]).matrix.sum()) == 1
    assert ConfusionMatrix(3, ignore_index=0).update([1, 2], [0, 2]).compute().aAcc == 100

def test_absent_classes_are_nan_and_skipped_and_imagined_ones_count_as_zero():
    scores = ConfusionMatrix(4).update([0, 0, 2], [0, 0, 0]).compute()
    assert np.isnan(scores.IoU[[1, 3]]).all() and scores.IoU[2] == 0 and np.isnan(scores.Acc[2])
    assert scores.mIoU == pytest.approx(100/3) and scores.mAcc == pytest.approx(200/3)

def test_an_all_void_label_map_gives_nan_without_a_warning(recwarn):
    scores = ConfusionMatrix(3).update(np.zeros((4, 4), np.uint8), np.full((4, 4), 255, np.uint8)).compute()
    assert np.isnan([scores.aAcc, scores.mAcc, scores.mIoU]).all() and not recwarn.list

@pytest.mark.parametrize('make', [np.asarray, torch.as_tensor])
@pytest.mark.parametrize('dtype', ['uint8', 'int16', 'int32', 'int64'])
def test_every_integer_type_counts_the_same(make, dtype):
    labels = make(np.array([[0, 1, 200], [200, 100, 255]]).astype(dtype))
    assert int(ConfusionMatrix(201).update(labels*(labels != 255), labels).matrix.sum()) == 5

def test_parts_add_up_to_the_whole_and_stay_as_they_were():
    rng = np.random.default_rng(0)
    prediction, target = rng.integers(0, 7, (2, 2, 30))
    whole, parts = ConfusionMatrix(7).update(prediction, target), [ConfusionMatrix(7).update(p, t) for p, t in zip(prediction, target)]
    before = parts[0].matrix.clone()
    assert torch.equal((parts[0] + parts[1]).matrix, whole.matrix) and torch.equal(parts[0].matrix, before)
    assert torch.equal(parts[0].merge(parts[1]).matrix, whole.matrix)

def test_one_class_can_be_counted_and_none_cannot():
    assert ConfusionMatrix(1).update([0, 0], [0, 255]).compute().mIoU == 100
    with pytest.raises(ValueError, match='0 classes: give at least 1'): ConfusionMatrix(0)

def test_one_process_is_the_first_of_one():
    from segmenter.metrics import rank_and_world
    assert rank_and_world() == (0, 1)

def test_counts_of_other_processes_are_added_where_they_lie_and_ours_stay(monkeypatch):
    from segmenter import metrics
    monkeypatch.setattr(metrics, 'rank_and_world', lambda: (0, 2))
    monkeypatch.setattr(torch.distributed, 'get_backend', lambda: 'gloo')
    monkeypatch.setattr(torch.distributed, 'all_reduce', lambda counts: counts.add_(10))
    ours = torch.arange(4)
    assert metrics.sum_over_processes(ours).tolist() == [10, 11, 12, 13] and ours.tolist() == [0, 1, 2, 3]

@pytest.mark.parametrize('n_classes', [1, 256])
def test_bytes_never_take_the_long_way(monkeypatch, n_classes):
    from segmenter import metrics
    monkeypatch.setattr(metrics, '_count', None)
    labels = np.arange(n_classes, dtype=np.uint8)
    assert ConfusionMatrix(n_classes, ignore_index=-1).update(labels, labels).matrix.diagonal().tolist() == [1]*n_classes

def test_the_most_confused_pairs_are_shares_of_the_true_class_and_of_all_errors():
    from segmenter.metrics import most_confused
    counts = ConfusionMatrix(3)
    counts.matrix += torch.tensor([[10, 0, 5], [1, 20, 0], [0, 0, 7]]) # truth down, prediction across
    assert most_confused(counts) == [(0, 2, 5, pytest.approx(100*5/15), pytest.approx(100*5/6)), (1, 0, 1, pytest.approx(100/21), pytest.approx(100/6))]
    assert most_confused(counts, 1) == most_confused(counts)[:1] and counts.matrix.diagonal().tolist() == [10, 20, 7]

def test_large_counts_are_exact():
    confusion = ConfusionMatrix(2)
    confusion.matrix += 2**53
    assert int(confusion.update([0], [0]).matrix[0, 0]) == 2**53 + 1

@pytest.mark.parametrize('prediction, target, says', [
    ([3], [0], 'prediction holds 1 pixels outside 0 to 2, for instance 3'), ([-1], [0], 'outside'),
    ([0], [9], 'label map holds 1 pixels outside 0 to 2, for instance 9'), ([3], [255], 'prediction'),
    ([0, 1], [0], 'shape'), ([.5], [0], 'argmax')])
def test_wrong_labels_are_refused_and_nothing_is_counted(prediction, target, says):
    confusion = ConfusionMatrix(3)
    with pytest.raises(ValueError, match=says): confusion.update(torch.tensor(prediction), torch.tensor(target))
    assert int(confusion.matrix.sum()) == 0

@pytest.mark.parametrize('n_classes, ignore_index', [(3, 255), (3, 0), (3, 1), (3, -1), (200, 255), (256, -1), (256, 300), (256, 7)])
def test_bytes_and_wider_labels_count_the_same(n_classes, ignore_index):
    rng = np.random.default_rng(0)
    guess, truth = rng.integers(0, n_classes, (2, 40, 50)).astype(np.uint8)
    if n_classes <= ignore_index < 256: truth[:5] = ignore_index
    narrow, wide = (ConfusionMatrix(n_classes, ignore_index).update(guess.astype(t), truth.astype(t)) for t in (np.uint8, np.int64))
    assert torch.equal(narrow.matrix, wide.matrix) and int(wide.matrix.sum()) == (truth != ignore_index).sum()

@pytest.mark.parametrize('prediction, target', [([3], [0]), ([0], [9]), ([3], [255])])
def test_bytes_outside_the_class_list_are_refused_too(prediction, target):
    confusion = ConfusionMatrix(3)
    with pytest.raises(ValueError, match='outside 0 to 2'): confusion.update(np.uint8(prediction), np.uint8(target))
    assert int(confusion.matrix.sum()) == 0

@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
def test_labels_on_a_gpu_count_the_same():
    labels = torch.arange(6).view(2, 3)
    assert torch.equal(ConfusionMatrix(6).update(labels.cuda(), labels).matrix, torch.eye(6, dtype=torch.int64))

def test_the_heat_map_shows_the_classes_with_most_errors_and_none_that_never_occurs():
    import matplotlib
    matplotlib.use('Agg')
    from segmenter.classes import ClassList
    from segmenter.metrics import show_confusion
    counts = ConfusionMatrix(6).update([0, 0, 1, 2, 2, 3], [0, 1, 1, 3, 3, 3])
    names = lambda ax: [t.get_text() for t in ax.get_yticklabels()]
    assert names(show_confusion(counts, ClassList(list('abcdef')))) == list('abcd') # e and f never occur
    ax = show_confusion(counts, ClassList(list('abcdef')), n=2)
    assert names(ax) == ['c', 'd'] and ax.images[0].get_array().tolist() == [[0, 0], [2/3, 1/3]]

"mIoU by object size against scipy's components and loops."
import numpy as np
import pytest
import torch
from segmenter.metrics import ConfusionMatrix
from segmenter.sizes import COCO_EDGES, SizeBins, components

ndimage = pytest.importorskip('scipy.ndimage')
EDGES = (9, 40)

def maps(seed, shape=(40, 60), k=3):
    rng = np.random.default_rng(seed)
    field = np.stack([ndimage.gaussian_filter(rng.standard_normal(shape), 1.6) for _ in range(k)])
    noise = .6*np.stack([ndimage.gaussian_filter(rng.standard_normal(shape), 1.6) for _ in range(k)])
    truth, guess = field.argmax(0), (field + noise).argmax(0)
    truth[:, -7:][rng.random((shape[0], 7)) < .5] = 255
    return guess, truth

def by_loops(guess, truth, k, edges, void=255):
    "The definition, object by object and region by region."
    guess = np.where(truth == void, void, guess)
    counts, bin_of = np.zeros((4, len(edges) + 1, k), int), lambda area: sum(area >= e for e in edges)
    for c in range(k):
        objects, n = ndimage.label(truth == c, np.ones((3, 3)))
        regions, m = ndimage.label(guess == c, np.ones((3, 3)))
        for o in range(1, n + 1):
            mask, b = objects == o, bin_of((objects == o).sum())
            counts[0, b, c] += (mask & (guess == c)).sum()
            counts[1, b, c] += (mask & (guess != c)).sum()
            counts[3, b, c] += 1
        for r in range(1, m + 1):
            mask = regions == r
            overlaps = [(objects[mask] == o).sum() for o in range(1, n + 1)]
            if n and max(overlaps): b = bin_of((objects == 1 + int(np.argmax(overlaps))).sum())
            else: b = bin_of(mask.sum())
            counts[2, b, c] += (mask & (truth != c)).sum()
    return counts

@pytest.mark.parametrize('seed', range(6))
def test_counts_equal_the_definition_by_loops(seed):
    guess, truth = maps(seed)
    found = SizeBins(3, edges=EDGES).update(guess, truth)
    assert np.array_equal(found.counts.numpy(), by_loops(guess, truth, 3, EDGES))

@pytest.mark.parametrize('seed', range(6))
def test_the_bins_add_up_to_the_confusion_matrix(seed):
    guess, truth = maps(seed)
    m, (right, missed, false, _) = ConfusionMatrix(3).update(guess, truth).matrix, SizeBins(3, edges=EDGES).update(guess, truth).counts.sum(1)
    assert torch.equal(right, m.diagonal()) and torch.equal(right + missed, m.sum(1)) and torch.equal(right + false, m.sum(0))

def test_components_are_those_of_scipy():
    truth = maps(0)[1]
    ids, classes, areas = components(truth)
    assert (ids == 0).sum() == areas[0] == (truth == 255).sum()
    total = 0
    for c in range(3):
        labels, n = ndimage.label(truth == c, np.ones((3, 3)))
        assert (classes[1:] == c).sum() == n
        for o in range(1, n + 1):
            mine = np.unique(ids[labels == o])
            assert len(mine) == 1 and classes[mine[0]] == c and areas[mine[0]] == (labels == o).sum()
        total += n
    assert len(areas) == total + 1 == ids.max() + 1

@pytest.mark.parametrize('area, name', [(1, 'small'), (32**2 - 1, 'small'), (32**2, 'medium'), (96**2 - 1, 'medium'), (96**2, 'large')])
def test_a_bin_begins_at_its_edge(area, name):
    truth = np.full((100, 100), 255)
    truth.flat[:area] = 0
    scores = SizeBins(1).update(np.zeros_like(truth), truth).compute()
    assert scores.objects[:, 0].tolist() == [int(n == name) for n in scores.names] and COCO_EDGES == (1024, 9216)

def test_an_invention_falls_into_the_bin_of_its_own_size_and_a_sloppy_region_into_its_objects():
    truth, guess = np.zeros((30, 30), int), np.zeros((30, 30), int)
    truth[2:5, 2:5] = 1; guess[2:9, 2:9] = 1 # an object of 9 pixels, found as 49
    guess[20:28, 20:28] = 1 # 64 pixels nobody asked for
    counts = SizeBins(2, edges=(10, 60)).update(guess, truth).counts[:, :, 1]
    assert counts.tolist() == [[9, 0, 0], [0, 0, 0], [40, 0, 64], [1, 0, 0]]

def test_images_add_and_absent_classes_are_nan():
    a, b = SizeBins(4).update(*maps(0)), SizeBins(4).update(*maps(1))
    both = SizeBins(4).update(*maps(0)).update(*maps(1))
    assert torch.equal(a.merge(b).counts, both.counts) and np.isnan(both.compute().IoU[:, 3]).all()

def test_nothing_but_void_gives_nan_without_a_warning(recwarn):
    scores = SizeBins(2).update(np.zeros((4, 4), int), np.full((4, 4), 255)).compute()
    assert np.isnan(scores.mIoU).all() and scores.objects.sum() == 0 and not recwarn.list

@pytest.mark.parametrize('edges', [(), (0,), (5, 5), (9, 4)])
def test_edges_that_mean_nothing_are_refused(edges):
    with pytest.raises(ValueError, match='bin edges'): SizeBins(2, edges=edges)

def test_wrong_labels_are_refused():
    with pytest.raises(ValueError, match='outside'): SizeBins(2).update(np.array([[2]]), np.array([[0]]))

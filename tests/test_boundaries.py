"Boundary IoU against masks, one class and one erosion at a time, and against distances by scipy."
import numpy as np
import pytest
import torch
from segmenter.boundaries import BoundaryIoU, boundary_band, boundary_width

ndimage = pytest.importorskip('scipy.ndimage')

def band_of_mask(mask, width):
    "Cheng et al.: a frame of zeros, erosions by 3×3, what fell away; here by scipy."
    framed = np.pad(mask, 1)
    return mask & ~ndimage.binary_erosion(framed, np.ones((3, 3)), iterations=width)[1:-1, 1:-1]

def maps(seed, shape=(37, 53), n_classes=4, void=True):
    "Blobs, with void in one of them."
    rng = np.random.default_rng(seed)
    smooth = np.stack([ndimage.gaussian_filter(rng.standard_normal(shape), 4) for _ in range(n_classes)])
    truth, guess = smooth.argmax(0), (smooth + .15*np.stack([ndimage.gaussian_filter(rng.standard_normal(shape), 3) for _ in range(n_classes)])).argmax(0)
    if void: truth[rng.integers(5, 20):, 40:] = 255
    return guess.astype(np.uint8), truth.astype(np.uint8)

@pytest.mark.parametrize('seed', range(4))
@pytest.mark.parametrize('width', [1, 3, 8, 40])
def test_one_erosion_of_the_labels_is_an_erosion_of_every_mask(seed, width):
    labels = maps(seed)[1]
    one_by_one = np.zeros(labels.shape, bool)
    for c in np.unique(labels): one_by_one |= band_of_mask(labels == c, width)
    assert np.array_equal(boundary_band(labels, width), one_by_one)

def test_a_band_is_what_is_near_in_the_larger_coordinate():
    labels = maps(0, void=False)[1]
    found = boundary_band(labels, 5)
    for c in np.unique(labels):
        inside = np.pad(labels == c, 1)
        distance = ndimage.distance_transform_cdt(inside, 'chessboard')[1:-1, 1:-1]
        assert np.array_equal(found[labels == c], (distance <= 5)[labels == c])

@pytest.mark.parametrize('ratio', [.02, .05, .2])
def test_scores_equal_the_definition_over_several_images(ratio):
    meter, both, union = BoundaryIoU(4, ratio=ratio), np.zeros(4), np.zeros(4)
    for seed in range(3):
        guess, truth = maps(seed)
        meter.update(guess, truth)
        known, width = truth != 255, boundary_width(*truth.shape, ratio)
        for c in range(4):
            g, p = band_of_mask(truth == c, width), band_of_mask((guess == c) & known, width)
            both[c] += (g & p).sum(); union[c] += (g | p).sum()
    np.testing.assert_allclose(meter.compute().IoU, 100*both/union)
    assert meter.compute().mIoU == pytest.approx((100*both/union).mean())

def test_a_perfect_prediction_scores_one_hundred_with_void_or_without():
    for void in (False, True):
        truth = maps(1, void=void)[1]
        assert BoundaryIoU(4).update(np.where(truth == 255, 0, truth), truth).compute().mIoU == 100

def test_a_band_as_wide_as_the_image_is_plain_iou():
    from segmenter.metrics import ConfusionMatrix
    guess, truth = maps(2)
    np.testing.assert_allclose(BoundaryIoU(4, ratio=.99).update(guess, truth).compute().IoU, ConfusionMatrix(4).update(guess, truth).compute().IoU)

def test_the_width_is_two_percent_of_the_diagonal_and_at_least_one():
    assert [boundary_width(*s) for s in ((480, 640), (1024, 2048), (1, 1), (30, 40))] == [16, 46, 1, 1]

def test_absent_classes_are_nan_and_torch_labels_count_the_same():
    guess, truth = maps(3)
    a, b = BoundaryIoU(6).update(guess, truth), BoundaryIoU(6).update(torch.from_numpy(guess), torch.from_numpy(truth))
    assert np.isnan(a.compute().IoU[4:]).all() and torch.equal(a.counts, b.counts)
    assert torch.equal(BoundaryIoU(6).merge(a).merge(b).counts, 2*a.counts)

def test_nothing_but_void_gives_nan_without_a_warning(recwarn):
    assert np.isnan(BoundaryIoU(3).update(np.zeros((5, 5), int), np.full((5, 5), 255)).compute().mIoU) and not recwarn.list

@pytest.mark.parametrize('guess, truth, says', [([[3]], [[0]], 'outside'), ([[0]], [[9]], 'outside'), ([[0, 1]], [[0]], 'shape')])
def test_wrong_labels_are_refused_and_nothing_is_counted(guess, truth, says):
    meter = BoundaryIoU(3)
    with pytest.raises(ValueError, match=says): meter.update(np.array(guess), np.array(truth))
    assert int(meter.counts.sum()) == 0

@pytest.mark.parametrize('labels, width, says', [(np.zeros((3, 3), int), 0, 'at least 1'), (np.full((3, 3), 70000), 1, 'expected -1'), (np.full((3, 3), -2), 1, 'expected -1')])
def test_bands_that_mean_nothing_are_refused(labels, width, says):
    with pytest.raises(ValueError, match=says): boundary_band(labels, width)

@pytest.mark.slow
def test_all_classes_at_once_are_faster_than_one_by_one():
    import time
    import cv2
    labels = np.kron(np.random.default_rng(0).integers(0, 150, (12, 16)), np.ones((43, 43), int)).astype(np.uint8)
    square = np.ones((35, 35), np.uint8)
    def one_by_one():
        return sum((labels == c) & (cv2.erode((labels == c).astype(np.uint8), square, borderType=cv2.BORDER_CONSTANT, borderValue=0) == 0) for c in range(150)).astype(bool)
    ratios = []
    for _ in range(5):
        a = time.perf_counter(); x = boundary_band(labels, 17); b = time.perf_counter(); y = one_by_one(); c = time.perf_counter()
        ratios.append((c - b)/(b - a))
    assert np.array_equal(x, y) and np.median(ratios) > 5

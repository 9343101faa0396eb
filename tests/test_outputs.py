import io
import numpy as np
import pytest
from PIL import Image
from segmenter.classes import ClassList
from segmenter.outputs import annotated, confidence_png, contours, label_png, legend_picture, palette_png, statistics
from segmenter.patches import SCENE_CLASSES, scene

IMAGE, TRUTH = scene(90, 130)
NAMES = ClassList([*SCENE_CLASSES, 'boat'])

def test_outlines_are_where_a_loop_finds_them():
    labels = np.random.default_rng(0).integers(0, 3, (9, 11))
    expected = np.zeros(labels.shape, bool)
    for y in range(9):
        for x in range(11):
            for v, u in ((y + 1, x), (y, x + 1)):
                if v < 9 and u < 11 and labels[v, u] != labels[y, x]: expected[y, x] = True
    assert np.array_equal(contours(labels), expected)
    assert not contours(np.zeros((1, 1), int)).any() and contours(labels, 3).sum() >= expected.sum()

def test_statistics_count_pixels_and_leave_void_out():
    labels = np.array([[0, 0, 3], [255, 3, 3]])
    facts = statistics(labels, NAMES)
    assert [(c['id'], c['pixels'], c['share']) for c in facts['classes']] == [(3, 3, .5), (0, 2, round(2/6, 6))]

@pytest.mark.parametrize('height', [1, 10, 60, 2000])
def test_a_legend_fits_any_height(height):
    panel = legend_picture(NAMES, range(6), height)
    assert panel.shape[0] == height and panel.shape[2] == 3

def test_a_legend_shows_the_colours_of_the_classes_that_occur_and_no_others():
    panel = legend_picture(NAMES, [1, 4], 300).reshape(-1, 3)
    shown = {i for i in range(6) if (panel == NAMES.palette[i]).all(1).any()}
    assert shown == {1, 4}

def test_void_is_neither_tinted_nor_listed():
    labels = np.full(TRUTH.shape, 255, np.uint8)
    assert np.array_equal(annotated(IMAGE, labels, NAMES), IMAGE)
    assert annotated(IMAGE, labels, NAMES, legend=True).shape[0] == 90

@pytest.mark.parametrize('dtype, mode', [(np.uint8, 'L'), (np.int16, 'I;16')])
def test_ids_read_back(dtype, mode):
    f, labels = io.BytesIO(), TRUTH.astype(dtype)
    label_png(f, labels)
    assert Image.open(f).mode == mode and np.array_equal(np.array(Image.open(f)), labels)

def test_wide_label_maps_become_plain_colours():
    f, wide = io.BytesIO(), ClassList([str(i) for i in range(300)], ignore_index=-1)
    palette_png(f, np.full((2, 3), 299, np.int16), wide)
    assert np.array_equal(np.array(Image.open(f))[0, 0], wide.palette[299])

@pytest.mark.parametrize('bits', [8, 16])
def test_confidence_keeps_the_digits_its_bits_hold(bits):
    f, values = io.BytesIO(), np.random.default_rng(0).random((5, 7)).astype(np.float32)
    confidence_png(f, values, bits)
    np.testing.assert_allclose(np.array(Image.open(f))/(2**bits - 1), values, atol=.51/(2**bits - 1))

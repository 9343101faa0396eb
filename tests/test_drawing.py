"Palettes, error maps, figures."
import matplotlib
matplotlib.use('Agg')
import matplotlib.pyplot as plt
import numpy as np, pytest
from segmenter.classes import ClassList, class_list, colour, default_palette
from segmenter.drawing import (DIFFERENCES, ERRORS, alt_text, as_seen, difference_map, error_map, figure_style, palette_gap, recoloured, safe_palette,
                               show_maps, show_shares)
from segmenter.outputs import annotated

@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close('all')

@pytest.mark.parametrize('k', [1, 2, 7, 8, 19, 21, 150])
def test_safe_colours_are_all_different_and_none_is_black(k):
    palette = safe_palette(k)
    assert palette.shape == (k, 3) and palette.dtype == np.uint8 and len(np.unique(palette, axis=0)) == k and palette.sum(1).min() > 0

@pytest.mark.parametrize('k', [7, 11, 17, 19, 59])
def test_safe_colours_are_farther_apart_than_hues(k): assert palette_gap(safe_palette(k)) > palette_gap(default_palette(k)) + 3

def test_more_classes_keep_the_colours_of_fewer(): assert (safe_palette(40)[:12] == safe_palette(12)).all()

@pytest.mark.parametrize('k', [0, -1, 501])
def test_a_number_of_colours_without_a_palette_is_refused(k):
    with pytest.raises(ValueError, match='give 1 to 500'): safe_palette(k)

@pytest.mark.parametrize('eye', ['protan', 'deutan', 'tritan'])
def test_black_and_white_look_the_same_to_every_eye(eye):
    ends = np.array([[0, 0, 0], [255, 255, 255]], np.uint8)
    assert np.abs(as_seen(ends, eye).astype(int) - ends).max() <= 1

def test_red_and_green_of_one_lightness_are_closer_to_a_deutan():
    pair = np.array([[200, 60, 40], [90, 120, 40]], np.uint8)
    apart = lambda p: np.abs(p[0].astype(int) - p[1]).sum()
    assert apart(as_seen(pair, 'deutan')) < apart(pair)/2

def test_a_picture_keeps_its_shape(): assert as_seen(np.zeros((4, 5, 3), np.uint8), 'tritan').shape == (4, 5, 3)

def test_recolouring_keeps_names_and_void():
    classes = ClassList(['a', 'b'], ignore_index=7)
    assert recoloured(classes).names == ('a', 'b') and recoloured(classes).ignore_index == 7

def test_the_colours_for_errors_are_safe_themselves(): assert palette_gap(DIFFERENCES.palette) > 20 and palette_gap(ERRORS.palette) > 20

def test_error_map_agrees_with_a_loop():
    rng = np.random.default_rng(0)
    truth, said = rng.integers(0, 4, (9, 7)), rng.integers(0, 4, (9, 7))
    truth[0] = 255
    found = error_map(said, truth)
    for y in range(9):
        for x in range(7): assert found[y, x] == (255 if truth[y, x] == 255 else int(said[y, x] != truth[y, x]))

def test_difference_map_agrees_with_two_error_maps():
    rng = np.random.default_rng(1)
    truth, a, b = (rng.integers(0, 3, (8, 8)) for _ in range(3))
    truth[2, 2] = 254
    found, one, two = difference_map(a, b, truth, 254), error_map(a, truth, 254), error_map(b, truth, 254)
    assert ((found == 0) == ((one == 0) & (two == 0))).all() and ((found == 3) == ((one == 1) & (two == 1))).all()
    assert ((found == 1) == ((one == 0) & (two == 1))).all() and found[2, 2] == 255

def test_error_maps_are_drawn_by_the_functions_for_label_maps():
    image = np.full((40, 40, 3), 100, np.uint8)
    picture = annotated(image, error_map(np.ones((40, 40), int), np.zeros((40, 40), int)), ERRORS, 1., legend=True)
    assert (picture[:, :40] == ERRORS.palette[1]).all() and picture.shape[1] > 40

def test_wrong_sizes_are_refused():
    with pytest.raises(ValueError, match='do not match'): difference_map(np.zeros((2, 2)), np.zeros((2, 2)), np.zeros((2, 3)))

def test_shares_leave_void_out_and_absent_classes_away():
    ax = show_shares({'truth': np.array([[0, 0, 2, 255]])}, ClassList(['a', 'b', 'c']))
    assert [t.get_text() for t in ax.get_yticklabels()] == ['a', 'c']
    assert [b.get_width() for b in ax.containers[0]] == pytest.approx([200/3, 100/3])

def test_shares_of_an_id_without_class_are_refused():
    with pytest.raises(ValueError, match='truth'): show_shares({'truth': np.array([[9]])}, ClassList(['a']))

def test_all_maps_share_one_scale():
    fig = show_maps([np.zeros((3, 3)), np.ones((3, 3))*9], ['a', 'b'], 0, 10)
    assert {ax.images[0].get_clim() for ax in fig.axes[:2]} == {(0, 10)}
    with pytest.raises(ValueError, match='2 maps and 1 names'): show_maps([np.zeros((3, 3))]*2, ['a'], 0, 1)

@pytest.mark.parametrize('dark', [False, True])
def test_the_style_ends_with_its_block(dark):
    before = dict(plt.rcParams)
    with pytest.raises(RuntimeError):
        with figure_style(dark):
            assert (sum(matplotlib.colors.to_rgb(plt.rcParams['figure.facecolor'])) < 1) == dark
            raise RuntimeError
    assert dict(plt.rcParams) == before

def test_words_for_a_label_map():
    classes = class_list('camvid')
    assert alt_text(np.zeros((2, 3), np.uint8), classes) == 'Label map of 3×2 pixels: sky 100 %.'
    said = alt_text(np.arange(11, dtype=np.uint8).reshape(1, 11), classes, most=9)
    assert said.endswith('2 more classes.')

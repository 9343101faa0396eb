"What guards the class lists and the checks of label maps."
import subprocess, sys
import numpy as np, pytest
from segmenter.classes import (ClassList, check_label_map, class_list, colour, default_palette, import_mmseg,
    legend_handles, overlay, read_classes, show_legend)
from segmenter.guards import UnknownName

NAMES = dict(ade20k=150, pascal_context=60, cityscapes=19, camvid=11, landcover=17)

def test_importing_the_module_imports_neither_mmseg_nor_matplotlib_nor_torch():
    code = "import sys, segmenter.classes; assert not {'mmseg', 'mmcv', 'cv2', 'matplotlib', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, '-c', code], check=True)

@pytest.mark.parametrize('name, n', NAMES.items())
def test_every_known_list_has_its_classes_in_distinct_names(name, n):
    classes = class_list(name)
    assert len(classes) == classes.n_classes == len(set(classes.names)) == n
    assert classes.palette.shape == (n, 3) and classes.palette.dtype == np.uint8 and classes.ignore_index == 255
    assert all(c == c.strip() for c in classes.names)

@pytest.mark.parametrize('name', ['ade20k', 'pascal_context', 'cityscapes'])
def test_the_papers_lists_are_mmsegs(name):
    kind = dict(ade20k='ADE20KDataset', pascal_context='PascalContextDataset', cityscapes='CityscapesDataset')[name]
    info = getattr(import_mmseg('datasets'), kind).METAINFO
    assert class_list(name).palette.tolist() == [list(c) for c in info['palette']]
    assert list(class_list(name).names) == [c.strip() for c in info['classes']]

def test_the_colours_of_the_land_cover_differ_visibly():
    palette = class_list('landcover').palette.astype(int)
    distance = np.abs(palette[:, None] - palette[None]).sum(-1) + 999*np.eye(17, dtype=int)
    assert distance.min() > 40

def test_an_unknown_list_offers_the_nearest():
    with pytest.raises(UnknownName, match='ade20k'): class_list('ade20')

@pytest.mark.parametrize('n', [1, 2, 19, 150, 1000])
def test_generated_palettes_have_no_twins_and_no_black(n):
    palette = default_palette(n)
    assert palette.shape == (n, 3) and len(np.unique(palette, axis=0)) == n and palette.max(1).min() > 0
    assert (default_palette(n + 5)[:n] == palette).all()

def test_a_real_compiled_extension_is_left_in_place(monkeypatch):
    import_mmseg()
    real = object()
    monkeypatch.setitem(sys.modules, 'mmcv._ext', real)
    import_mmseg()
    assert sys.modules['mmcv._ext'] is real

def test_a_class_list_cannot_be_changed():
    with pytest.raises(AttributeError): ClassList(['a']).names = ('b',)

@pytest.mark.parametrize('dtype', [np.uint8, np.int16, np.uint16, np.int32, np.int64])
def test_ids_outside_are_counted_in_every_integer_type(dtype):
    ids = np.array([[0, 1, 3, 3], [2, 255, 9, 254]], dtype)
    with pytest.raises(ValueError, match=r'x\.png: .*3 classes: 3 \(2 pixels\), 9 \(1 pixels\), 254 \(1 pixels\)'):
        check_label_map(ids, 3, source='x.png')
    ids[ids == 3], ids[ids == 9], ids[ids == 254] = 0, 255, 255
    assert check_label_map(ids, 3) is ids

def test_negative_ids_are_refused_unless_void_is_negative():
    ids = np.array([[-1, 0]])
    with pytest.raises(ValueError, match=r'-1 \(1 pixels\)'): check_label_map(ids, 2)
    check_label_map(ids, 2, ignore_index=-1)
    assert colour(ids, [[1, 2, 3], [4, 5, 6]], -1).tolist() == [[[0, 0, 0], [1, 2, 3]]]

@pytest.mark.parametrize('ids', [np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2)), np.zeros(4, int)])
def test_what_is_no_label_map_is_refused(ids):
    with pytest.raises(ValueError, match='one integer id a pixel'): check_label_map(ids, 2)

def test_more_than_255_classes_can_be_drawn():
    ids = np.arange(300).reshape(1, -1)
    assert (colour(ids, default_palette(300), ignore_index=-1)[0] == default_palette(300)).all()

def test_an_overlay_of_void_is_the_image():
    image = np.random.default_rng(0).integers(0, 256, (4, 5, 3), np.uint8)
    assert (overlay(image, np.full((4, 5), 255), default_palette(2), .9) == image).all()

def test_blank_lines_and_windows_line_ends_are_no_classes(tmp_path):
    (tmp_path/'codes.txt').write_bytes(b'cat\r\n\r\n dog \r\n')
    assert read_classes(tmp_path/'codes.txt').names == ('cat', 'dog')

def test_a_legend_names_what_is_present_in_the_given_order():
    import matplotlib
    matplotlib.use('Agg')
    classes = class_list('camvid')
    assert [h.get_label() for h in legend_handles(classes, np.array([8, 0, 255]))] == ['car', 'sky']
    assert len(show_legend(None, classes).get_texts()) == 11

@pytest.mark.parametrize('dtype', [np.uint8, np.int16, np.int64])
@pytest.mark.parametrize('n_classes, ignore_index', [(150, 255), (256, 255), (3, 0), (5, 7), (5, -1)])
def test_a_look_up_paints_what_a_loop_over_classes_paints(n_classes, ignore_index, dtype):
    labels = np.random.default_rng(0).integers(0, n_classes, (40, 50)).astype(dtype)
    if 0 <= ignore_index or dtype != np.uint8: labels[:5] = ignore_index
    palette, expected = default_palette(n_classes), np.zeros((40, 50, 3), np.uint8)
    for c in range(n_classes): expected[labels == c] = palette[c]
    expected[labels == ignore_index] = 0
    assert np.array_equal(colour(labels, palette, ignore_index), expected)

import json, subprocess, sys
import numpy as np
import pytest
import torch
from PIL import Image
from segmenter.large_images import label_bands, open_rows, predict_large
from segmenter.model import create_model
from segmenter.patches import SCENE_CLASSES, scene
from segmenter.predict import predict
from segmenter.windows import PatchColours

IMAGE, TRUTH = scene(150, 210)

@pytest.fixture(scope='module')
def model():
    torch.manual_seed(0)
    return create_model(backbone='vit_tiny_patch16_384', embed_dim=64, depth=1, n_heads=1, n_classes=7, image_size=64, im_size=64,
                        window_size=64, window_stride=48)

@pytest.mark.parametrize('window, stride', [(64, 64), (64, 48), (64, 17), (35, 20), (150, 150), (200, 100)])
@pytest.mark.parametrize('size', [(150, 210), (210, 150), (64, 64), (1, 7)])
def test_labels_are_those_of_the_whole_image(model, tmp_path, window, stride, size):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    path = predict_large(model, image, tmp_path/'x.npy', window_size=window, window_stride=stride, window_batch=3)
    whole = predict(model, image, im_size=0, window_size=window, window_stride=stride).label_map
    assert np.load(path).dtype == np.uint8 and (np.load(path) == whole).mean() > .9999

def test_rows_come_from_any_source(tmp_path):
    np.save(tmp_path/'a.npy', IMAGE)
    Image.fromarray(IMAGE).save(tmp_path/'a.png')
    Image.fromarray(IMAGE).save(tmp_path/'a.tif')
    for source in (tmp_path/'a.npy', tmp_path/'a.png', tmp_path/'a.tif', IMAGE, str(tmp_path/'a.npy')):
        with open_rows(source) as rows: assert rows.shape == (150, 210) and np.array_equal(rows.read(40, 60), IMAGE[40:60])

@pytest.mark.parametrize('count, dtype', [(1, 'uint8'), (3, 'uint16'), (4, 'uint8')])
def test_a_geotiff_keeps_its_place(model, tmp_path, count, dtype):
    rasterio = pytest.importorskip('rasterio')
    place = dict(crs='EPSG:32632', transform=rasterio.transform.from_origin(600000, 5300000, 10, 10))
    with rasterio.open(tmp_path/'in.tif', 'w', driver='GTiff', height=150, width=210, count=count, dtype=dtype, tiled=True, blockxsize=64, blockysize=64, **place) as f:
        f.write(np.stack([IMAGE[..., i % 3].astype(dtype)*(257 if dtype == 'uint16' else 1) for i in range(count)]))
    predict_large(model, tmp_path/'in.tif', tmp_path/'out.tif')
    shown = IMAGE if count > 1 else np.repeat(IMAGE[..., :1], 3, 2)
    with rasterio.open(tmp_path/'out.tif') as f:
        assert f.crs.to_epsg() == 32632 and f.transform == place['transform'] and f.dtypes == ('uint8',)
        assert (f.read(1) == predict(model, shown, im_size=0).label_map).mean() > .9999

def test_without_rasterio_a_tiff_says_what_is_missing(model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'rasterio', None)
    with pytest.raises(ValueError, match=r"pip install 'segmenter\[geo\]'"): predict_large(model, IMAGE, tmp_path/'x.tif')
    assert not list(tmp_path.iterdir())

def test_nothing_is_left_when_it_breaks_half_way(model, tmp_path):
    class Torn:
        shape = (150, 210, 3)
        def __getitem__(self, rows):
            if rows.start > 50: raise OSError('cable pulled')
            return IMAGE[rows]
    for name in ('x.npy', 'x.tif'):
        with pytest.raises(OSError, match='cable pulled'): predict_large(model, Torn(), tmp_path/name)
    assert not list(tmp_path.iterdir())

@pytest.mark.parametrize('name, write, says', [('a.npy', lambda p: np.save(p, IMAGE.astype(float)), 'expected'), ('a.tif', lambda p: p.write_bytes(b'II*'), 'cannot be read')])
def test_what_is_no_large_image_is_refused_in_one_line(model, tmp_path, name, write, says):
    write(tmp_path/name)
    with pytest.raises(ValueError, match=says) as caught: predict_large(model, tmp_path/name, tmp_path/'out'/'x.npy')
    assert '\n' not in str(caught.value)

def test_no_more_rows_are_read_than_a_window_holds(model):
    asked = []
    class Watched:
        shape = (1000, 100, 3)
        def __getitem__(self, rows):
            asked.append((rows.start, rows.stop))
            return np.zeros((rows.stop - rows.start, 100, 3), np.uint8)
    with open_rows(Watched()) as rows: bands = [len(b) for b in label_bands(model, rows, 64, 48)]
    assert sum(bands) == 1000 and max(b - a for a, b in asked) == 64

SCRIPT = """
import json, resource, sys
import numpy as np
from segmenter.large_images import predict_large
from segmenter.patches import SCENE_CLASSES, scene
from segmenter.windows import PatchColours
tile, truth = scene(500, 1000)
class Drawn:
    "Rows of a scene repeated without end, drawn when asked for."
    def __init__(self, h, w): self.shape = h, w, 3
    def __getitem__(self, rows): return np.tile(tile[np.arange(rows.start, rows.stop) % 500], (1, self.shape[1]//1000, 1))
model = PatchColours(tile, truth, SCENE_CLASSES, patch_size=16, window_size=512, window_stride=512)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss//1024
predict_large(model, Drawn(512, 1000), sys.argv[1])
before = peak()
predict_large(model, Drawn(int(sys.argv[2]), int(sys.argv[3])), sys.argv[1])
print(json.dumps(dict(before=before, after=peak())))
"""

@pytest.mark.slow
def test_twenty_thousand_squared_pixels_fit_in_little_memory(tmp_path):
    run = subprocess.run([sys.executable, '-c', SCRIPT, str(tmp_path/'x.npy'), '20000', '20000'], capture_output=True, text=True)
    assert not run.returncode, run.stderr
    peak = json.loads(run.stdout)
    labels = np.load(tmp_path/'x.npy', mmap_mode='r')
    assert labels.shape == (20000, 20000) and labels[::97].max() < len(SCENE_CLASSES)
    print(peak)
    assert peak['after'] - peak['before'] < 100, peak # MiB: a row of windows in bytes is 29, its labels are 10; the bytes of the image alone are 1144

import os, signal, subprocess, sys, time
import numpy as np
import pytest
from PIL import Image
from segmenter.patches import SCENE_CLASSES, scene
from segmenter.photo_folders import list_images, predict_folder
from segmenter.predict import predict
from segmenter.windows import PatchColours

IMAGE, TRUTH = scene(90, 130)

@pytest.fixture(scope='module')
def model(): return PatchColours(IMAGE, TRUTH, SCENE_CLASSES, patch_size=8, window_size=64, window_stride=48, im_size=80)

@pytest.fixture
def photos(tmp_path):
    folder = tmp_path/'photos'
    folder.mkdir()
    for name in ('b.jpg', 'a.png'): Image.fromarray(IMAGE).save(folder/name)
    return folder

def test_a_folder_is_done_and_its_bad_images_reported(model, photos, tmp_path):
    (photos/'c.jpg').write_bytes((photos/'b.jpg').read_bytes()[:1500])
    (photos/'notes.txt').write_text('no image')
    (photos/'b.PNG').write_bytes((photos/'a.png').read_bytes())
    report = predict_folder(model, photos, tmp_path/'out', progress=False)
    assert [p.name for p in report.done] == ['a.png', 'b.PNG', 'b.jpg'] and [p.name for p in report.failed] == ['c.jpg']
    assert sorted(os.listdir(tmp_path/'out')) == ['a.png', 'a_overlay.jpg', 'b.PNG.png', 'b.PNG_overlay.jpg', 'b.jpg.png', 'b.jpg_overlay.jpg']

def test_one_image_is_a_folder_of_one(model, photos, tmp_path):
    assert predict_folder(model, photos/'a.png', tmp_path/'out', progress=False).done == [photos/'a.png']

def test_folders_that_cannot_work_are_refused_before_anything_is_written(model, photos, tmp_path):
    (tmp_path/'none').mkdir()
    with pytest.raises(ValueError, match='no image'): predict_folder(model, tmp_path/'none', tmp_path/'out', progress=False)
    with pytest.raises(FileNotFoundError, match='no folder'): list_images(tmp_path/'lost')
    with pytest.raises(ValueError, match='input folder'): predict_folder(model, photos, photos, progress=False)
    (tmp_path/'file').write_text('')
    with pytest.raises(ValueError, match='choose another'): predict_folder(model, photos, tmp_path/'file', progress=False)
    assert not (tmp_path/'out').exists() and sorted(os.listdir(photos)) == ['a.png', 'b.jpg']

def test_folders_below_keep_their_structure(model, photos, tmp_path):
    for place in ('sea/deep', '.hidden'):
        (photos/place).mkdir(parents=True)
        Image.fromarray(IMAGE).save(photos/place/'a.png')
    report = predict_folder(model, photos, photos/'out', recursive=True, outputs=['labels'], progress=False)
    made = sorted(p.relative_to(photos/'out').as_posix() for p in (photos/'out').rglob('*.png'))
    assert made == ['a.png', 'b.png', 'sea/deep/a.png'] and len(report.done) == 3
    assert len(predict_folder(model, photos, photos/'out', recursive=True, outputs=['labels'], progress=False).skipped) == 3

def test_what_is_done_is_skipped_unless_told_otherwise(model, photos, tmp_path):
    predict_folder(model, photos, tmp_path/'out', progress=False)
    (tmp_path/'out'/'a_overlay.jpg').unlink()
    before = (tmp_path/'out'/'b.png').stat().st_mtime_ns
    again = predict_folder(model, photos, tmp_path/'out', progress=False)
    assert [p.name for p in again.done] == ['a.png'] and [p.name for p in again.skipped] == ['b.jpg']
    assert (tmp_path/'out'/'b.png').stat().st_mtime_ns == before
    assert len(predict_folder(model, photos, tmp_path/'out', overwrite=True, progress=False).done) == 2
    assert (tmp_path/'out'/'b.png').stat().st_mtime_ns > before

def exif(turn):
    found = Image.Exif()
    found[0x112] = turn
    return found

def test_every_kind_of_image_is_done_or_named(model, tmp_path):
    folder = tmp_path/'zoo'
    folder.mkdir()
    picture = Image.fromarray(IMAGE)
    for mode in ('L', 'P', 'RGBA', 'LA', '1'): picture.convert(mode).save(folder/f'{mode}.png')
    picture.convert('CMYK').save(folder/'CMYK.jpg')
    Image.fromarray(IMAGE[..., 0].astype(np.uint16)*257).save(folder/'sixteen.png')
    for turn in range(1, 9): picture.save(folder/f'turned{turn}.jpg', exif=exif(turn))
    for name, size in (('dot', (1, 1)), ('thread', (5000, 1)), ('pole', (1, 5000))): Image.new('RGB', size).save(folder/f'{name}.png')
    (folder/'empty.jpg').write_bytes(b'')
    (folder/'torn.jpg').write_bytes((folder/'turned1.jpg').read_bytes()[:1500])
    report = predict_folder(model, folder, tmp_path/'out', window_size=512, im_size=512, outputs=['labels'], progress=False)
    assert sorted(p.stem for p in report.failed) == ['empty', 'pole', 'thread', 'torn']
    assert all(str(path) in why and '\n' not in why for path, why in report.failed.items())
    assert len(report.done) == 5 + 1 + 1 + 8 + 1
    for path in report.done:
        w, h = Image.open(path).size
        if path.stem in ('turned5', 'turned6', 'turned7', 'turned8'): w, h = h, w
        assert Image.open(tmp_path/'out'/f'{path.stem}.png').size == (w, h), path.name

@pytest.mark.parametrize('n', [100, pytest.param(1000, marks=pytest.mark.slow)])
def test_one_torn_photograph_among_many_costs_itself_alone(model, tmp_path, n):
    folder = tmp_path/'many'
    folder.mkdir()
    small = Image.fromarray(IMAGE).resize((32, 24))
    for i in range(n): small.save(folder/f'{i:04}.jpg')
    (folder/'0050.jpg').write_bytes((folder/'0049.jpg').read_bytes()[:300])
    report = predict_folder(PatchColours(IMAGE, TRUTH, SCENE_CLASSES, window_size=16, window_stride=16, im_size=16), folder, tmp_path/'out', outputs=['labels'], progress=False)
    assert len(report.done) == n - 1 and [p.name for p in report.failed] == ['0050.jpg']
    assert len(os.listdir(tmp_path/'out')) == n - 1

SCRIPT = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler) # a shell starts what runs behind it deaf to interrupts
from pathlib import Path
from segmenter.patches import SCENE_CLASSES, scene
from segmenter.photo_folders import predict_folder
from segmenter.windows import PatchColours
class Slow(PatchColours):
    def masks(self, images): time.sleep(float(sys.argv[3])); return super().masks(images)
model = Slow(*scene(90, 130), SCENE_CLASSES, window_size=64, im_size=80)
print(predict_folder(model, sys.argv[1], sys.argv[2], progress=False))
"""

def test_an_interrupt_leaves_whole_files_and_the_next_run_goes_on(model, tmp_path):
    folder, out = tmp_path/'photos', tmp_path/'out'
    folder.mkdir()
    for i in range(30): Image.fromarray(IMAGE).save(folder/f'{i:02}.png')
    command = [sys.executable, '-c', SCRIPT, str(folder), str(out)]
    run = subprocess.Popen([*command, '1'], stderr=subprocess.DEVNULL)
    for _ in range(600):
        if out.is_dir() and len(list(out.glob('[0-9]*'))) > 5: break
        time.sleep(.1)
    run.send_signal(signal.SIGINT)
    assert run.wait(120) != 0
    there = sorted(out.iterdir())
    assert 5 < len(there) < 60 and not [p for p in there if p.name.startswith('.')]
    for path in there: Image.open(path).load()
    second = subprocess.run([*command, '0'], capture_output=True, text=True)
    assert second.returncode == 0 and 'were done before' in second.stdout, second.stderr
    assert len(list(out.iterdir())) == 60

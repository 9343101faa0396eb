"Fetching and unpacking: everything that can go wrong on the way."
import hashlib, multiprocessing, shutil, tarfile, zipfile
import pytest
from segmenter import archives
from segmenter.archives import download, unpack, zip_dataset
from segmenter.datasets import load_dataset
from segmenter.doctor import audit
from small_sets import BODY, SHA1, ade_archives, encoded, fill_disk, names, tarred, web, zipped

@pytest.fixture
def fetch(web, tmp_path):
    "Fetch /a.bin, quickly."
    web.files['/a.bin'] = BODY
    return lambda name='a.bin', **how: download(f'{web.address}/a.bin', tmp_path/name, **dict(sha1=SHA1, wait=.001, progress=False) | how)

# Downloads

def test_a_download_is_the_file(fetch, tmp_path):
    assert fetch().read_bytes() == BODY and names(tmp_path) == ['a.bin']

def test_an_interrupted_download_is_continued_by_the_next_call(fetch, web, tmp_path):
    web.stops[:] = [1_000_000] + [0]*9
    with pytest.raises(ValueError, match=r'1\.00 MB are kept, run again'): fetch(tries=2)
    assert (tmp_path/'a.bin.part').read_bytes() == BODY[:1_000_000] and not (tmp_path/'a.bin').exists()
    web.stops.clear(); web.asked.clear()
    assert fetch().read_bytes() == BODY and [range_ for _, range_, _ in web.asked] == ['bytes=1000000-']
    assert names(tmp_path) == ['a.bin']

def test_an_interrupted_download_is_continued_by_itself(fetch, web):
    web.stops[:] = 500_000, 700_000, 2_000_000
    assert fetch(tries=1).read_bytes() == BODY and len(web.asked) == 4 # each brought something

def test_a_server_without_ranges_sends_everything_again(fetch, web, tmp_path):
    web.ranges, web.stops[:] = False, [1_000_000]
    assert fetch().read_bytes() == BODY and len(web.asked) == 2 and names(tmp_path) == ['a.bin']

def test_a_server_without_ranges_that_always_hangs_up_is_given_up(fetch, web):
    web.ranges, web.stops[:] = False, [1_000_000]*20
    with pytest.raises(ValueError, match='the connection closed early'): fetch(tries=3)
    assert len(web.asked) == 4

def test_a_file_that_changed_meanwhile_is_begun_anew(fetch, web, tmp_path):
    web.stops[:] = [1_000_000] + [0]*9
    with pytest.raises(ValueError): fetch(tries=1, sha1='')
    other = BODY[::-1]
    web.files['/a.bin'], web.etag = other, '"v2"'
    web.stops.clear()
    assert fetch(sha1='').read_bytes() == other and web.asked[-1][2] == '"v1"'

def test_nothing_is_continued_that_nobody_can_recognise(fetch, web):
    web.etag, web.stops[:] = '', [1_000_000] + [0]*9
    with pytest.raises(ValueError): fetch(tries=1, sha1='')
    web.stops.clear()
    assert fetch(sha1='').read_bytes() == BODY and web.asked[-1][1] is None

def test_a_partial_file_that_was_complete_gets_its_name(fetch, web, tmp_path):
    (tmp_path/'a.bin.part').write_bytes(BODY)
    assert fetch().read_bytes() == BODY and names(tmp_path) == ['a.bin']

def test_a_partial_file_that_is_too_long_is_begun_anew(fetch, tmp_path):
    (tmp_path/'a.bin.part').write_bytes(BODY + b'more')
    assert fetch().read_bytes() == BODY

def test_a_server_that_continues_elsewhere_is_not_believed(fetch, web, tmp_path):
    (tmp_path/'a.bin.part').write_bytes(BODY[:1000])
    web.shift = 5
    assert fetch().read_bytes() == BODY

def test_a_file_of_unknown_length_is_fetched(fetch, web):
    web.length = False
    assert fetch().read_bytes() == BODY

def test_a_wrong_checksum_is_one_line_and_leaves_nothing(fetch, tmp_path):
    with pytest.raises(ValueError, match=r'sent is not a.bin \(sha1 .* instead of 000000000000…\); it was removed') as e: fetch(sha1='0'*40)
    assert names(tmp_path) == [] and '\n' not in str(e.value)

def test_a_web_page_is_recognised(web, tmp_path):
    web.files['/x.zip'] = b'\n<!DOCTYPE html><title>log in</title>'
    with pytest.raises(ValueError, match='it is a web page'): download(f'{web.address}/x.zip', tmp_path/'x.zip', sha1='0'*40, progress=False)

def test_a_file_that_was_there_is_not_removed(fetch, tmp_path):
    (tmp_path/'a.bin').write_bytes(b'mine')
    with pytest.raises(ValueError, match='move it away'): fetch()
    assert (tmp_path/'a.bin').read_bytes() == b'mine'

def test_a_missing_page_is_said_at_once(web, tmp_path):
    with pytest.raises(ValueError, match='the server answers 404'): download(f'{web.address}/none', tmp_path/'x', wait=.001, progress=False)
    assert len(web.asked) == 1

def test_a_server_in_trouble_is_asked_again(fetch, web):
    web.errors[:] = 503, 500
    assert fetch().read_bytes() == BODY

def test_a_server_that_asks_for_patience_gets_it(fetch, web):
    web.errors[:] = [429]
    assert fetch().read_bytes() == BODY

def test_a_dead_host_is_one_line(tmp_path):
    import socket
    with socket.socket() as s: s.bind(('127.0.0.1', 0)); port = s.getsockname()[1] # free again now
    with pytest.raises(ValueError, match=rf'^http://127.0.0.1:{port}/x: .*refused') as e: download(f'http://127.0.0.1:{port}/x', tmp_path/'x', wait=.001, progress=False)
    assert '\n' not in str(e.value) and names(tmp_path) == []

def test_a_disk_that_fills_up_is_one_line_and_what_came_is_kept(fetch, web, tmp_path, monkeypatch):
    fill_disk(monkeypatch, archives, 2_000_000)
    with pytest.raises(ValueError, match='no space is left on the disk for a.bin.part; make room and run again: the download continues'): fetch()
    monkeypatch.undo()
    kept = (tmp_path/'a.bin.part').stat().st_size
    assert kept > 0 and fetch().read_bytes() == BODY and web.asked[-1][1] == f'bytes={kept}-'

def test_too_little_room_is_said_before_a_byte_is_written(fetch, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, 'disk_usage', lambda folder: shutil._ntuple_diskusage(10, 5, 4_000_000))
    with pytest.raises(ValueError, match=r'a\.bin needs 6\.00 MB in .* and 4\.00 MB are free'): fetch(room=2)
    assert not (tmp_path/'a.bin.part').exists()
    assert fetch(room=1).read_bytes() == BODY

def test_a_file_larger_than_the_disk_takes_is_one_line(fetch, tmp_path):
    import resource, signal
    before, quiet = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_500_000, before[1]))
    try:
        with pytest.raises(ValueError, match='a.bin.part has a file larger than this disk .*choose another folder'): fetch()
    finally: resource.setrlimit(resource.RLIMIT_FSIZE, before), signal.signal(signal.SIGXFSZ, quiet)
    assert fetch().read_bytes() == BODY

# Archives

@pytest.mark.parametrize('name', ['../out.txt', '/etc/out.txt', 'a/../../out.txt', '..\\out.txt', 'C:\\out.txt', 'C:/out.txt'])
@pytest.mark.parametrize('kind', ['zip', 'tar'])
def test_a_name_that_escapes_is_refused_before_anything_is_written(name, kind, tmp_path):
    make = zipped if kind == 'zip' else tarred
    archive = make(tmp_path/f'x.{kind}', {'fine.txt': b'a', name: b'b'})
    (tmp_path/'to').mkdir()
    with pytest.raises(ValueError, match='written outside its folder; nothing was unpacked'): unpack(archive, tmp_path/'to', progress=False)
    assert names(tmp_path/'to') == [] and names(tmp_path) == ['to', f'x.{kind}']

@pytest.mark.parametrize('kind', [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_a_link_or_device_in_a_tar_is_refused(kind, tmp_path):
    with tarfile.open(tmp_path/'x.tar', 'w') as t:
        info = tarfile.TarInfo('fine/link')
        info.type, info.linkname = kind, '/etc/passwd'
        t.addfile(info)
    with pytest.raises(ValueError, match='a link or a device'): unpack(tmp_path/'x.tar', tmp_path, progress=False)
    assert names(tmp_path) == ['x.tar']

def test_a_symbolic_link_in_a_zip_becomes_a_plain_file(tmp_path):
    info = zipfile.ZipInfo('link')
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path/'x.zip', 'w') as z: z.writestr(info, '/etc/passwd')
    unpack(tmp_path/'x.zip', tmp_path, progress=False)
    assert not (tmp_path/'link').is_symlink() and (tmp_path/'link').read_text() == '/etc/passwd'

@pytest.mark.parametrize('mode, name', [('w', 'x.tar'), ('w:gz', 'x.tar.gz')])
def test_a_tar_is_unpacked_below_a_name(mode, name, tmp_path):
    tarred(tmp_path/name, {'top/a/b.txt': b'1', 'top/c.txt': b'2', 'other/d.txt': b'3'}, mode)
    (tmp_path/'to').mkdir()
    assert unpack(tmp_path/name, tmp_path/'to', 'top', progress=False) == 2
    assert (tmp_path/'to'/'a'/'b.txt').read_bytes() == b'1' and names(tmp_path/'to') == ['a', 'c.txt']

@pytest.mark.parametrize('keep', [.0, .3, .9])
@pytest.mark.parametrize('kind', ['zip', 'tar'])
def test_a_truncated_archive_is_one_line(kind, keep, tmp_path):
    archive = (zipped if kind == 'zip' else tarred)(tmp_path/f'x.{kind}', {f'{i}.bin': BODY[:20_000] for i in range(5)})
    archive.write_bytes(archive.read_bytes()[:int(keep*archive.stat().st_size)])
    (tmp_path/'to').mkdir()
    with pytest.raises(ValueError, match='is it complete|is damaged|holds nothing') as e: unpack(archive, tmp_path/'to', progress=False)
    assert '\n' not in str(e.value)

def test_a_flipped_bit_is_found(tmp_path):
    archive = zipped(tmp_path/'x.zip', {'a.bin': BODY[:1000]})
    data = bytearray(archive.read_bytes())
    data[500] ^= 1
    archive.write_bytes(data)
    with pytest.raises(ValueError, match='is damaged'): unpack(archive, tmp_path, progress=False)

def test_unpacking_asks_for_room_first(tmp_path, monkeypatch):
    archive = zipped(tmp_path/'x.zip', {'a.bin': BODY[:1000]})
    monkeypatch.setattr(shutil, 'disk_usage', lambda folder: shutil._ntuple_diskusage(10, 5, 999))
    with pytest.raises(ValueError, match='x.zip needs'): unpack(archive, tmp_path, progress=False)
    assert names(tmp_path) == ['x.zip']

# Read inside a zip

def test_ade20k_reads_the_same_inside_its_zip(tmp_path):
    source = ade_archives(tmp_path/'web')
    (tmp_path/'data'/'ade20k').mkdir(parents=True)
    unpack(source/'ADEChallengeData2016.zip', tmp_path/'data'/'ade20k', progress=False)
    for split in 'train', 'val':
        a, b = zip_dataset(source/'ADEChallengeData2016.zip', split), load_dataset('ade20k', split, tmp_path/'data')
        assert len(a) == len(b) and a.digest() == b.digest() and [f.name for f in a.images] == [f.name for f in b.images]
        for i in range(len(a)): assert (a.image(i) == b.image(i)).all() and (a.label_map(i) == b.label_map(i)).all() and a.label_map(i).dtype == b.label_map(i).dtype
        assert (a.settings, a.classes.names) == (b.settings, b.classes.names)

def _sum_of(data): return int(data.image(0).sum()) + int(data.label_map(1).sum())

@pytest.mark.parametrize('method', ['fork', pytest.param('spawn', marks=pytest.mark.slow)])
def test_a_zip_can_be_read_in_other_processes(method, tmp_path):
    data = zip_dataset(ade_archives(tmp_path)/'ADEChallengeData2016.zip')
    here = _sum_of(data) # opens the zip here first
    with multiprocessing.get_context(method).Pool(2) as pool: assert pool.map(_sum_of, [data]*6) == [here]*6

def test_what_cannot_be_decoded_or_does_not_fit_in_a_zip_is_named(tmp_path):
    top, picture = 'ADEChallengeData2016', encoded([[0]*5]*4)
    def first(image, label): return zip_dataset(zipped(tmp_path/f'{len(names(tmp_path))}.zip', {f'{top}/images/training/a.jpg': image, f'{top}/annotations/training/a.png': label}))
    with pytest.raises(ValueError, match='a.jpg. is no image that can be decoded'): first(b'x', picture).image(0)
    with pytest.raises(ValueError, match='a.png. is no label map that can be decoded'): first(picture, b'x').label_map(0)
    with pytest.raises(ValueError, match='a label map of 5×4 pixels for an image of 4×4'): first(encoded([[0]*4]*4), picture).label_map(0)
    with pytest.raises(ValueError, match='a.png: ids outside the 150 classes: 150'): first(picture, encoded([[151]*5]*4)).label_map(0)

def test_a_zip_without_a_label_map_or_without_ade20k_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match='a.zip. has nothing below ADEChallengeData2016/annotations/training/'):
        zip_dataset(zipped(tmp_path/'a.zip', {'ADEChallengeData2016/images/training/a.jpg': b'x'}))
    top = 'ADEChallengeData2016'
    with pytest.raises(FileNotFoundError, match='a.zip!/.*b.jpg. has no label map b.png'):
        zip_dataset(zipped(tmp_path/'a.zip', {f'{top}/images/training/b.jpg': b'x', f'{top}/annotations/training/a.png': b'x'}))
    with pytest.raises(FileNotFoundError, match='has nothing below'): zip_dataset(zipped(tmp_path/'b.zip', {'x.jpg': b'x'}))
    with pytest.raises(FileNotFoundError, match='no zip'): zip_dataset(tmp_path/'c.zip')
    with pytest.raises(KeyError, match="did you mean 'train'"): zip_dataset(tmp_path/'a.zip', 'trian')

def by_name(tmp_path, place='ADEChallengeData2016.zip'):
    "A data root that holds the archive and nothing else."
    ade_archives(tmp_path/'web')
    (tmp_path/'data'/place).parent.mkdir(parents=True)
    shutil.move(tmp_path/'web'/'ADEChallengeData2016.zip', tmp_path/'data'/place)
    return tmp_path/'data'

@pytest.mark.parametrize('place', ['ADEChallengeData2016.zip', 'ade20k/ADEChallengeData2016.zip', 'ade20k/downloads/ADEChallengeData2016.zip'])
def test_ade20k_is_found_by_name_in_its_archive(place, tmp_path):
    root = by_name(tmp_path, place)
    parts = [load_dataset('ade20k', split, root) for split in ('train', 'val', 'trainval')]
    assert [len(data) for data in parts] == [3, 2, 5] and parts[1].label_map(1).shape == parts[1].image(1).shape[:2]
    assert str(parts[0].images[0]) == f'{root/place}!/ADEChallengeData2016/images/training/ADE_0_training.jpg'

def test_a_tree_goes_before_the_archive_beside_it(tmp_path):
    root = by_name(tmp_path, 'ade20k/ADEChallengeData2016.zip')
    unpack(root/'ade20k/ADEChallengeData2016.zip', root/'ade20k', progress=False)
    assert '!' not in str(load_dataset('ade20k', 'train', root).images[0])

def test_the_test_split_is_read_in_its_archive(tmp_path):
    data = load_dataset('ade20k', 'test', ade_archives(tmp_path))
    assert data.labels is None and len(data) == 1 and data.image(0).shape == (64, 90, 3) and 'release_test.zip!' in str(data.images[0])

def test_the_doctor_looks_inside_an_archive(tmp_path):
    root = by_name(tmp_path)
    assert audit('ade20k', data_root=root, progress=False).ok
    archive, top = root/'ADEChallengeData2016.zip', 'ADEChallengeData2016'
    with zipfile.ZipFile(archive) as z: files = {name: z.read(name) for name in z.namelist()}
    files[f'{top}/annotations/training/ADE_0_training.png'] = encoded([[151]*5]*4)
    files[f'{top}/images/training/ADE_1_training.jpg'] = files[f'{top}/images/training/ADE_1_training.jpg'][:500]
    files[f'{top}/annotations/training/nobody.png'] = files.pop(f'{top}/annotations/training/ADE_2_training.png')
    zipped(archive, files)
    found = audit('ade20k', data_root=root, progress=False)
    assert {'unknown_ids', 'size', 'truncated_image', 'missing_label', 'label_without_image'} <= {p.kind for p in found.problems}
    assert all(f'ADEChallengeData2016.zip!/{top}/' in p.file for p in found.problems if p.file) and found.show_offenders()

def test_a_damaged_member_is_named_by_archive_and_name(tmp_path):
    root = by_name(tmp_path)
    archive = root/'ADEChallengeData2016.zip'
    data, end = bytearray(archive.read_bytes()), b'training/ADE_0_training.jpg'
    data[data.index(end) + len(end) + 300] ^= 1
    archive.write_bytes(data)
    train = load_dataset('ade20k', 'train', root)
    with pytest.raises(ValueError, match=r'ADEChallengeData2016.zip!/ADE\S*/images/training/ADE_0_training.jpg. is damaged .*; fetch ADEChallengeData2016.zip again'): train.image(0)
    assert [p.kind for p in audit([train], progress=False).problems if p.fatal] == ['unreadable_image']
    archive.write_bytes(archive.read_bytes()[:-30])
    with pytest.raises(ValueError, match='ADEChallengeData2016.zip. is damaged .*; fetch it again'): load_dataset('ade20k', 'train', root)

def test_an_archive_that_was_replaced_is_read_anew(tmp_path):
    import os
    from segmenter.pairs import open_file
    for text, time in (b'first', 1), (b'second one', 2):
        os.utime(zipped(tmp_path/'a.zip', {'x': text}), (time, time))
        with open_file(tmp_path/'a.zip!/x') as f: assert f.read() == text

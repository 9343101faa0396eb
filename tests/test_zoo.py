"The zoo, against a server on this machine that dies, crawls, hangs up and lies."
import hashlib, json, re, time
import pytest, torch
from segmenter import cli, zoo
from segmenter.checkpoints import load_model, save_checkpoint, variant_of, write_variant
from segmenter.mmseg_model import mmseg_config, to_mmseg
from segmenter.model import VARIANTS, create_model
from segmenter.zoo import ZOO, describe_zoo, differences, fetch_model, find_model, nearest
from small_sets import web

TINY = 'ade20k/seg_tiny_mask'
NARROW = dict(backbone='vit_tiny_patch16_384', embed_dim=64, depth=1, n_classes=150, image_size=64)
QUICK = dict(tries=2, wait=.001, timeout=5, progress=False)

def one_line(e): return '\n' not in str(e.value)

@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    "No zoo of the user's, and no network."
    monkeypatch.delenv('SEGMENTER_ZOO', raising=False)
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path/'cache'))
    monkeypatch.setenv('TORCH_HOME', str(tmp_path/'torch'))

@pytest.fixture(scope='module')
def release(tmp_path_factory):
    "A narrow stand-in for a release: name of a file, bytes."
    folder = tmp_path_factory.mktemp('release')
    torch.manual_seed(0)
    model = create_model(**NARROW, position_rule='count', dataset='ade20k').eval()
    save_checkpoint(folder/'checkpoint.pth', model, optimizer=torch.optim.SGD(model.parameters(), 1e-3), lr_scheduler={}, epoch=0)
    write_variant(folder/'variant.yml', variant_of(model.config, dataset_kwargs=dict(dataset='ade20k')))
    (folder/'log.txt').write_text('{"epoch": 0}')
    return {f.name: f.read_bytes() for f in folder.iterdir()}

def serve(web, release, name=TINY):
    web.files |= {f'/{name}/{file}': content for file, content in release.items()}
    return dict(mirror=web.address, **QUICK)

def put(folder, release):
    folder.mkdir(parents=True)
    for name, content in release.items(): (folder/name).write_bytes(content)
    return folder

def test_the_table_names_fourteen_models_of_the_paper():
    assert len(ZOO) == 14 and sum(r.source == 'authors' for r in ZOO.values()) == 9
    for r in ZOO.values(): assert r.variant in VARIANTS and 0 < r.ss < r.ms < 100 and r.checkpoint.endswith('.pth') and r.config and r.log
    assert len({r.checkpoint for r in ZOO.values()}) == 14
    assert ZOO['cityscapes/seg_large_mask'].parameters == '322M' and ZOO['ade20k/seg_base_patch8'].fps == 4.2

def test_a_model_is_found_where_people_keep_it(release, tmp_path, monkeypatch):
    for i, part in enumerate((TINY, f'checkpoints/{TINY}', 'seg_tiny_mask')):
        place = put(tmp_path/str(i)/part, release)
        assert find_model(TINY, tmp_path/str(i)) == place
    monkeypatch.setenv('SEGMENTER_ZOO', str(tmp_path/'0'))
    assert load_model(TINY).config.dataset == 'ade20k'
    assert load_model(TINY, classes=['wall', 'sky']).config.n_classes == 2

def test_a_folder_of_another_data_set_is_not_taken_for_it(release, tmp_path):
    put(tmp_path/'seg_large_mask', release)
    with pytest.raises(FileNotFoundError): find_model('cityscapes/seg_large_mask', tmp_path)

def test_an_absent_model_says_how_to_get_it_and_asks_nobody(monkeypatch):
    import socket
    monkeypatch.setattr(socket.socket, 'connect', lambda *a: pytest.fail('the network was asked'))
    with pytest.raises(FileNotFoundError, match=f'segmenter zoo --name {TINY}') as e: load_model(TINY)
    assert one_line(e)
    with pytest.raises(FileNotFoundError, match='expected a folder'): load_model('ade20k/unknown')

def test_a_fetched_model_loads_and_is_not_fetched_again(web, release, tmp_path):
    how = serve(web, release)
    place = fetch_model(TINY, tmp_path/'zoo', **how)
    assert sorted(f.name for f in place.iterdir()) == ['checkpoint.pth', 'log.txt', 'variant.yml'] and load_model(place).config.n_classes == 150
    asked = len(web.asked)
    assert fetch_model(TINY, tmp_path/'zoo', **how) == place and len(web.asked) == asked
    recorded = json.loads((tmp_path/'zoo'/'checksums.json').read_text())
    assert recorded == {ZOO[TINY].checkpoint: hashlib.sha256(release['checkpoint.pth']).hexdigest()}

def test_load_model_fetches_when_it_is_told_to(web, release, monkeypatch):
    serve(web, release)
    monkeypatch.setattr(zoo, 'fetch_model', lambda name, real=fetch_model: real(name, mirror=web.address, **QUICK))
    assert load_model(TINY, download=True).config.n_classes == 150

def test_a_model_without_a_log_is_a_model(web, release, tmp_path):
    how = serve(web, {name: content for name, content in release.items() if name != 'log.txt'})
    assert load_model(fetch_model(TINY, tmp_path, **how)).config.n_classes == 150

def test_a_dead_host_is_said_and_the_nearest_model_offered(tmp_path):
    with pytest.raises(ValueError) as e: fetch_model(TINY, tmp_path, mirror='http://127.0.0.1:9', **QUICK)
    said = str(e.value)
    assert one_line(e) and 'cannot be had' in said and 'issue 74' in said and 'nearest: mmseg/seg_tiny_mask' in said
    assert 'mIoU 39.99/40.83' in said and 'LayerNorm epsilon 1e-6' in said and 'segmenter zoo --name mmseg/seg_tiny_mask' in said

def test_a_model_the_server_does_not_have_is_offered_likewise(web, release, tmp_path):
    how = serve(web, release)
    with pytest.raises(ValueError, match='404.*nearest: mmseg/seg_base_mask, model Seg-B-Mask/16 instead of Seg-B/8'): fetch_model('ade20k/seg_base_patch8', tmp_path, **how)

def test_a_host_that_hangs_up_is_continued_by_the_next_call(web, release, tmp_path):
    how, middle = serve(web, release), len(release['checkpoint.pth'])//2
    web.stops[:] = [10**9, 10**9, middle] + [0]*9
    with pytest.raises(ValueError, match='are kept, run again') as e: fetch_model(TINY, tmp_path, **how)
    assert one_line(e) and 'nearest' not in str(e.value)
    web.stops.clear(); web.asked.clear()
    assert load_model(fetch_model(TINY, tmp_path, **how)).config.n_classes == 150
    assert [range_ for path, range_, *_ in web.asked if range_] == [f'bytes={middle}-']

def test_a_silent_host_is_given_up(tmp_path):
    import socket, threading
    with socket.create_server(('127.0.0.1', 0)) as silent:
        begin = time.perf_counter()
        with pytest.raises(ValueError, match='nearest: mmseg/seg_tiny_mask'):
            fetch_model(TINY, tmp_path, mirror=f'http://127.0.0.1:{silent.getsockname()[1]}', **QUICK | dict(timeout=.2, tries=1))
        assert time.perf_counter() - begin < 5

def test_a_host_that_drips_is_given_up_and_continued_later(web, release, tmp_path):
    how = serve(web, release) | dict(timeout=.2)
    fetched = fetch_model(TINY, tmp_path/'first', **how) # the small files come at once
    assert fetched and len(web.asked) == 3
    web.asked.clear()
    for part in fetched.iterdir(): # a zoo in which they lie already, and the weights drip
        if part.name != 'checkpoint.pth': place(tmp_path/'zoo', part)
    web.drip, begin = .005, time.perf_counter() # 200 bytes a second: never silent
    with pytest.raises(ValueError, match='it crawls, .* in 0.2 seconds; .* are kept, run again') as e: fetch_model(TINY, tmp_path/'zoo', **how)
    assert one_line(e) and time.perf_counter() - begin < 10
    ranges = [asked for path, asked, *_ in web.asked if path.endswith('.pth')]
    assert ranges[0] is None and len(ranges) == 2 and int(ranges[1][6:-1]) > 0 # the second try went on where the first ended
    web.drip = 0
    web.asked.clear()
    assert load_model(fetch_model(TINY, tmp_path/'zoo', **how)).config.n_classes == 150
    again, = [asked for path, asked, *_ in web.asked if path.endswith('.pth')]
    assert int(again[6:-1]) > int(ranges[1][6:-1])

def place(root, part):
    folder = root/'.incoming'/TINY
    folder.mkdir(parents=True, exist_ok=True)
    (folder/part.name).write_bytes(part.read_bytes())

@pytest.mark.parametrize('lie,said', [(b'<!DOCTYPE html><title>We are moving, please come back later, dear visitor</title>', 'web page'), (b'\0'*500, 'damaged'),
                                      (b'version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n', 'Git LFS')])
def test_a_lying_host_is_found_out(web, release, tmp_path, lie, said):
    how = serve(web, release | {'checkpoint.pth': lie})
    with pytest.raises(ValueError, match=said) as e: fetch_model(TINY, tmp_path, **how)
    assert one_line(e) and 'it was removed' in str(e.value)
    with pytest.raises(FileNotFoundError): find_model(TINY, tmp_path)
    assert load_model(fetch_model(TINY, tmp_path, **serve(web, release))).config.n_classes == 150

def test_other_weights_than_last_time_are_refused(web, release, tmp_path):
    import shutil
    how = serve(web, release)
    shutil.rmtree(fetch_model(TINY, tmp_path, **how))
    (tmp_path/'checksums.json').write_text(json.dumps({ZOO[TINY].checkpoint: '0'*64}))
    with pytest.raises(ValueError, match='sha256 begins .* and not 00000000') as e: fetch_model(TINY, tmp_path, **how)
    assert one_line(e)

def mmseg_file(tmp_path):
    model = create_model(**NARROW, norm_eps=1e-6, position_interpolation='bicubic', position_rule='count').eval()
    meta = dict(cfg=f'model = {mmseg_config(model.config)!r}', CLASSES=tuple(f'c{k}' for k in range(150)))
    torch.save(dict(meta=meta, state_dict=to_mmseg(model.state_dict(), model.config)), tmp_path/'m.pth')
    return (tmp_path/'m.pth').read_bytes()

def test_a_file_of_mmsegmentation_is_checked_by_its_name(web, tmp_path, monkeypatch):
    row, content = ZOO['mmseg/seg_tiny_mask'], mmseg_file(tmp_path)
    path = row.checkpoint.replace(zoo._SERVERS['mmsegmentation'], '')
    web.files[path] = content
    with pytest.raises(ValueError, match='and not ffcf7509'): fetch_model(row.name, tmp_path/'zoo', mirror=web.address, **QUICK)
    from dataclasses import replace
    monkeypatch.setitem(ZOO, row.name, replace(row, digest=hashlib.sha256(content).hexdigest()[:8]))
    place = fetch_model(row.name, tmp_path/'zoo', mirror=web.address, **QUICK)
    assert load_model(place).config.norm_eps == 1e-6

def test_a_file_in_torchs_cache_is_found(tmp_path):
    folder = tmp_path/'torch'/'hub'/'checkpoints'
    folder.mkdir(parents=True)
    file = folder/ZOO['mmseg/seg_tiny_mask'].checkpoint.split('/')[-1]
    file.write_bytes(mmseg_file(tmp_path))
    assert find_model('mmseg/seg_tiny_mask') == file and load_model('mmseg/seg_tiny_mask').config.position_interpolation == 'bicubic'

def test_the_nearest_shares_as_much_as_it_can():
    near = {name: nearest(name).name for name in ZOO}
    assert near['ade20k/seg_small_mask'] == 'mmseg/seg_small_mask' and near['ade20k/seg_large_mask_640'] == 'mmseg/seg_large_mask'
    assert near['cityscapes/seg_large_mask'] == 'mmseg/seg_large_mask' and near['mmseg/seg_tiny_mask'] != 'mmseg/seg_tiny_mask'
    assert 'data ade20k instead of cityscapes' in differences(ZOO['cityscapes/seg_large_mask'], ZOO['mmseg/seg_large_mask'])

def test_the_command_lists_and_refuses_in_one_line(capsys, tmp_path):
    assert cli.main(['zoo']) == 0
    said = capsys.readouterr().out
    for r in ZOO.values(): assert all(str(part) in said for part in (r.name, r.checkpoint, r.config, r.log, r.ss, r.ms, r.resolution, r.parameters))
    assert cli.main(['zoo', '--name', TINY, '--folder', str(tmp_path), '--mirror', 'http://127.0.0.1:9', '--tries', '1']) == 2
    assert len(capsys.readouterr().err.strip().splitlines()[-1:]) == 1
    assert cli.main(['predict', '--model-path', TINY, '-i', str(tmp_path), '-o', str(tmp_path/'out')]) == 2
    assert 'no image in' in capsys.readouterr().err

def test_what_is_on_this_disk_is_said(release, tmp_path):
    put(tmp_path/TINY, release)
    lines = describe_zoo(tmp_path, addresses=False).splitlines()
    assert str(tmp_path/TINY) in lines[1] and lines[2].endswith('no') and len(lines) == 15

"The runner: what it refuses, what it keeps, and that nothing of a finished run is touched."
import csv, json, math, os, signal, subprocess, sys, time
import nbformat, pytest
from nbformat.v4 import new_code_cell, new_notebook
from pathlib import Path
from segmenter import cli
from segmenter.experiments import (COLUMNS, Run, RunFailed, _check_record, check_parameters, find_template, load_profile, provenance, read_parameters,
                                   run_id, run_notebook, start_run)
from segmenter.registry import read_runs

DIALS = '''#| some directive
profile: str = "smoke"  # Label of the row
variant: str = "Seg-T-Mask/16"
dataset: str = "landcover" # A name
epochs: int = 4         # Passes
rate: float = 1e-3      # First rate
amp: bool = False
scales: list = [0.5, 2.0] # Range
device: str|None = None # Where
seed: int = 0
log_dir: str = ""'''
START = '''import random, sys
from pathlib import Path
from segmenter.experiments import start_run
run = start_run(dict(profile=profile, epochs=epochs, seed=seed, rate=rate), log_dir)
rng = random.Random(seed)'''
TRAIN = '''checkpoint = run.folder/'checkpoint.pth'
resumed = checkpoint.exists()
for e in range(epochs): print(f'epoch {e} loss {rng.random():.4f}')
print('\\rhalf\\rwhole', end='', file=sys.stderr)
checkpoint.write_text('weights')'''
BREAK = 'if rate > 1 and not resumed: raise FloatingPointError("loss is nan at iteration 7")'
RECORD = "run.curves([dict(epoch=0, loss=1.)]); run.record(mIoU=100*rng.random(), n_images=epochs, data_hash='abc');"

def template(path, *cells, dials=DIALS):
    nb = new_notebook(cells=[new_code_cell(c) for c in (dials, *cells)],
                      metadata=dict(kernelspec=dict(name='python3', display_name='python3', language='python')))
    nb.cells[0].metadata.tags = ['parameters']
    nbformat.write(nb, path)
    return path

@pytest.fixture
def work(tmp_path): return template(tmp_path/'work.ipynb', START, TRAIN, BREAK, RECORD)

@pytest.fixture
def declared(work): return read_parameters(work)

def state(folder): return json.loads((folder/'metrics.json').read_text())

# --- dials

def test_dials_are_read_with_type_default_and_comment(declared):
    assert list(declared) == ['profile', 'variant', 'dataset', 'epochs', 'rate', 'amp', 'scales', 'device', 'seed', 'log_dir']
    assert (declared['epochs'].type, declared['epochs'].default, declared['epochs'].help) == ('int', 4, 'Passes')
    assert declared['device'].type == 'str|None' and declared['variant'].help == ''

def test_reading_dials_runs_nothing(tmp_path):
    with pytest.raises(ValueError, match='line 1'): read_parameters(template(tmp_path/'a.ipynb', dials=f'open({str(tmp_path/"made")!r}, "w")'))
    with pytest.raises(ValueError, match='literal'): read_parameters(template(tmp_path/'a.ipynb', dials=f'x: str = open({str(tmp_path/"made")!r}, "w")'))
    assert not (tmp_path/'made').exists()

def test_a_notebook_without_a_parameters_cell_is_refused(tmp_path):
    nbformat.write(new_notebook(cells=[new_code_cell('x = 1')]), tmp_path/'plain.ipynb')
    with pytest.raises(ValueError, match='0 cells tagged'): read_parameters(tmp_path/'plain.ipynb')
    (tmp_path/'text.ipynb').write_text('hello')
    with pytest.raises(ValueError, match='is not a notebook'): read_parameters(tmp_path/'text.ipynb')

@pytest.mark.parametrize('name, given, want', [
    ('epochs', '20', 20), ('epochs', ' 7', 7), ('rate', 1, 1.), ('rate', '1e-2', .01), ('rate', '3', 3.), ('amp', 'True', True), ('amp', 'no', False),
    ('amp', 'false', False), ('scales', '[1, 2]', [1, 2]), ('device', 'none', None), ('device', 'cpu', 'cpu'), ('variant', "'Seg-B/16'", 'Seg-B/16'),
    ('variant', '7', '7')])
def test_text_is_read_as_the_declared_type(declared, name, given, want):
    got = check_parameters({name: given}, declared)[name]
    assert got == want and type(got) is type(want)

@pytest.mark.parametrize('name, given', [
    ('epochs', 2.5), ('epochs', True), ('epochs', '2.0'), ('epochs', 'ten'), ('epochs', None), ('rate', 'inf'), ('rate', float('nan')), ('rate', True),
    ('amp', 1), ('amp', 'perhaps'), ('variant', 5), ('scales', '3'), ('device', 3), ('epochs', '__import__("os")'), ('epochs', '(' * 300)])
def test_a_wrong_type_is_refused_by_name(declared, name, given):
    with pytest.raises(ValueError, match=f"parameter '{name}'.* is "): check_parameters({name: given}, declared)

def test_an_unknown_name_is_refused_with_the_nearest(declared):
    with pytest.raises(KeyError, match="did you mean 'epochs'"): check_parameters(dict(epoch=1), declared)

def test_a_bad_profile_is_refused(tmp_path):
    for text, message in [('- 1\n- 2', 'holds a list'), ('a: [1', 'is not YAML'), ('a: !!python/object/apply:os.getcwd []', 'is not YAML')]:
        (tmp_path/'p.yaml').write_text(text)
        with pytest.raises(ValueError, match=message) as e: load_profile(tmp_path/'p.yaml')
        assert '\n' not in str(e.value)
    (tmp_path/'p.yaml').write_text('# only a header\n')
    assert load_profile(tmp_path/'p.yaml') == {}
    with pytest.raises(FileNotFoundError, match='no profile at'): load_profile(tmp_path/'none.yaml')

def test_a_missing_notebook_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match='no experiment at'): find_template(tmp_path/'none.ipynb')
    with pytest.raises(KeyError, match='unknown experiment'): find_template('none')

# --- names

def test_runs_are_named_as_mmsegmentation_names_configs():
    values = dict(variant='Seg-B-DeiT-Mask/16', dataset='ade20k', crop_size=512, iterations=160_000, seed=0)
    assert run_id(values) == 'seg-b-deit-mask16_ade20k-512_160k_s0'
    assert run_id(dict(seed=2), name='speed') == 'speed_s2'
    assert run_id({**values, 'iterations': 20}) == 'seg-b-deit-mask16_ade20k-512_20i_s0'

def test_a_dial_turned_by_hand_gets_a_folder_of_its_own():
    base = dict(variant='Seg-T/16', rate=.1, seed=0, log_dir='', device=None, profile='smoke')
    assert run_id({**base, 'rate': .2}, base) != run_id(base, base)
    assert run_id({**base, 'log_dir': 'x', 'device': 'cpu'}, base) == run_id(base, base)
    long = run_id({**base, 'rate': 'x'*500}, base)
    assert len(long) < 120 and long != run_id({**base, 'rate': 'x'*501}, base)

# --- the record

def test_a_record_is_strict_json_and_a_row_has_the_fixed_columns(tmp_path):
    run = start_run(dict(variant='Seg-T/16', seed=3, profile='full'), tmp_path/'r')
    run.record(dict(mIoU=41.5, speed=(3., 'images/s')), dataset='landcover', n_images=9, data_hash='abc', protocol='MS')
    found = json.loads((tmp_path/'r'/'metrics.json').read_text(), parse_constant=lambda c: pytest.fail(c))
    assert found['status'] == 'done' and found['profile'] == 'full' and found['split'] == 'val' and found['n_images'] == 9
    assert found['metrics'] == dict(mIoU=dict(value=41.5, unit='%'), speed=dict(value=3., unit='images/s'))
    assert {'python', 'torch', 'timm', 'fastai'} <= set(found['versions']) and found['device'] and found['seconds'] >= 0
    assert found['processes'] == 1 and _check_record({k: v for k, v in found.items() if k != 'processes'}) # of a record older than the key
    with open(tmp_path/'r'/'row.csv') as f: row, = csv.DictReader(f)
    assert tuple(row) == COLUMNS and row['mIoU'] == '41.5' and row['seed'] == '3' and row['protocol'] == 'MS' and row['epochs'] == ''

def test_how_many_processes_shared_the_work_stands_in_the_record_and_not_in_the_name(tmp_path):
    assert start_run(dict(processes=4), tmp_path).record(mIoU=1.)['processes'] == 4
    values = dict(variant='Seg-T/16', seed=0, processes=1)
    assert run_id({**values, 'processes': 4}, values) == run_id(values, values)

@pytest.mark.parametrize('value', [math.nan, math.inf, 'high', None, True])
def test_a_metric_that_is_no_finite_number_leaves_no_record(tmp_path, value):
    run = start_run({}, tmp_path)
    with pytest.raises(ValueError, match="metric 'mIoU'"): run.record(mIoU=value)
    assert state(tmp_path)['status'] == 'running' and not (tmp_path/'row.csv').exists()

def test_a_run_outside_the_runner_uses_a_temporary_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = start_run(dict(seed=0))
    assert isinstance(run, Run) and run.folder.exists() and not list(tmp_path.iterdir())

def test_starting_inside_a_finished_run_is_refused(tmp_path):
    start_run({}, tmp_path).record(mIoU=1.)
    with pytest.raises(ValueError, match='finished run'): start_run({}, tmp_path)

# --- the runner

def test_nothing_is_made_when_a_dial_is_refused(work, tmp_path):
    for bad in (dict(epoch=3), dict(epochs='many')):
        with pytest.raises((KeyError, ValueError)): run_notebook(work, bad, tmp_path/'runs')
    with pytest.raises(ValueError, match='declares no parameter log_dir'): run_notebook(template(tmp_path/'n.ipynb', dials='x: int = 1'), out=tmp_path/'runs')
    assert not (tmp_path/'runs').exists()

def test_a_run_streams_records_and_repeats_itself_to_the_digit(work, tmp_path, capfd, monkeypatch):
    (tmp_path/'p.yaml').write_text('# Expected: 3 %\nprofile: full\nepochs: 2\n')
    monkeypatch.setenv('PATH', '/nowhere') # the kernel is this interpreter, found without PATH
    first = run_notebook(work, out=tmp_path/'{a}', profiles=[tmp_path/'p.yaml'])
    text = capfd.readouterr()
    assert 'epoch 1 loss' in text.out and '\rhalf\rwhole' in text.err and 'encryption' not in text.err
    assert {p.name for p in first.iterdir()} == {'report.ipynb', 'params.json', 'metrics.json', 'row.csv', 'curves.csv', 'checkpoint.pth'}
    assert json.loads((first/'params.json').read_text()) == dict(profile='full', variant='Seg-T-Mask/16', dataset='landcover', epochs=2, rate=.001,
        amp=False, scales=[.5, 2.], device=None, seed=0, log_dir=str(first))
    kept = (first/'metrics.json').read_bytes()
    assert run_notebook(work, out=tmp_path/'{a}', profiles=[tmp_path/'p.yaml']) == first
    assert 'finished already' in capfd.readouterr().out and (first/'metrics.json').read_bytes() == kept

    again = run_notebook(work, dict(epochs=2, profile='full'), out=tmp_path/'b', quiet=True)
    assert capfd.readouterr().out == '' and again.name == first.name
    assert state(again)['metrics'] == state(first)['metrics'] and state(again)['status'] == 'done'
    stored = nbformat.read(again/'report.ipynb', as_version=4)
    assert [o.text for c in stored.cells for o in c.get('outputs', []) if o.get('name') == 'stderr'] == ['whole']

def test_a_failed_run_keeps_its_notebook_and_is_resumed(work, tmp_path, capfd):
    command = ['run', str(work), '-p', 'rate', '2', '--out', str(tmp_path/'runs')]
    assert cli.main(command) == 1
    folder, = (tmp_path/'runs').iterdir()
    said = capfd.readouterr()
    assert said.err.splitlines()[-1].startswith('segmenter run: FloatingPointError: loss is nan at iteration 7 (half-run notebook: ')
    assert state(folder)['status'] == 'failed' and state(folder)['exception'] == 'FloatingPointError: loss is nan at iteration 7'
    report = nbformat.read(folder/'report.ipynb', as_version=4)
    red, = [c for c in report.cells if any(o.output_type == 'error' for o in c.get('outputs', []))]
    assert red.source == BREAK and not (folder/'row.csv').exists()

    with pytest.raises(ValueError, match='epochs 4 there, 5 now'): run_notebook(work, dict(epochs=5, log_dir=str(folder)))
    assert cli.main(command) == 0
    assert 'resuming from checkpoint.pth' in capfd.readouterr().out
    assert state(folder)['status'] == 'done' and state(folder)['attempts'] == 2
    assert list(read_runs(tmp_path/'runs').status) == ['done']

def test_a_notebook_that_forgets_its_record_has_failed(tmp_path):
    with pytest.raises(RunFailed, match='without calling record'): run_notebook(template(tmp_path/'n.ipynb', 'x = 1'), out=tmp_path, quiet=True)
    assert read_runs(tmp_path).status.tolist() == ['failed']

def test_a_folder_in_use_is_left_alone(work, tmp_path):
    fcntl = pytest.importorskip('fcntl')
    (tmp_path/'r').mkdir()
    handle = os.open(tmp_path/'r', os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        with pytest.raises(ValueError, match='in use by another run'): run_notebook(work, dict(log_dir=str(tmp_path/'r')))
    finally: os.close(handle)
    assert not list((tmp_path/'r').iterdir())

def test_provenance_names_versions_without_loading_what_they_are_of():
    code = 'import sys; from segmenter.experiments import provenance; print(*provenance(packages=["numpy"])["versions"], [m for m in ("torch", "numpy", "timm") if m in sys.modules])'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.stdout.startswith('python segmenter torch') and done.stdout.endswith('numpy []\n'), done.stderr

def test_a_record_and_a_bench_tell_the_same_provenance(tmp_path):
    from segmenter.bench import new_record
    run, bench, made = start_run({'device': 'cpu'}, tmp_path/'r').record(n_images=1), new_record('b', 1), provenance('cpu')
    assert run['commit'] == bench['commit'] == made['commit'] and run['device'] == bench['device'] == made['device']
    assert made['versions'].items() <= run['versions'].items() and made['versions'].items() <= bench['versions'].items()

@pytest.mark.slow
def test_ctrl_c_leaves_a_run_that_can_be_resumed(tmp_path):
    nb = template(tmp_path/'n.ipynb', 'print("working", flush=True); import time; time.sleep(60)')
    run = subprocess.Popen([sys.executable, '-c', 'from segmenter.cli import main; raise SystemExit(main())', 'run', str(nb), '--out', str(tmp_path/'runs')],
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    for line in run.stdout:
        if 'working' in line: break
    run.send_signal(signal.SIGINT)
    began = time.monotonic()
    assert run.wait(30) == 130 and run.stderr.read().endswith('segmenter run: interrupted\n') and time.monotonic() - began < 20
    folder, = (tmp_path/'runs').iterdir()
    assert state(folder)['status'] == 'failed' and 'KeyboardInterrupt' in state(folder)['exception']

@pytest.mark.skipif(os.name != 'posix', reason='sockets are files on POSIX systems only')
def test_a_kernel_is_reached_through_files_of_its_own_which_are_gone_afterwards(tmp_path):
    look = """from ipykernel.kernelapp import IPKernelApp
from pathlib import Path
app = IPKernelApp.instance()
assert app.transport == 'ipc' and list(Path(app.ip).parent.glob('socket-*'))
(run.folder/'place.txt').write_text(app.ip)"""
    folder = run_notebook(template(tmp_path/'look.ipynb', START, look, RECORD), out=tmp_path/'runs', quiet=True)
    assert not Path((Path(folder)/'place.txt').read_text()).parent.exists()

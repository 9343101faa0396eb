"Sweeps: checked as a whole, run some at a time, killed, failing, interrupted, and finished by the same line."
import json, os, signal, subprocess, sys, time
from pathlib import Path
import pytest
from segmenter import cli
from segmenter.registry import read_runs
from segmenter.sweeps import _cards, _environment, plan_sweep, read_point, read_sweep, run_sweep, show_sweep
from small_sets import make_notebook

DIALS = '''profile: str = "toy" # Label of the row
kind: str = "good"     # good, slow (waits the first time) or bad (fails the first time)
scales: list = [1, 2]  # A list
seed: int = 0          # Of everything random
log_dir: str = ""      # Where outputs go'''
BODY = '''import os, time
from segmenter.experiments import start_run
run = start_run(dict(profile=profile, kind=kind, seed=seed), log_dir)
again = (run.folder/'checkpoint.pth').exists()
(run.folder/'checkpoint.pth').write_text('half')
print(f'{kind} at work, again {again}', flush=True)
(run.folder/'pid').write_text(str(os.getppid()))
if kind == 'slow' and not again: time.sleep(120)
if kind == 'bad' and not again: raise FloatingPointError('loss is nan at iteration 7')
run.record(mIoU=10. + seed, n_images=1, data_hash='abc')['status']'''

@pytest.fixture
def toy(tmp_path): return make_notebook(tmp_path/'toy.ipynb', DIALS, BODY)

def command(toy, *words): return [sys.executable, '-c', 'import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from segmenter.cli import main; raise SystemExit(main())', 'run', str(toy), *words, '--out', str(toy.parent/'runs')]

def wait_for(condition, seconds=90):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, 'waited in vain'
        time.sleep(.1)

def state(toy, kind, seed=0):
    name = f'toy_kind-{kind}_s{seed}' if kind != 'good' else f'toy_s{seed}'
    return json.loads((toy.parent/'runs'/name/'metrics.json').read_text())

def test_of_four_runs_one_killed_and_one_failing_the_same_line_finishes_all(toy, capfd):
    line = command(toy, '--point', 'kind=slow', '--point', 'kind=bad', '--point', 'kind=good', '--point', 'kind=good seed=1', '--jobs', '2')
    pid, log = toy.parent/'runs'/'toy_kind-slow_s0'/'pid', toy.parent/'said.txt'
    with log.open('w') as f: sweep = subprocess.Popen(line, stdout=f, stderr=subprocess.STDOUT)
    wait_for(lambda: pid.exists() and pid.read_text() and 'slow at work' in log.read_text()) # what a run prints is passed on while it runs
    os.kill(int(pid.read_text()), signal.SIGKILL)
    sweep.wait(180)
    said = log.read_text()
    assert sweep.returncode == 1
    assert 'toy_kind-slow_s0 | slow at work, again False' in said and 'toy_s1 | good at work' in said and 'loss is nan at iteration 7' in said
    table = read_runs(toy.parent/'runs').set_index('run_id').status
    assert table.to_dict() == {'toy_kind-slow_s0': 'interrupted', 'toy_kind-bad_s0': 'failed', 'toy_s0': 'done', 'toy_s1': 'done'}
    finished = (toy.parent/'runs'/'toy_s0'/'metrics.json').read_bytes()

    again = subprocess.run(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=180)
    assert again.returncode == 0, again.stdout
    assert 'toy_kind-slow_s0 | slow at work, again True' in again.stdout and 'toy_s0 |' not in again.stdout
    assert set(read_runs(toy.parent/'runs').status) == {'done'}
    assert [state(toy, *key)['attempts'] for key in (('slow',), ('bad',), ('good',), ('good', 1))] == [2, 2, 1, 1]
    assert (toy.parent/'runs'/'toy_s0'/'metrics.json').read_bytes() == finished

@pytest.mark.parametrize('number, code', [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 75, marks=pytest.mark.slow)])
def test_who_is_told_to_stop_stops_every_run_in_a_state_that_can_be_continued(toy, number, code):
    line = command(toy, '-p', 'kind', 'slow', '--sweep', 'seed=0,1,2', '--jobs', '2')
    sweep = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    pids = [toy.parent/'runs'/f'toy_kind-slow_s{seed}'/'pid' for seed in (0, 1)]
    wait_for(lambda: all(p.exists() and p.read_text() for p in pids))
    sweep.send_signal(number)
    said = sweep.communicate(timeout=60)[0]
    assert sweep.returncode == code and 'waiting' in said
    assert [state(toy, 'slow', seed)['status'] for seed in (0, 1)] == ['failed', 'failed'] and 'KeyboardInterrupt' in state(toy, 'slow')['exception']
    for p in pids: wait_for(lambda: not Path(f'/proc/{p.read_text()}').exists(), 20)
    table = read_runs(toy.parent/'runs').set_index('run_id').status
    assert table['toy_kind-slow_s2'] == 'waiting'

def test_a_dry_run_starts_nothing_and_checks_everything(toy, capsys):
    words = ['run', str(toy), '--out', str(toy.parent/'runs')]
    assert cli.main([*words, '--sweep', 'seed=0,1', '--sweep', 'kind=good,bad', '--dry-run']) == 0
    out = capsys.readouterr().out
    assert out.count('waiting') == 4 and 'start' in out and not (toy.parent/'runs').exists()
    for wrong, says in ((['--sweep', 'sed=1,2'], 'seed'), (['--sweep', 'seed=1,x'], 'seed'), (['--sweep', 'seed'], 'NAME=VALUE'), (['--jobs', '2'], '--row'),
                        (['--sweep', 'device=1'], 'device'), (['--point', 'seed=1', '--sweep', 'seed=2'], 'twice'), (['--torchrun', '2'], 'processes'),
                        (['--row', 'nonsense/*'], 'nonsense'), (['--sweep', 'seed=1,2', '-p', 'seed', '3'], 'given and swept')):
        assert cli.main([*words, *wrong]) == 2
        said = capsys.readouterr().err
        assert says in said and len(said.splitlines()) == 1
    assert not (toy.parent/'runs').exists()

def test_values_with_commas_in_brackets_are_one_value():
    assert read_sweep('scales=[1,2],[3,4]') == ('scales', ['[1,2]', '[3,4]']) and read_sweep('name="a,b",c') == ('name', ['"a,b"', 'c'])
    assert read_point('a=1 b="x y"') == dict(a='1', b='x y')

def test_a_grid_has_every_combination_and_rows_come_first(toy):
    (toy.parent/'row.yaml').write_text('profile: family/row\nkind: bad\n')
    runs = plan_sweep(toy, sweeps=[('seed', [0, 1]), ('scales', ['[1]', '[2]'])], rows=[str(toy.parent/'row.yaml')])
    assert [one.name for one in runs] == [f'family-row_scales-{n}_s{s}' for s in (0, 1) for n in (1, 2)]

def test_two_runs_may_not_share_a_folder(toy):
    with pytest.raises(ValueError, match='they are the same'): plan_sweep(toy, points=[dict(seed='1'), dict(seed='1')])
    with pytest.raises(ValueError, match='would share'): plan_sweep(toy, dict(log_dir=str(toy.parent/'x')), sweeps=[('seed', [0, 1])])

def test_graphics_cards_are_dealt_out(monkeypatch):
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '3,5,7')
    monkeypatch.setenv('OMP_NUM_THREADS', '4')
    assert _cards() == ['3', '5', '7']
    assert [_environment(place, 3)['CUDA_VISIBLE_DEVICES'] for place in range(3)] == ['3', '5', '7']
    assert _environment(1, 2, gpus=2)['CUDA_VISIBLE_DEVICES'] == '7,3' and _environment(0, 2)['OMP_NUM_THREADS'] == '4'
    assert _environment(0, 1)['CUDA_VISIBLE_DEVICES'] == '3,5,7'

def test_no_number_of_jobs_is_refused(toy):
    with pytest.raises(ValueError, match='at least 1'): run_sweep([], 0)

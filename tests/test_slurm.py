"The cluster, without one: submitit's local and debug executors, a made-up sbatch, and the script it is given."
import json, os, signal, time
import pytest
pytest.importorskip('submitit')
from segmenter import cli
from segmenter.slurm import SlurmSettings, batch_script, submit_sweep
from segmenter.sweeps import plan_sweep
from small_sets import make_notebook

DIALS = '''profile: str = "toy" # Label of the row
kind: str = "good"     # good, bad (fails), slow (waits until it is pre-empted)
seed: int = 0          # Of everything random
log_dir: str = ""      # Where outputs go'''
BODY = '''import os, time
from segmenter.experiments import start_run
run = start_run(dict(profile=profile, kind=kind, seed=seed), log_dir)
again = (run.folder/'checkpoint.pth').exists()
(run.folder/'checkpoint.pth').write_text('half')
(run.folder/'pid').write_text(str(os.getppid()))
if kind == 'bad': raise FloatingPointError('loss is nan')
if kind == 'slow' and not again: time.sleep(120)
run.record(mIoU=10. + seed, n_images=1)['status']'''

@pytest.fixture
def toy(tmp_path): return make_notebook(tmp_path/'toy.ipynb', DIALS, BODY)

def state(folder): return json.loads((folder/'metrics.json').read_text())

def test_the_script_asks_for_what_was_asked(toy):
    runs = plan_sweep(toy, sweeps=[('seed', list(range(5)))], out=toy.parent/'runs')
    text = batch_script(runs, SlurmSettings(gpus=4, cpus=12, memory=100, hours=1.5, partition='gpu', account='lab', at_once=2), 'logs')
    for line in ('#SBATCH --array=0-4%2', '#SBATCH --gpus-per-node=4', '#SBATCH --cpus-per-task=12', '#SBATCH --mem=100GB', '#SBATCH --time=90',
                 '#SBATCH --partition=gpu', '#SBATCH --account=lab', '#SBATCH --requeue', '#SBATCH --signal=USR2@120', '#SBATCH --open-mode=append'):
        assert line in text.splitlines(), line
    assert 'srun' in text and 'submitit.core._submit' in text and '--gpus' not in batch_script(runs, SlurmSettings(gpus=0))

def test_a_preempted_job_goes_back_into_the_line_and_continues(toy):
    one, = runs = plan_sweep(toy, dict(kind='slow'), out=toy.parent/'runs')
    job, = submit_sweep(runs, SlurmSettings(hours=.2), toy.parent/'logs', 'local')
    until = time.monotonic() + 90
    pid = one.folder/'pid'
    while not (pid.exists() and pid.read_text()):
        assert time.monotonic() < until, job.stderr()
        time.sleep(.2)
    os.kill(int(pid.read_text()), signal.SIGUSR2) # what the cluster sends before it takes a machine away
    assert job.result() == 'done'
    assert state(one.folder)['attempts'] == 2 and state(one.folder)['status'] == 'done' and (one.folder/'row.csv').exists()

def test_in_one_process_a_failed_run_is_a_state_and_finished_ones_are_left_out(toy):
    runs = plan_sweep(toy, sweeps=[('kind', ['good', 'bad'])], out=toy.parent/'runs')
    assert [job.result() for job in submit_sweep(runs, folder=toy.parent/'logs', cluster='debug')] == ['done', 'failed']
    before = state(runs[0].folder)
    assert [job.result() for job in submit_sweep(runs, folder=toy.parent/'logs', cluster='debug')] == ['failed']
    assert state(runs[0].folder) == before and set(before) >= {'commit', 'versions', 'device', 'seconds', 'metrics'}

@pytest.fixture
def cluster(tmp_path, monkeypatch):
    "A made-up sbatch that keeps the script and says a number."
    tools = tmp_path/'bin'
    tools.mkdir()
    (tools/'srun').write_text('#!/bin/sh\n')
    (tools/'sbatch').write_text(f'#!/bin/sh\ncp "$1" {tmp_path}/submitted.sh\necho Submitted batch job 4711\n')
    for tool in tools.iterdir(): tool.chmod(0o755)
    monkeypatch.setenv('PATH', f'{tools}:{os.environ["PATH"]}')
    return tmp_path/'submitted.sh'

def test_the_command_submits_one_array(toy, cluster, capsys):
    words = ['run', str(toy), '--out', str(toy.parent/'runs'), '--sweep', 'seed=0,1,2', '--slurm', '--gpus', '2', '--hours', '3']
    assert cli.main([*words, '--dry-run']) == 0
    out = capsys.readouterr().out
    assert '#SBATCH --array=0-2' in out and not cluster.exists() and not (toy.parent/'runs').exists()
    assert cli.main(words) == 0 and '3 jobs submitted' in capsys.readouterr().out
    text = cluster.read_text()
    assert '#SBATCH --array=0-2%3' in text and '#SBATCH --gpus-per-node=2' in text and '#SBATCH --time=180' in text
    assert len(list((toy.parent/'runs'/'slurm').glob('4711_*_submitted.pkl'))) == 3

def test_without_a_cluster_it_is_refused_in_one_line(toy, capsys, monkeypatch):
    monkeypatch.setenv('PATH', '/nowhere')
    assert cli.main(['run', str(toy), '--out', str(toy.parent/'runs'), '--slurm']) == 2
    assert 'no SLURM here' in capsys.readouterr().err

@pytest.mark.parametrize('wrong', [dict(hours=0), dict(cpus=0), dict(gpus=-1), dict(memory=0)])
def test_settings_that_cannot_be_meant_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))): SlurmSettings(**wrong)

"Several processes take the steps of one, end together, and go on from there."
import json, os, signal, subprocess, sys, time
from pathlib import Path
import numpy as np, pytest, torch
from fastai.callback.core import Callback
from segmenter.checkpoints import load_checkpoint
from segmenter.distributed import SLURM_SCRIPT, Processes, free_port, launch
from segmenter.training import read_log, train
from small_sets import make_stripes

BIN = Path(sys.executable).parent

@pytest.fixture(scope='module')
def stripes(tmp_path_factory): return make_stripes(tmp_path_factory.mktemp('stripes'), void=(0, 3))

SMALL = dict(backbone='vit_tiny_patch16_384', patch_size=8, embed_dim=32, depth=1, n_heads=2, crop_size=32, im_size=48, batch_size=4, decoder_depth=1,
             learning_rate=.01, eval_freq=100, device='cpu', samples=2)
STILL = dict(SMALL, decoder='linear', drop_path=0.)

class Dies(Callback):
    "A process that is killed at the beginning of an iteration."
    def __init__(self, rank, at): self.rank, self.at = rank, at
    def before_batch(self):
        if self.training and self.scheduled.iteration == self.at and os.environ.get('RANK') == str(self.rank): os.kill(os.getpid(), signal.SIGKILL)

def run_here(folder, settings, dies=None):
    "What a process of a launch does: train, and tell what it has."
    result = train(folder, progress=False, cbs=[Dies(*dies)] if dies else [], **settings)
    return dict(losses=[row['loss'] for row in result.curve], records=result.records, sum=sum(p.double().sum().item() for p in result.model.parameters()))

CASES = dict(fifty=dict(STILL, epochs=17), dice=dict(STILL, epochs=2, dice=1., ohem=.5), parts=dict(STILL, epochs=2, accumulate=2, ema=.9, clip_grad=1., class_balance=.5, freeze=1),
             dice_in_parts=dict(STILL, epochs=2, dice=1., accumulate=2), alive=dict(SMALL, epochs=8, optimizer='adamw', learning_rate=3e-3))

def run_all(folder, dataset):
    "Every case, one after the other: processes take long to start."
    return {name: run_here(Path(folder)/name, dict(case, dataset=dataset)) for name, case in CASES.items()}

@pytest.fixture(scope='module')
def both(stripes, tmp_path_factory):
    folder = tmp_path_factory.mktemp('runs')
    return folder, run_all(folder/'one', str(stripes)), launch(run_all, 2, str(folder/'two'), str(stripes), cpu=True)

@pytest.mark.parametrize('case', [name for name in CASES if name != 'alive'])
def test_two_processes_take_the_steps_of_one(both, case):
    _, one, two = both
    assert two[0][case] == two[1][case]
    np.testing.assert_allclose(two[0][case]['losses'], one[case]['losses'], atol=1e-5, rtol=0)
    scores = lambda run: [{k: v for k, v in r.items() if k.startswith('val')} for r in run['records']]
    assert scores(two[0][case]) == scores(one[case]) and scores(one[case])[0]

def test_fifty_steps_were_compared_and_the_same_files_written(both):
    folder, one, two = both
    assert len(one['fifty']['losses']) == 51
    files = lambda who: sorted(f.name for f in (folder/who/'fifty').iterdir())
    assert files('one') == files('two') and 'samples.jpg' in files('two')

def test_with_dropout_both_learn_and_hold_the_same_weights(both):
    for run in (both[1], *both[2]): assert np.mean(run['alive']['losses'][-6:]) < .8*np.mean(run['alive']['losses'][:6])
    assert both[2][0]['alive']['sum'] == both[2][1]['alive']['sum'] != both[1]['alive']['sum']

@pytest.mark.slow
@pytest.mark.parametrize('world', [3, 4])
def test_shares_may_be_uneven_and_empty(stripes, tmp_path, world):
    asked = dict(STILL, dataset=str(stripes), epochs=2)
    one, some = run_here(tmp_path/'one', asked), launch(run_here, world, tmp_path/'some', asked, cpu=True)
    np.testing.assert_allclose(some[0]['losses'], one['losses'], atol=1e-5, rtol=0)
    assert all(rank == some[0] for rank in some)

def test_a_killed_process_ends_the_run_which_goes_on_with_two_or_with_one(stripes, tmp_path):
    asked = dict(STILL, dataset=str(stripes), epochs=3, checkpoint_every=1)
    start = time.monotonic()
    with pytest.raises(Exception, match='(?i)process [01] terminated'): launch(run_here, 2, str(tmp_path/'run'), asked, (1, 4), cpu=True)
    assert time.monotonic() - start < 120 and not any(c.is_alive() for c in torch.multiprocessing.active_children())
    state = load_checkpoint(tmp_path/'run'/'checkpoint.pth')['segmenter_state']
    assert state['position'] == dict(epoch=1, batch=1, of=3) and len(state['generators']) == 2
    whole = run_here(tmp_path/'whole', asked)
    alone = run_here(tmp_path/'run', asked)
    np.testing.assert_allclose(alone['losses'], whole['losses'], atol=1e-5, rtol=0)
    assert [r['epoch'] for r in read_log(tmp_path/'run')] == [0, 1, 2]

def test_who_is_refused_says_so_once(stripes, tmp_path):
    other = dict(SMALL, dataset=str(stripes), epochs=2)
    run_here(tmp_path/'run', dict(other, epochs=1))
    with pytest.raises(Exception, match='epochs was 1 and is now 2|exit code 2'): launch(run_here, 2, str(tmp_path/'run'), other, cpu=True)

LAUNCHERS = dict(torchrun=[BIN/'torchrun', '--nproc-per-node', '2', '--no-python'], accelerate=[BIN/'accelerate', 'launch', '--cpu', '--num_processes', '2', '--num_machines', '1', '--mixed_precision', 'no', '--no_python'])

def verb(folder, asked): return [BIN/'segmenter', 'train', '--log-dir', folder, *(f'--{k.replace("_", "-")}={v}' for k, v in asked.items())]

@pytest.mark.slow
@pytest.mark.parametrize('launcher', ['torchrun', 'srun'])
def test_the_same_command_under_every_launcher(stripes, tmp_path, launcher):
    asked, out = dict(STILL, dataset=stripes, epochs=2), tmp_path/'run'
    env = {k: v for k, v in os.environ.items() if k not in ('RANK', 'WORLD_SIZE')} | dict(OMP_NUM_THREADS='1')
    slurm = lambda rank: dict(SLURM_JOB_ID=str(os.getpid()), SLURM_STEP_ID='0', SLURM_PROCID=str(rank), SLURM_STEP_NUM_TASKS='2', SLURM_LOCALID=str(rank), SLURM_STEP_NODELIST='localhost')
    starts = [([*map(str, LAUNCHERS['torchrun'] + verb(out, asked))], env)] if launcher == 'torchrun' else [([*map(str, verb(out, asked))], env | slurm(rank)) for rank in range(2)]
    running = [subprocess.Popen(line, env=e, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for line, e in starts]
    said = [p.communicate(timeout=300) for p in running]
    assert [p.returncode for p in running] == [0]*len(running), said[0][1][-2000:]
    assert ''.join(out for out, _ in said).count('best validation mIoU') == 1
    one = run_here(tmp_path/'one', dict(asked, dataset=str(stripes)))
    assert [r['val_mean_iou'] for r in read_log(out) if 'val_mean_iou' in r] == [r['val_mean_iou'] for r in one['records'] if 'val_mean_iou' in r]

def test_the_batch_script_is_a_script(tmp_path):
    (tmp_path/'train.sbatch').write_text(SLURM_SCRIPT)
    assert subprocess.run(['bash', '-n', tmp_path/'train.sbatch']).returncode == 0

def test_a_port_is_free_and_a_process_alone_is_alone():
    import socket
    with socket.socket() as s: s.bind(('localhost', free_port()))
    assert Processes.here({}) == Processes()

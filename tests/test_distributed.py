"Several processes take the steps of one, end together, and go on from there."
import json, os, re, shutil, signal, subprocess, sys, time
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
    "What a process of a launch does: train, and tell what it has, as JSON would."
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
    scores = lambda run: [r['val_mean_iou'] for r in run['records'] if 'val_mean_iou' in r]
    assert scores(some[0]) == scores(one) and scores(one)

def kill_one(folder, asked):
    "A run of two whose second process is killed in the second epoch; the checkpoint is the one before."
    start = time.monotonic()
    with pytest.raises(Exception, match='(?i)process [01] terminated'): launch(run_here, 2, str(folder), asked, (1, 4), cpu=True)
    assert time.monotonic() - start < 600 and not any(c.is_alive() for c in torch.multiprocessing.active_children())
    state = load_checkpoint(folder/'checkpoint.pth')['segmenter_state']
    assert state['position'] == dict(epoch=1, batch=1, of=3) and len(state['generators']) == 2
    return folder

def whole_and_rest(whole, broken, asked): return run_here(whole, asked), run_here(broken, asked)

def test_a_killed_process_ends_the_run_which_goes_on_with_two_or_with_one(stripes, tmp_path, capfd):
    asked = dict(STILL, dataset=str(stripes), epochs=3, checkpoint_every=1)
    broken = kill_one(tmp_path/'run', asked)
    said = capfd.readouterr().err
    assert said.count('process 0 ends, because another one is gone') == 1 and 'Traceback' not in said
    shutil.copytree(broken, tmp_path/'copy')
    alone = run_here(broken, asked)
    (whole, two), other = launch(whole_and_rest, 2, str(tmp_path/'whole'), str(tmp_path/'copy'), asked, cpu=True)
    assert whole == two and other == [whole, two]
    np.testing.assert_allclose(alone['losses'], whole['losses'], atol=1e-5, rtol=0)
    assert [r['epoch'] for r in read_log(broken)] == [r['epoch'] for r in read_log(tmp_path/'copy')] == [0, 1, 2]

@pytest.mark.slow
def test_with_dropout_too_two_go_on_to_the_bit_where_one_of_two_was_killed(stripes, tmp_path):
    asked = dict(SMALL, dropout=.1, dataset=str(stripes), epochs=3, checkpoint_every=1)
    broken = kill_one(tmp_path/'run', asked)
    (whole, rest), _ = launch(whole_and_rest, 2, str(tmp_path/'whole'), str(broken), asked, cpu=True)
    assert whole == rest
    for name in 'log.txt', 'curves.csv': assert (broken/name).read_bytes() == (tmp_path/'whole'/name).read_bytes()

def test_what_stopped_a_process_is_said_by_who_launched_it(stripes, tmp_path):
    other = dict(SMALL, dataset=str(stripes), epochs=2)
    run_here(tmp_path/'run', dict(other, epochs=1))
    with pytest.raises(ValueError, match='epochs was 1 and is now 2'): launch(run_here, 2, str(tmp_path/'run'), other, cpu=True)

def refusals(folder, good, bad):
    "Exit codes of commands that are refused, each by all processes together."
    from segmenter import cli
    import segmenter.training as training
    words = lambda data, name: ['train', '--log-dir', f'{folder}/{name}', '--dataset', str(data), *(f'--{k.replace("_", "-")}={v}' for k, v in STILL.items()), '--epochs=2']
    codes = [cli.main(words(bad, 'labels')), cli.main(words(good, 'flag') + ['--no-such-flag'])]
    def broken(*args, **kwargs): raise OSError(5, 'the disk is gone', 'masks')
    training.audit = broken
    codes.append(cli.main(words(good, 'sample')))
    training._SAMPLE, training._sampled = 2, lambda parts: '' # in the first epoch, beside the training
    return codes + [cli.main(words(good, 'all'))]

def test_what_all_would_refuse_the_first_says_once_and_nobody_waits(stripes, tmp_path, capfd):
    from PIL import Image
    bad, start = make_stripes(tmp_path/'bad'), time.monotonic()
    for path in (bad/'annotations'/'train').iterdir(): Image.fromarray(np.full((48, 48), 9, np.uint8)).save(path)
    found = launch(refusals, 2, str(tmp_path), str(stripes), str(bad), cpu=True)
    assert [code > 0 for codes in found for code in codes] == [True]*8 and time.monotonic() - start < 600
    said = re.findall('segmenter train: .*', capfd.readouterr().err)
    assert len(said) == 4 and 'segmenter doctor' in said[0] and '--no-such-flag' in said[1] and 'the disk is gone' in said[2] and 'the disk is gone' in said[3], said

@pytest.mark.parametrize('process, local, says', [(None, 0, 'segmenter train: no'), (None, 1, ''), (0, 0, 'segmenter train: no'), (2, 0, 'segmenter train, process 2: no')])
def test_of_each_machine_one_process_speaks_and_what_is_its_own_each(process, local, says, capsys, monkeypatch):
    from segmenter.flags import answer
    monkeypatch.setenv('LOCAL_RANK', str(local))
    def verb():
        error = ValueError('no')
        if process is not None: error.process = process
        raise error
    assert answer('segmenter train', verb, []) == 2 and capsys.readouterr().err.strip() == says

LAUNCHERS = dict(torchrun=[BIN/'torchrun', '--nproc-per-node', '2', '--no-python'],
    accelerate=[BIN/'accelerate', 'launch', '--multi_gpu', '--num_processes', '2', '--num_machines', '1', '--main_process_port', '0', '--mixed_precision', 'no', '--dynamo_backend', 'no', '--no_python'],
    mpirun=['mpirun', '--allow-run-as-root', '--oversubscribe', '-n', '2', '-x', f'MASTER_PORT={free_port()}'])

def verb(folder, asked): return [BIN/'segmenter', 'train', '--log-dir', folder, *(f'--{k.replace("_", "-")}={v}' for k, v in asked.items())]

@pytest.mark.slow
@pytest.mark.parametrize('launcher', [*LAUNCHERS, 'srun'])
def test_the_same_command_under_every_launcher(stripes, tmp_path, launcher):
    if launcher == 'mpirun' and not shutil.which('mpirun'): pytest.skip('no mpirun: apt-get install openmpi-bin')
    asked, out = dict(STILL, dataset=stripes, epochs=2), tmp_path/'run'
    env = {k: v for k, v in os.environ.items() if k not in ('RANK', 'WORLD_SIZE')} | dict(OMP_NUM_THREADS='1')
    slurm = lambda rank: dict(SLURM_JOB_ID=str(os.getpid()), SLURM_STEP_ID='0', SLURM_PROCID=str(rank), SLURM_STEP_NUM_TASKS='2', SLURM_LOCALID=str(rank), SLURM_STEP_NODELIST='localhost')
    starts = [([*map(str, LAUNCHERS[launcher] + verb(out, asked))], env)] if launcher in LAUNCHERS else [([*map(str, verb(out, asked))], env | slurm(rank)) for rank in range(2)]
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

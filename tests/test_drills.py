"Failure drills of a run: what is pulled, spoiled or taken away, and what must be left. `drills.json` says which test is which drill."
import ast, json, multiprocessing, os, pickle, random, shutil, signal, subprocess, sys
from pathlib import Path
import numpy as np, pytest, torch
from fastai.callback.core import Callback
from segmenter.checkpoints import load_checkpoint, load_model, read_variant
from segmenter.guards import file_digest
from segmenter.safekeeping import REQUEUE, Preempted, locked
from segmenter.training import read_log, train
from small_sets import make_stripes
from test_distributed import SMALL

EVENTS = 'before_batch', 'after_loss', 'after_step', 'after_batch', 'before_validate', 'after_epoch'
FILES = 'log.txt', 'log.csv', 'curves.csv'

@pytest.fixture(scope='module')
def stripes(tmp_path_factory): return make_stripes(tmp_path_factory.mktemp('stripes'), void=(0, 3))

def asked(stripes, **more): return dict(SMALL, dataset=str(stripes), epochs=3, eval_freq=2, checkpoint_every=2, progress=False) | more

class Points(Callback):
    "Every moment at which something happens to the run: its events here, its files by audit."
    def __init__(self, kill=None): self.n, self.kill = 0, kill
    def pass_by(self):
        self.n += 1
        if self.n == self.kill: os.kill(os.getpid(), signal.SIGKILL)
for event in EVENTS: setattr(Points, event, Points.pass_by)

def watched(folder, points, settings):
    "A run whose renames, links and opened files are points too."
    def audit(event, args):
        if event in ('os.rename', 'os.link', 'os.truncate') or event == 'open' and isinstance(args[0], (str, Path)) and str(folder) in str(args[0]): points.pass_by()
    sys.addaudithook(audit)
    return train(folder, cbs=points, **settings)

def _forked(result, folder, kill, settings):
    multiprocessing.set_start_method('fork', force=True) # for the loader's workers, as in a command that a user types
    points = Points(kill)
    watched(folder, points, settings)
    result.put(points.n)

def in_a_process(folder, kill, settings):
    "Exit code of a run in a process of its own, and the points it passed."
    context = multiprocessing.get_context('forkserver') # not a fork of this process, whose autograd may have started threads
    context.set_forkserver_preload(['segmenter.training'])
    result = context.SimpleQueue()
    process = context.Process(target=_forked, args=(result, folder, kill, settings))
    process.start()
    process.join(120)
    return process.exitcode, None if result.empty() else result.get()

def same(one, other):
    "Are two runs the same to the last bit: logs, weights, momentum?"
    assert all((one/name).read_bytes() == (other/name).read_bytes() for name in FILES)
    a, b = (load_checkpoint(folder/'checkpoint.pth') for folder in (one, other))
    assert a['optimizer']['param_groups'] == b['optimizer']['param_groups'] and a['lr_scheduler'] == b['lr_scheduler']
    assert a['epoch'] == b['epoch'] and all(torch.equal(a['model'][k], b['model'][k]) for k in a['model'])
    momenta = [[s['momentum_buffer'] for s in f['optimizer']['state'].values()] for f in (a, b)]
    assert all(map(torch.equal, *momenta)) and len(momenta[0]) > 10

@pytest.mark.parametrize('workers, kills', [(0, 3), (2, 3), pytest.param(0, 20, marks=pytest.mark.slow), pytest.param(2, 20, marks=pytest.mark.slow)])
def test_killed_at_random_points_and_continued_is_the_run_that_was_not_killed(stripes, tmp_path, workers, kills):
    settings, rng = asked(stripes, workers=workers), random.Random(workers)
    code, n = in_a_process(tmp_path/'whole', None, settings)
    assert code == 0 and n > 60
    died, left = 0, n
    for i in range(kills):
        code, _ = in_a_process(tmp_path/'broken', rng.randint(1, max(2, n//(2 if kills < 5 else 6))), settings)
        assert code in (-signal.SIGKILL, 0)
        died += code != 0
    assert died == kills or kills > 5
    assert in_a_process(tmp_path/'broken', None, settings)[0] == 0
    same(tmp_path/'whole', tmp_path/'broken')
    assert not [f.name for f in (tmp_path/'broken').iterdir() if f.name.startswith('.')]

@pytest.fixture
def finished(stripes, tmp_path):
    settings = asked(stripes, epochs=2)
    return tmp_path/'run', settings, train(tmp_path/'run', **settings)

@pytest.mark.parametrize('damage', [lambda b: b[:len(b)//2], lambda b: b'', lambda b: b[:len(b)//2] + bytes([b[len(b)//2] ^ 1]) + b[len(b)//2 + 1:]], ids=['truncated', 'empty', 'one bit'])
def test_a_damaged_checkpoint_is_named_with_both_digests_and_the_one_before_used(finished, damage, capsys):
    folder, settings, whole = finished
    path = folder/'checkpoint.pth'
    was = file_digest(path)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError) as e: load_model(path)
    assert all(part in str(e.value) for part in (str(path), was, file_digest(path))) and '\n' not in str(e.value)
    again = train(folder, **settings)
    assert 'continuing from previous.pth' in capsys.readouterr().out
    assert again.records == whole.records and all(map(torch.equal, again.model.parameters(), whole.model.parameters()))

def test_with_nothing_whole_left_the_run_is_refused_and_nothing_overwritten(finished):
    folder, settings, _ = finished
    for name in 'checkpoint.pth', 'previous.pth': (folder/name).write_bytes(b'x'*99)
    with pytest.raises(ValueError, match='checkpoint.pth. is damaged'): train(folder, **settings)
    assert (folder/'previous.pth').read_bytes() == b'x'*99

class Payload:
    def __init__(self, mark): self.mark = mark
    def __reduce__(self): return os.system, (f'touch {self.mark}',)

def test_code_in_a_checkpoint_is_refused_and_not_run(finished, tmp_path):
    folder, settings, _ = finished
    (folder/'digests.json').unlink()
    for name in 'checkpoint.pth', 'previous.pth': torch.save(dict(model=Payload(tmp_path/'ran')), folder/name)
    for read in (lambda: load_model(folder), lambda: train(folder, **settings)):
        with pytest.raises(ValueError, match='wants to run code') as e: read()
        assert '\n' not in str(e.value)
    with open(folder/'checkpoint.pth', 'wb') as f: pickle.dump(Payload(tmp_path/'ran'), f)
    with pytest.raises(ValueError): load_model(folder)
    assert not (tmp_path/'ran').exists()

def test_code_in_a_variant_is_refused_and_not_run(finished, tmp_path):
    path = finished[0]/'variant.yml'
    path.write_text(path.read_text() + f'evil: !!python/object/apply:os.system ["touch {tmp_path}/ran"]\n')
    with pytest.raises(ValueError, match='is not a variant file') as e: read_variant(path)
    assert '\n' not in str(e.value) and not (tmp_path/'ran').exists()

def test_a_full_disk_leaves_the_checkpoint_before(stripes, tmp_path, monkeypatch):
    import segmenter.guards as guards
    settings = asked(stripes)
    class Fills(Callback):
        def before_batch(self):
            if self.scheduled.iteration == 5:
                def full(*args, **kwargs): raise OSError(28, 'No space left on device')
                monkeypatch.setattr(guards.os, 'fsync', full)
    with pytest.raises(OSError, match='No space left'): train(tmp_path/'run', cbs=Fills(), **settings)
    monkeypatch.undo()
    assert load_checkpoint(tmp_path/'run'/'checkpoint.pth')['segmenter_state']['position'] == dict(epoch=1, batch=1, of=3)
    assert not list((tmp_path/'run').glob('.*'))
    train(tmp_path/'run', **settings)
    train(tmp_path/'whole', **settings)
    same(tmp_path/'whole', tmp_path/'run')

def test_no_nan_gets_into_a_checkpoint_or_an_average(stripes, tmp_path):
    class Spoils(Callback):
        def before_batch(self):
            if self.training and self.scheduled.iteration == 4: self.learn.xb = (self.xb[0]*float('nan'),)
    with pytest.raises(FloatingPointError, match='at iteration 4 .epoch 1.*images .*png'): train(tmp_path/'run', cbs=Spoils(), **asked(stripes, ema=.9))
    file = load_checkpoint(tmp_path/'run'/'checkpoint.pth')
    assert file['segmenter_state']['position'] == dict(epoch=1, batch=1, of=3)
    assert all(torch.isfinite(v).all() for part in (file['model'], file['segmenter_state']['trained']) for v in part.values())

def test_memory_that_runs_out_gives_the_gradient_of_the_whole_batch(stripes):
    from copy import deepcopy
    from segmenter.losses import fused_cross_entropy
    from segmenter.model import create_model
    from segmenter.steps import accumulate, within_memory
    torch.manual_seed(0)
    model = create_model(backbone='vit_tiny_patch16_384', patch_size=8, embed_dim=32, depth=1, n_heads=2, n_classes=3, image_size=32, decoder='linear', drop_path_rate=0.).double()
    images, labels = torch.randn(4, 3, 32, 32).double(), torch.randint(0, 3, (4, 32, 32))
    labels[1, 4:] = 255
    whole = deepcopy(model)
    fused_cross_entropy(whole.masks(images), labels).backward()
    def small(x):
        if len(x) > 1: raise torch.OutOfMemoryError('CUDA out of memory')
        return model.masks(x)
    assert within_memory(lambda parts: accumulate(small, fused_cross_entropy, images, labels, parts), 1, 4, model.zero_grad) == 4
    for a, b in zip(model.parameters(), whole.parameters()):
        if b.grad is not None: torch.testing.assert_close(a.grad, b.grad, atol=1e-6, rtol=0)

def test_data_that_cannot_be_written_to_are_enough(stripes, tmp_path):
    before = sorted((f.relative_to(stripes), f.stat().st_mtime_ns) for f in stripes.rglob('*'))
    places = [stripes, *(f for f in stripes.rglob('*') if f.is_dir())]
    for place in places: place.chmod(0o555)
    try: train(tmp_path/'run', **asked(stripes, epochs=1))
    finally:
        for place in places: place.chmod(0o755)
    assert sorted((f.relative_to(stripes), f.stat().st_mtime_ns) for f in stripes.rglob('*')) == before

def test_a_worker_that_dies_ends_the_run_which_goes_on_as_if_nothing_had_been(stripes, tmp_path):
    settings = asked(stripes, workers=2)
    class Kills(Callback):
        def before_batch(self):
            if self.training and self.scheduled.iteration == 3:
                for child in multiprocessing.active_children(): os.kill(child.pid, signal.SIGKILL)
    with pytest.raises(RuntimeError, match='DataLoader worker'): train(tmp_path/'run', cbs=Kills(), **settings)
    train(tmp_path/'run', **settings)
    train(tmp_path/'whole', **dict(settings, workers=0))
    same(tmp_path/'whole', tmp_path/'run')

def _holds(folder, ready, end):
    with locked(folder): ready.set(), end.wait(60)

def test_a_second_run_on_a_folder_is_refused_and_a_dead_one_is_no_obstacle(finished):
    folder, settings, _ = finished
    context = multiprocessing.get_context('forkserver') # not a fork of this process, whose autograd may have started threads
    context.set_forkserver_preload(['segmenter.training'])
    ready, end = context.Event(), context.Event()
    other = context.Process(target=_holds, args=(folder, ready, end))
    other.start()
    assert ready.wait(30)
    with pytest.raises(ValueError, match=f'another run is at work .*process {other.pid}') as e: train(folder, **settings)
    assert '\n' not in str(e.value)
    other.kill(), other.join()
    assert (folder/'.lock').exists() and train(folder, **settings).epochs_before == 2

@pytest.mark.parametrize('number, workers', [(signal.SIGTERM, 0), (signal.SIGUSR1, 2)])
def test_a_scheduler_that_asks_gets_a_checkpoint_and_the_code_to_requeue(stripes, tmp_path, number, workers):
    settings = asked(stripes, checkpoint_every=0, workers=workers)
    class Asks(Callback):
        def before_batch(self):
            if self.training and self.scheduled.iteration == 4: os.kill(os.getpid(), number)
    before = signal.getsignal(number)
    with pytest.raises(Preempted) as e: train(tmp_path/'run', cbs=Asks(), **settings)
    assert e.value.code == REQUEUE == 75 and 'iteration 5 is safe' in str(e.value) and signal.getsignal(number) == before
    assert load_checkpoint(tmp_path/'run'/'checkpoint.pth')['segmenter_state']['position'] == dict(epoch=1, batch=2, of=3)
    train(tmp_path/'run', **settings)
    train(tmp_path/'whole', **settings)
    same(tmp_path/'whole', tmp_path/'run')

def test_a_stop_during_validation_repeats_the_validation_only(stripes, tmp_path, monkeypatch):
    import segmenter.training as training
    settings = asked(stripes, ema=.9)
    class Asks(Callback):
        def before_validate(self): os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(Preempted): train(tmp_path/'run', cbs=Asks(), **settings)
    again, whole = train(tmp_path/'run', **settings), train(tmp_path/'whole', **settings)
    same(tmp_path/'whole', tmp_path/'run')
    assert (again.epochs_before, again.records) == (0, whole.records)

def test_a_finished_run_is_not_overwritten(finished):
    folder, settings, _ = finished
    before = {f.name: f.read_bytes() for f in folder.iterdir()}
    with pytest.raises(ValueError, match='holds a run already'): train(folder, **dict(settings, resume=False))
    with pytest.raises(ValueError, match='learning_rate was 0.01 and is now 0.02'): train(folder, **dict(settings, learning_rate=.02))
    assert {f.name: f.read_bytes() for f in folder.iterdir()} == before

def test_checkpoints_that_stay_and_the_keys_of_the_authors(stripes, tmp_path):
    train(tmp_path/'run', **asked(stripes, epochs=4, keep_every=2))
    assert [f.name for f in sorted((tmp_path/'run').glob('epoch_*'))] == ['epoch_0002.pth', 'epoch_0004.pth']
    assert [load_checkpoint(tmp_path/'run'/f'epoch_000{n}.pth')['epoch'] for n in (2, 4)] == [1, 3]
    assert list(load_checkpoint(tmp_path/'run'/'checkpoint.pth')) == ['model', 'optimizer', 'n_cls', 'lr_scheduler', 'epoch', 'segmenter_state']

def test_other_images_than_before_are_refused(stripes, tmp_path):
    data = make_stripes(tmp_path/'data', void=(0, 3))
    class Cut(Callback):
        def before_batch(self):
            if self.training and self.scheduled.iteration == 2: raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): train(tmp_path/'run', cbs=Cut(), **asked(data))
    for part in 'images', 'annotations':
        for i in range(6): (data/part/'train'/f'{i}.png').unlink()
    with pytest.raises(ValueError, match='had 3 batches an epoch and would now have 1'): train(tmp_path/'run', **asked(data))

def test_predictions_in_a_row_do_not_fill_the_memory(n=200):
    from segmenter.model import create_model
    from segmenter.predict import predict
    import gc
    model = create_model(backbone='vit_tiny_patch16_384', patch_size=8, embed_dim=24, depth=1, n_heads=1, n_classes=3, image_size=32, decoder='linear').eval()
    image, resident = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8), []
    for i in range(n):
        predict(model, image)
        if i % (n//4) == n//4 - 1: gc.collect(), resident.append(int(Path('/proc/self/statm').read_text().split()[1])*os.sysconf('SC_PAGE_SIZE'))
    assert resident[-1] - resident[0] < 20*2**20, resident

@pytest.mark.slow
def test_two_thousand_predictions_do_not_fill_the_memory(): test_predictions_in_a_row_do_not_fill_the_memory(2000)

@pytest.mark.slow
def test_ckpt_chaos_finds_nothing(stripes, tmp_path):
    chaos = pytest.importorskip('ckpt_chaos')
    shutil.copytree(Path(chaos.__file__).parent, tmp_path/'alone'/'ckpt_chaos') # it puts its own folder on the path of what it watches
    words = [f'--{k.replace("_", "-")}={v}' for k, v in asked(stripes, epochs=2, eval_freq=1).items() if k != 'progress']
    line = [sys.executable, '-m', 'ckpt_chaos', 'run', '--max-points', '8', '--timeout', '300', '--work', 'work', '--result-cmd', f'{sys.executable} {Path(__file__).with_name("run_digest.py")} {{out}}/run',
            '--fail-on', 'HARD_FAIL,SILENT_DIVERGENCE,CONTROL_FAIL,LOST_WORK', '--', Path(sys.executable).parent/'segmenter', 'train', '--log-dir', '{out}/run', *words]
    done = subprocess.run([str(w) for w in line], cwd=tmp_path, env=os.environ | dict(PYTHONPATH=str(tmp_path/'alone'), OMP_NUM_THREADS='1'), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]

# ---- The list of drills

def all_tests(root):
    "Name of every test, `file::function`."
    return {f'{path.name}::{node.name}' for path in (root/'tests').glob('test_*.py') for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef) and node.name.startswith('test_')}

def test_every_drill_has_tests_and_every_test_it_names_exists(root):
    drills, there = json.loads((root/'tests'/'drills.json').read_text()), all_tests(root)
    assert [d['number'] for d in drills] == list(range(1, 17)) and all(d['tests'] for d in drills)
    assert [name for d in drills for name in d['tests'] if name not in there] == []

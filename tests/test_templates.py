"Each template at smoke size through the runner: files, a whole record, finite values; a slip stops it in seconds."
import csv, json, math, os, signal, subprocess, sys, time
import pytest
from segmenter.experiments import RunFailed, find_template, read_parameters, run_notebook
from segmenter.registry import read_record, write_html

WROTE = dict(evaluate={'eval_ss.json', 'scores_ss.yml', 'per_class_ss.csv', 'figures'}, finetune={'checkpoint.pth', 'variant.yml', 'curves.csv', 'figures'},
             ablation={'curves.csv', 'runs.csv', 'figures'}, speed={'speed.csv', 'figures'}, attention={'curves.csv', 'figures'}, video={'frames', 'labels', 'figures'})
FOUND = dict(evaluate='interval_low', finetune='train_loss', ablation='depth=2_over_1', speed='Seg-T-Mask/16_batch-2_throughput', attention='reach_layer_2', video='throughput')

@pytest.mark.parametrize('name', WROTE)
def test_a_template_runs_at_smoke_size_and_leaves_a_whole_record(name, tmp_path):
    if name == 'video': pytest.importorskip('av')
    folder = run_notebook(name, dict(device='cpu'), tmp_path, quiet=True)
    record = read_record(folder)
    assert record['profile'] == 'smoke' and record['status'] == 'done' and FOUND[name] in record['metrics']
    assert all(math.isfinite(m['value']) for m in record['metrics'].values())
    assert WROTE[name] | {'report.ipynb', 'params.json', 'row.csv'} <= {path.name for path in folder.iterdir()} and list((folder/'figures').glob('*.png'))
    if name == 'speed': assert b'Speed' in write_html(folder).read_bytes()

@pytest.mark.parametrize('name', ['train', *WROTE])
def test_a_template_explains_every_dial_and_is_kept_without_outputs(name):
    template = find_template(name)
    declared = read_parameters(template)
    assert declared['profile'].default == 'smoke' and {'seed', 'log_dir', 'device'} <= set(declared) and all(p.help for p in declared.values())
    cells = json.loads(template.read_text())['cells']
    assert not any(c.get('outputs') for c in cells) and '## Record' in [''.join(c['source']).strip() for c in cells]
    promise = ''.join(cells[0]['source']) + ''.join(cells[1]['source'])
    assert all(word in promise for word in ('**Question.**', '**Expected.**', f'segmenter run {name}'))

@pytest.mark.parametrize('name, dial, value, says', [
    ('evaluate', 'dataset', 'no_such_data', 'no_such_data'), ('evaluate', 'checkpoint', 'none.pth', 'none.pth'), ('speed', 'variants', "['Seg-X/16']", 'Seg-'),
    ('finetune', 'folder', '/nowhere', '/nowhere'), ('finetune', 'crop_size', '60', 'no multiple of the patch size'), ('ablation', 'dial', 'dept', "'depth'"),
    ('attention', 'x_patch', '99', 'outside the grid'), ('video', 'film', 'none.mp4', 'none.mp4')])
def test_what_cannot_work_stops_before_it_costs(name, dial, value, says, tmp_path):
    with pytest.raises(RunFailed) as e: run_notebook(name, {dial: value, 'device': 'cpu'}, tmp_path, quiet=True)
    assert says in str(e.value)

def test_an_unknown_dial_and_a_wrong_type_do_not_start(tmp_path):
    began = time.monotonic()
    for name in WROTE:
        with pytest.raises(KeyError, match='unknown parameter'): run_notebook(name, dict(sed=1), tmp_path)
        with pytest.raises(ValueError, match="parameter 'seed'"): run_notebook(name, dict(seed='many'), tmp_path)
    assert not list(tmp_path.iterdir()) and time.monotonic() - began < 10

def test_a_data_set_that_is_a_clip_is_judged_by_its_truth_and_makes_a_short_clip(tmp_path):
    pytest.importorskip('av')
    import numpy as np
    from PIL import Image
    from segmenter.datasets import load_dataset
    tiles, place = load_dataset('landcover', 'val'), tmp_path/'flight'
    for part, whole in (('images', tiles.image(9)), ('annotations', tiles.label_map(9))):
        for split in ('train', 'val'):
            (place/part/split).mkdir(parents=True)
            for i in range(4): Image.fromarray(np.ascontiguousarray(whole[4*i:4*i + 96, 4*i:4*i + 96])).save(place/part/split/f'{i}.png')
    (place/'classes.txt').write_text('\n'.join(tiles.classes.names))
    folder = run_notebook('video', dict(device='cpu', profile='film', dataset=str(place), rate=8., compare=True, clip_seconds=.5, clip_width=64), tmp_path/'runs', quiet=True)
    found = {name: m['value'] for name, m in read_record(folder)['metrics'].items()}
    assert {'alone_truth_mIoU', 'written_truth_mIoU'} <= set(found) and found['written_n_pairs'] == 3
    with Image.open(folder/'figures/clip.gif') as clip: assert (clip.n_frames, clip.size) == (4, (128, 64))

@pytest.mark.slow
def test_several_processes_measure_what_one_measures(tmp_path):
    values = dict(device='cpu', limit=0)
    one, two = (read_record(run_notebook('evaluate', values | dict(processes=n), tmp_path/str(n), quiet=True))['metrics'] for n in (1, 2))
    assert one['mIoU'] == two['mIoU'] and one['aAcc'] == two['aAcc']

def rows(folder):
    with open(folder/'curves.csv') as f: return [float(row['loss']) for row in csv.DictReader(f)]

@pytest.mark.slow
def test_a_training_shared_by_two_is_interrupted_continued_and_is_the_training_of_one(tmp_path):
    dials = [word for name, value in dict(device='cpu', drop_path=0, epochs=8, train_images=48, checkpoint_every=1, eval_freq=8).items() for word in ('-p', name, str(value)) if name in read_parameters(find_template('train'))]
    hears = 'import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from segmenter.cli import main; raise SystemExit(main())' # also behind a shell
    line = [sys.executable, '-c', hears, 'run', 'train', *dials]
    out = tmp_path/'two'
    two = subprocess.Popen([str(w) for w in [*line, '--torchrun', '2', '--out', out]], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    until = time.monotonic() + 900
    while not list(out.glob('*/checkpoint.pth')):
        assert time.monotonic() < until and two.poll() is None, two.communicate()[0][-3000:]
        time.sleep(.1)
    two.send_signal(signal.SIGINT)
    assert two.wait(300) == 130 and 'Traceback' not in two.stdout.read()
    folder, = out.iterdir()
    state = json.loads((folder/'metrics.json').read_text())
    assert state['status'] == 'failed' and 'KeyboardInterrupt' in state['exception']
    again = subprocess.run([str(w) for w in [*line, '--torchrun', '2', '--out', out]], capture_output=True, text=True, timeout=600)
    assert again.returncode == 0 and 'resuming from checkpoint.pth' in again.stdout, again.stderr[-3000:]
    alone = subprocess.run([str(w) for w in [*line, '--out', tmp_path/'one']], capture_output=True, text=True, timeout=600)
    assert alone.returncode == 0, alone.stderr[-3000:]
    a, b = read_record(tmp_path/'one'/folder.name), read_record(folder)
    assert (a['processes'], b['processes'], b['attempts']) == (1, 2, 2)
    assert rows(tmp_path/'one'/folder.name) == pytest.approx(rows(folder), abs=1e-5) and a['metrics']['mIoU']['value'] == pytest.approx(b['metrics']['mIoU']['value'], abs=.5)

def test_more_processes_than_a_batch_has_crops_are_refused(tmp_path):
    with pytest.raises(RunFailed, match='a batch of 16 does not reach 17 processes'): run_notebook('train', dict(device='cpu', processes=17), tmp_path, quiet=True)

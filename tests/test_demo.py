"The experiment behind `make demo`, at smoke size, as its user runs it."
import csv, json, math, subprocess, sys
from pathlib import Path
import pytest
from segmenter.experiments import check_parameters, find_template, load_profile, read_parameters

def segmenter(*words, cwd):
    return subprocess.run([Path(sys.executable).with_name('segmenter'), *map(str, words)], cwd=cwd, capture_output=True, text=True)

@pytest.fixture(scope='module')
def smoke(tmp_path_factory):
    "A finished smoke run: where it happened, its folder, what was printed."
    where = tmp_path_factory.mktemp('smoke')
    done = segmenter('run', 'train', '-p', 'device', 'cpu', cwd=where)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return where, next((where/'runs').iterdir()), done

def test_the_run_folder_holds_what_a_reader_expects(smoke):
    _, run, _ = smoke
    expected = {'report.ipynb', 'params.json', 'metrics.json', 'row.csv', 'curves.csv', 'figures', 'checkpoint.pth', 'best.pth', 'variant.yml', 'log.txt',
                'scores_ss.yml', 'eval_ss.json', 'per_class_ss.csv'}
    assert expected <= {path.name for path in run.iterdir()}
    assert {'batch.png', 'classes.png', 'curves.png', 'per_class.png', 'samples.png'} <= {path.name for path in (run/'figures').iterdir()}

def test_the_record_says_what_was_measured_on_what(smoke):
    record = json.loads((smoke[1]/'metrics.json').read_text())
    assert record['status'] == 'done' and record['profile'] == 'smoke' and (record['dataset'], record['split'], record['n_images']) == ('landcover', 'val', 36)
    assert len(record['data_hash']) == 64 and {'torch', 'timm', 'fastai', 'segmenter'} <= set(record['versions']) and record['device']
    metrics = {name: m['value'] for name, m in record['metrics'].items()}
    assert all(math.isfinite(value) for value in metrics.values())
    for rule in 'majority_class', 'nearest_colour', 'colour_table': assert metrics[f'over_{rule}'] == pytest.approx(metrics['mIoU']/metrics[f'{rule}_mIoU'])
    row = next(csv.DictReader((smoke[1]/'row.csv').open()))
    assert float(row['mIoU']) == pytest.approx(metrics['mIoU'])

def test_progress_is_live(smoke): assert 'image' in smoke[2].stderr + smoke[2].stdout and '%|' in smoke[2].stderr + smoke[2].stdout

def test_a_second_call_finds_the_finished_run(smoke):
    where, run, _ = smoke
    before = (run/'metrics.json').stat().st_mtime_ns
    again = segmenter('run', 'train', '-p', 'device', 'cpu', cwd=where)
    assert again.returncode == 0 and 'finished' in again.stdout + again.stderr and (run/'metrics.json').stat().st_mtime_ns == before

def test_its_checkpoint_predicts_a_folder_of_photos(smoke, tmp_path):
    from PIL import Image
    import numpy as np
    from segmenter.datasets import load_dataset
    photos = tmp_path/'photos'
    photos.mkdir()
    Image.fromarray(load_dataset('landcover', 'val').image(9)).save(photos/'tile.jpg')
    done = segmenter('predict', '--model-path', smoke[1]/'checkpoint.pth', '-i', photos, '-o', tmp_path/'out', '--cpu', cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path/'out').iterdir()) == ['tile.png', 'tile_overlay.jpg']
    assert np.array(Image.open(tmp_path/'out'/'tile.png')).max() < 17

@pytest.mark.parametrize('words, says', [
    (('-p', 'epoch', '3'), "epochs"), (('-p', 'epochs', 'many'), 'epochs'), (('-p', 'crop_size', '60'), 'no multiple of the patch size'),
    (('-p', 'variant', 'Seg-X/16'), 'Seg-'), (('-f', 'dmo'), 'demo')])
def test_a_wrong_dial_is_refused_by_name_with_a_non_zero_exit(words, says, tmp_path):
    done = segmenter('run', 'train', *words, cwd=tmp_path)
    assert done.returncode != 0 and says in done.stderr

def test_every_profile_fits_its_template(root):
    declared = read_parameters(find_template('train'))
    profiles = sorted((root/'nbs'/'experiments'/'profiles').glob('*.yaml'))
    assert profiles
    for profile in profiles: check_parameters(load_profile(profile), declared)

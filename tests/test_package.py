"The package as `pip install .` builds it, away from the checkout."
import os, subprocess, sys, zipfile
import pytest

@pytest.fixture(scope='module')
def installed(root, tmp_path_factory):
    "A folder with the contents of the wheel."
    where = tmp_path_factory.mktemp('wheel')
    done = subprocess.run([sys.executable, '-m', 'pip', 'wheel', '--quiet', '--no-deps', '--no-build-isolation', '--wheel-dir', where, root],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(next(where.glob('*.whl'))) as wheel: wheel.extractall(where/'site')
    return where/'site'

def python(*words, site, cwd):
    return subprocess.run([sys.executable, *words], cwd=cwd, env={**os.environ, 'PYTHONPATH': str(site)}, capture_output=True, text=True)

def test_every_module_and_the_type_marker_are_inside(root, installed):
    assert {path.name for path in (root/'segmenter').glob('*') if path.suffix in ('.py', '.typed')} <= {path.name for path in (installed/'segmenter').iterdir()}

def test_the_authors_modules_are_a_package_of_their_own(root, installed):
    assert {f.relative_to(root/'segmenter'/'_authors') for f in (root/'segmenter'/'_authors').rglob('*.py')} == \
        {f.relative_to(installed/'segm') for f in (installed/'segm').rglob('*.py')}
    assert not (installed/'segmenter'/'_authors').exists()

@pytest.mark.parametrize('module', ['train', 'eval.miou', 'utils.logs', 'scripts.prepare_ade20k'])
def test_the_authors_modules_answer_from_any_folder(module, installed, tmp_path):
    done = python('-m', f'segm.{module}', '--help', site=installed, cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.startswith(f'usage: python -m segm.{module} '), done.stderr

def test_the_authors_modules_are_those_of_the_wheel(installed, tmp_path):
    done = python('-c', 'import segm.eval.miou as m; print(m.__file__)', site=installed, cwd=tmp_path)
    assert done.stdout.strip() == str(installed/'segm'/'eval'/'miou.py'), done.stderr

def test_the_boxed_model_is_inside_and_answers_without_data_or_network(root, installed, tmp_path):
    assert {path.name for path in (root/'segmenter'/'weights').iterdir()} == {path.name for path in (installed/'segmenter'/'weights').iterdir()}
    work = """import socket, numpy as np, segmenter as sg
def refuse(*args, **kwargs): raise OSError('no network')
socket.socket.connect = refuse
p = sg.predict(sg.load_model('landcover'), np.zeros((80, 96, 3), np.uint8))
from segmenter import checkpoints
print(p.label_map.shape, checkpoints._box()['landcover'])"""
    done = python('-c', work, site=installed, cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.startswith(f'(80, 96) {installed}'), done.stderr

def test_it_imports_from_any_folder(installed, tmp_path):
    done = python('-c', 'import segmenter; print(segmenter.__file__, segmenter.create_model)', site=installed, cwd=tmp_path)
    assert done.returncode == 0 and str(installed) in done.stdout, done.stderr

@pytest.mark.parametrize('words', [['--help'], ['train', '--help'], ['predict', '--help'], ['doctor', '--help'], ['convert', '--help']])
def test_help_comes_quickly_and_without_torch(installed, tmp_path, words):
    before = sum(os.times()[2:4]) # work of child processes, in seconds; a busy machine does not add to it
    done = python('-c', f'import sys; from segmenter.cli import main; code = main({words}); print("torch" in sys.modules); sys.exit(code)', site=installed, cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == 'False' and sum(os.times()[2:4]) - before < 1, done.stderr

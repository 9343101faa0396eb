"The package as `pip install .` builds it, away from the checkout."
import os, subprocess, sys, time, zipfile
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

def test_it_imports_from_any_folder(installed, tmp_path):
    done = python('-c', 'import segmenter; print(segmenter.__file__, segmenter.create_model)', site=installed, cwd=tmp_path)
    assert done.returncode == 0 and str(installed) in done.stdout, done.stderr

@pytest.mark.parametrize('words', [['--help'], ['train', '--help'], ['predict', '--help']])
def test_help_comes_quickly_and_without_torch(installed, tmp_path, words):
    start = time.perf_counter()
    done = python('-c', f'import sys; from segmenter.cli import main; code = main({words}); print("torch" in sys.modules); sys.exit(code)', site=installed, cwd=tmp_path)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == 'False' and time.perf_counter() - start < 1, done.stderr

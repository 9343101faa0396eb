"The book: every chapter runs, nothing is stale, cells stay readable."
import json, os, re, shutil, subprocess, sys
from pathlib import Path
import pytest

ROOT = Path(__file__).resolve().parents[1]
CHAPTERS = sorted((ROOT/'nbs').rglob('*.ipynb'), key=lambda path: path.relative_to(ROOT/'nbs').as_posix())
CHAPTERS = [path for path in CHAPTERS if '.ipynb_checkpoints' not in path.parts]
names = [path.stem for path in CHAPTERS]
cells = lambda path: json.loads(path.read_text())['cells']
source = lambda cell: ''.join(cell['source'])
exported = lambda text: re.search(r'^#\|\s*exports?\b', text, re.M)

@pytest.fixture(scope='session')
def run_of_the_book():
    "`nbdev-test` on the whole book, two chapters at a time; its report and the seconds of each chapter."
    quiet = {**os.environ, 'OMP_NUM_THREADS': '1', 'MPLBACKEND': 'agg', 'PYTHONWARNINGS': 'ignore::FutureWarning'}
    done = subprocess.run([Path(sys.executable).with_name('nbdev-test'), '--n-workers', '2', '--timing', '--do-print'],
                          cwd=ROOT, env=quiet, capture_output=True, text=True)
    return done, {name: int(s) for name, s in re.findall(r'^(\S+)\.ipynb: (\d+) secs', done.stdout, re.M)}

def test_every_chapter_runs(run_of_the_book):
    done, seconds = run_of_the_book
    assert done.returncode == 0, done.stderr[-4000:]
    assert set(seconds) == set(names)

def test_all_chapters_together_take_at_most_twelve_minutes(run_of_the_book):
    done, seconds = run_of_the_book
    print('\n'.join(f'{s:5} s  {name}' for name, s in seconds.items()), f'\n{sum(seconds.values()):5} s  in sum')
    assert 0 < sum(seconds.values()) <= 12*60

def test_export_and_clean_leave_no_difference(tmp_path):
    copy = tmp_path/'copy'
    copy.mkdir()
    for name in 'settings.ini', 'setup.py', 'pyproject.toml', 'README.md': shutil.copy(ROOT/name, copy)
    for name in 'nbs', 'segmenter': shutil.copytree(ROOT/name, copy/name, ignore=shutil.ignore_patterns('__pycache__', '.ipynb_checkpoints'))
    for tool in 'nbdev-export', 'nbdev-clean': subprocess.run([Path(sys.executable).with_name(tool)], cwd=copy, check=True, capture_output=True)
    for name in 'nbs', 'segmenter':
        made = {path.relative_to(copy): path.read_bytes() for path in (copy/name).rglob('*') if path.is_file() and '__pycache__' not in path.parts}
        kept = {path: (ROOT/path).read_bytes() if (ROOT/path).exists() else None for path in made}
        assert [str(path) for path in made if made[path] != kept[path] and path.name != 'llms.txt'] == []

@pytest.mark.parametrize('path', CHAPTERS, ids=names)
def test_cells_stay_readable(path):
    for cell in cells(path):
        lines = [line for line in source(cell).splitlines() if line.strip()]
        if cell['cell_type'] == 'code' and exported(source(cell)): assert len(lines) <= 40, source(cell)[:200]

@pytest.mark.parametrize('path', CHAPTERS, ids=names)
def test_stored_outputs_are_clean(path):
    outputs = [output for cell in cells(path) for output in cell.get('outputs', [])]
    text = json.dumps([{**o, 'data': {k: v for k, v in o.get('data', {}).items() if not k.startswith('image/')}} for o in outputs])
    for debris in 'Warning', str(ROOT), str(Path.home()) + '/', '/tmp/', 'Traceback', '%|': assert debris not in text
    assert path.stat().st_size <= 1_000_000

@pytest.mark.parametrize('path', [path for path in CHAPTERS if path.parent == ROOT/'nbs'], ids=[p.stem for p in CHAPTERS if p.parent == ROOT/'nbs'])
def test_outputs_are_stored(path):
    assert any(cell.get('outputs') for cell in cells(path))

@pytest.mark.parametrize('path', CHAPTERS, ids=names)
def test_pictures_have_a_caption_and_a_description(path):
    for cell in cells(path):
        if any(kind.startswith('image/') for output in cell.get('outputs', []) for kind in output.get('data', {})):
            assert 'fig-alt:' in source(cell) and 'fig-cap:' in source(cell), source(cell)[:200]

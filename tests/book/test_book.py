"The book: every chapter runs in its time, nothing is stale, cells stay readable."
import shutil, subprocess, sys
from pathlib import Path
import pytest
import book, reading

ROOT = book.ROOT
NOTEBOOKS = reading.notebooks()
every_notebook = pytest.mark.parametrize('name', NOTEBOOKS)

def assert_none(name, *checks):
    "No failure of these checks in a notebook; else the sentences that say where."
    found = [f'{name}{"" if f.cell is None else f", cell {f.cell}"}: {f.text}' for f in reading.read(NOTEBOOKS[name]).failures if f.check in checks]
    assert not found, '\n'.join(found)

def test_every_chapter_runs(run_of_the_book):
    done, seconds = run_of_the_book
    assert done.returncode == 0, done.stderr[-4000:]
    assert set(seconds) == {path.stem for path in NOTEBOOKS.values()}

@pytest.fixture
def seconds(run_of_the_book):
    "Seconds of each notebook; nobody knows them when one of them stopped."
    if run_of_the_book[0].returncode: pytest.skip('a chapter does not run, see test_every_chapter_runs')
    return run_of_the_book[1]

def test_no_chapter_takes_longer_than_a_minute(seconds):
    assert [f'{r.name}: {f.text}' for r in reading.read_book(seconds=seconds) for f in r.failures if f.check == 'seconds'] == []

def test_all_chapters_together_take_at_most_twelve_minutes(seconds):
    assert reading.in_sum(seconds.values()) == [] and sum(seconds.values()) > 0

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

@every_notebook
def test_cells_stay_readable(name): assert_none(name, 'longest', '9 in 10')

@every_notebook
def test_stored_outputs_are_clean(name): assert_none(name, 'path', 'warning', 'progress')

@every_notebook
def test_outputs_are_stored(name): assert_none(name, 'outputs')

@every_notebook
def test_stored_outputs_are_those_of_the_code_beside_them(name): assert_none(name, 'fresh')

@every_notebook
def test_pictures_have_a_caption_and_a_description(name): assert_none(name, 'alt text')

@every_notebook
def test_every_public_definition_is_soon_named_in_a_lesson(name): assert_none(name, 'named')

@every_notebook
def test_no_notebook_is_too_long_or_too_heavy(name): assert_none(name, 'cells', 'pictures', 'KB')

def test_no_check_is_left_out():
    "Whatever `reading` can fail on is asked for above."
    asked = {'longest', '9 in 10', 'path', 'warning', 'progress', 'outputs', 'fresh', 'alt text', 'named', 'cells', 'pictures', 'KB', 'seconds'}
    assert {column for column, (_, _, ceiling) in reading.LIMITS.items() if ceiling} <= asked
    assert {f.check for r in reading.read_book() for f in r.failures} <= asked

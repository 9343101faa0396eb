"README.md is made from nbs/index.ipynb, and both know every chapter and every record."
import importlib.util, json, re, shutil
from pathlib import Path
import pytest

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT/'README.md').read_text(encoding='utf-8')

@pytest.fixture(scope='module')
def readme():
    pytest.importorskip('nbconvert')
    spec = importlib.util.spec_from_file_location('readme', ROOT/'docs'/'readme.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

def disagreements(made, root):
    "What differs between a README as it would be made and the files in a folder, in sentences."
    text, pictures = made
    there = (root/'README.md').read_text(encoding='utf-8')
    lines = [f'README.md, line {i}: {a!r}, and not {b!r}' for i, (a, b) in enumerate(zip(there.splitlines(), text.splitlines()), 1) if a != b]
    if there != text and not lines: lines = ['README.md has another number of lines']
    return lines + [f'{name} is not the picture of the notebook' for name, data in pictures.items() if not (root/name).is_file() or (root/name).read_bytes() != data]

def opening(path):
    "Title and subtitle of a chapter."
    lines = ''.join(json.loads(path.read_text(encoding='utf-8'))['cells'][0]['source']).splitlines()
    return lines[0].lstrip('# '), next(line.lstrip('> ') for line in lines if line.startswith('>'))

def test_the_readme_agrees_with_the_front_page(readme): assert disagreements(readme.make(), ROOT) == [], 'run: python docs/readme.py'

@pytest.mark.parametrize('change', [
    lambda cells: cells[0].update(source='# Another name'),
    lambda cells: cells.append(dict(cell_type='markdown', id='x', metadata={}, source='One more line.')),
    lambda cells: cells.pop(),
    lambda cells: next(c for c in cells if c.get('outputs'))['outputs'].clear(),
    lambda cells: cells.append(dict(cell_type='code', id='x', metadata={}, source='1 + 1', execution_count=None, outputs=[]))],
    ids=['a word', 'a new line', 'a lost cell', 'a lost output', 'new code'])
def test_a_change_of_the_front_page_alone_is_noticed(readme, tmp_path, change):
    (tmp_path/'nbs').mkdir()
    shutil.copy(ROOT/'nbs'/'index.ipynb', tmp_path/'nbs')
    text, _ = readme.make(tmp_path)
    (tmp_path/'README.md').write_text(text, encoding='utf-8')
    assert disagreements(readme.make(tmp_path), tmp_path) == []
    notebook = json.loads((tmp_path/'nbs'/'index.ipynb').read_text(encoding='utf-8'))
    change(notebook['cells'])
    (tmp_path/'nbs'/'index.ipynb').write_text(json.dumps(notebook), encoding='utf-8')
    assert disagreements(readme.make(tmp_path), tmp_path)

def test_a_picture_of_the_front_page_is_written_and_compared(readme, tmp_path):
    (tmp_path/'nbs').mkdir()
    picture = dict(output_type='display_data', metadata={}, data={'image/png': 'iVBORw0KGgo='})
    cell = dict(cell_type='code', id='x', metadata={}, source='#| echo: false\nshow()', execution_count=None, outputs=[picture])
    (tmp_path/'nbs'/'index.ipynb').write_text(json.dumps(dict(cells=[cell], metadata={}, nbformat=4, nbformat_minor=5)))
    text, pictures = readme.make(tmp_path)
    (tmp_path/'README.md').write_text(text, encoding='utf-8')
    (name, data), = pictures.items()
    assert f']({name})' in text and 'show()' not in text and disagreements((text, pictures), tmp_path) == [f'{name} is not the picture of the notebook']

def test_the_readme_shows_no_directives_and_no_hidden_cells():
    assert not re.search(r'^\s*#\|', TEXT, re.M) and 'assert ' not in TEXT and '```python\n```' not in TEXT

def test_every_link_of_the_readme_leads_to_a_file():
    links = re.findall(r'\]\((?!https?:|#)([^)#]+)', TEXT)
    assert links and [link for link in links if not (ROOT/link).exists()] == []

def test_the_map_lists_every_chapter_by_title_and_subtitle():
    rows = [f'[{path.stem}](nbs/{path.name}) | **{title}**: {subtitle}' for path in sorted((ROOT/'nbs').glob('[0-9]*.ipynb')) for title, subtitle in [opening(path)]]
    assert [row for row in rows if row not in TEXT] == [], 'run nbs/index.ipynb again: the map is not that of the chapters'

def test_the_table_holds_the_number_of_every_run():
    for path in sorted((ROOT/'docs'/'results').glob('[dc][ea]m*_s[0-9].json')):
        row = next((line for line in TEXT.splitlines() if line.startswith(f'| {path.stem} |')), '')
        found = json.loads(path.read_text(encoding='utf-8'))
        for name in 'mIoU', 'aAcc': assert f'| {found["metrics"][name]["value"]:.1f} ' in row, f'run nbs/index.ipynb again: {path.stem} has another {name}'

def test_the_commands_of_the_readme_parse():
    from segmenter import cli
    lines = re.findall(r'^segmenter (.+?)\s*(?:#.*)?$', TEXT, re.M)
    assert lines
    for line in lines:
        verb, *words = line.split()
        cli.parse(cli.VERBS[verb], words)

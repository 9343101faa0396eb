"README.md is made from nbs/index.ipynb, and both know every chapter."
import importlib.util, json, re
from pathlib import Path
import pytest

ROOT = Path(__file__).resolve().parents[1]

@pytest.fixture(scope='module')
def made():
    pytest.importorskip('nbconvert')
    spec = importlib.util.spec_from_file_location('readme', ROOT/'docs'/'readme.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.make()

def test_the_readme_agrees_with_the_front_page(made):
    text, pictures = made
    assert (ROOT/'README.md').read_text(encoding='utf-8') == text, 'run: python docs/readme.py'
    for name, data in pictures.items(): assert (ROOT/name).read_bytes() == data, f'{name}: run python docs/readme.py'

def test_the_readme_shows_no_directives_and_no_hidden_cells(made):
    assert not re.search(r'^\s*#\|', made[0], re.M) and 'assert ' not in made[0] and '```python\n```' not in made[0]

def test_every_link_of_the_readme_leads_to_a_file(made):
    links = re.findall(r'\]\((?!https?:|#)([^)#]+)', made[0])
    assert links
    for link in links: assert (ROOT/link).exists(), link

def test_the_map_lists_every_chapter(made):
    for path in (ROOT/'nbs').glob('[0-9]*.ipynb'):
        title = ''.join(json.loads(path.read_text(encoding='utf-8'))['cells'][0]['source']).splitlines()[0].lstrip('# ')
        assert f'[{path.stem}](nbs/{path.name}) | **{title}**' in made[0], f'run nbs/index.ipynb again: {path.stem} is not in the map'

def test_the_commands_of_the_readme_parse(made):
    from segmenter import cli
    for line in re.findall(r'^segmenter (.+?)\s*(?:#.*)?$', made[0], re.M):
        verb, *words = line.split()
        cli.parse(cli.VERBS[verb], words)

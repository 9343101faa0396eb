"Tour and tutorials: each opens in Colab, stands in its place, leads on, and needs the package only."
import json, re, shlex, shutil, sys
from types import ModuleType
import pytest

sys.path.append(str(__import__('pathlib').Path(__file__).resolve().parents[1]/'docs'))
import book

PATHS = book.tutorials()
every_tutorial = pytest.mark.parametrize('path', PATHS, ids=lambda path: path.stem)

def cells(path, kind=None): return [''.join(c['source']) for c in json.loads(path.read_text(encoding='utf-8'))['cells'] if kind in (None, c['cell_type'])]

def test_every_tutorial_has_its_place_in_the_order():
    assert {path.stem for path in PATHS[1:]} == set(book.TUTORIALS), 'name it in TUTORIALS of docs/book.py'

@every_tutorial
def test_it_opens_with_title_subtitle_and_the_link_to_colab(path):
    title, _, subtitle, _, link = cells(path)[0].splitlines()[:5]
    assert title.startswith('# ') and subtitle.startswith('> ') and link == book.colab_link(path), 'run: python docs/book.py --colab'
    assert cells(path)[1] == book.colab_cell(), 'run: python docs/book.py --colab'

@every_tutorial
def test_it_ends_by_leading_on(path):
    at = cells(path).index('## Where next')
    after = '\n'.join(cells(path)[at:])
    assert len(re.findall(r'\]\([^)]+\.ipynb', after)) >= 2 and at >= len(cells(path)) - 3

@every_tutorial
def test_it_needs_nothing_of_the_checkout(path):
    assert [source for source in cells(path, 'code') if re.search(r'\.\./\.\.|\b(nbs|tests|docs)/', source)] == []

@every_tutorial
def test_it_is_light_and_shows_something(path):
    outputs = [o for c in json.loads(path.read_text(encoding='utf-8'))['cells'] for o in c.get('outputs', [])]
    assert path.stat().st_size <= 400_000
    assert sum(kind.startswith('image/') for o in outputs for kind in o.get('data', {})) >= 1

@every_tutorial
def test_its_commands_parse(path):
    from segmenter import cli
    for block in re.findall(r'```sh\n(.*?)```', '\n'.join(cells(path, 'markdown')), re.S):
        for line in re.findall(r'^segmenter (.+?)\s*(?:#.*)?$', block, re.M):
            verb, *words = shlex.split(line)
            cli.parse(cli.VERBS[verb], words)

def copied(root, tmp_path):
    "A tutorial in a checkout of its own."
    (tmp_path/'nbs'/'tutorials').mkdir(parents=True)
    shutil.copy(root/'settings.ini', tmp_path)
    return shutil.copy(PATHS[-1], tmp_path/'nbs'/'tutorials'/PATHS[-1].name)

def test_link_and_cell_follow_the_settings(root, tmp_path):
    path = copied(root, tmp_path)
    before = path.read_bytes()
    book.colab(path, tmp_path)
    assert path.read_bytes() == before
    settings = (tmp_path/'settings.ini').read_text().replace('github.com/segmenter/segmenter', 'github.com/someone/else').replace('branch = main', 'branch = next').replace('basemap-data==2.0.0', 'basemap-data==9')
    (tmp_path/'settings.ini').write_text(settings)
    book.colab(path, tmp_path)
    first, second = cells(path)[:2]
    assert f'https://colab.research.google.com/github/someone/else/blob/next/nbs/tutorials/{path.name})' in first and first.count('Open in Colab') == 1
    assert 'git+https://github.com/someone/else' in second and 'basemap-data==9' in second and len(cells(path)) == len(cells(PATHS[-1]))
    notebook = json.loads(path.read_text())
    assert notebook['metadata']['outputs_of'] == book.source_digest(notebook) # what was fresh stays fresh

def test_only_colab_installs(monkeypatch):
    asked = []
    shell = type('Shell', (), {'system': staticmethod(asked.append)})
    run = lambda: exec(book.colab_cell(), {'get_ipython': lambda: shell})
    run()
    assert asked == []
    monkeypatch.setitem(sys.modules, 'google.colab', ModuleType('google.colab'))
    run()
    package, data = asked
    assert package == f"pip install -q git+{book.facts()['git_url']}"
    assert data.startswith('pip install -q --no-deps ') and data.split()[4:] == book.facts()['landcover_requirements'].split()

def test_readme_and_sidebar_list_them_in_one_order(root):
    readme = re.findall(r'^\| \[\w+\]\(nbs/tutorials/(\w+)\.ipynb\)', (root/'README.md').read_text(encoding='utf-8'), re.M)
    assert readme == book.TUTORIALS, 'run nbs/index.ipynb again, and python docs/readme.py'
    from importlib.util import module_from_spec, spec_from_file_location
    spec = spec_from_file_location('site_builder', root/'docs'/'site.py')
    site = sys.modules.get('site_builder') or sys.modules.setdefault('site_builder', module_from_spec(spec))
    if not hasattr(site, 'find_pages'): spec.loader.exec_module(site)
    pages = site.find_pages(root)
    assert [p.name for p in pages if p.group == 'Tutorials'] == book.TUTORIALS
    assert [p.name for p in pages if p.group == 'Start'] == ['index', 'tour']

"One fact, one place: settings.ini, setup.py, pyproject.toml, the environment, the citation."
import re, subprocess, sys, tomllib
from configparser import ConfigParser
from importlib.metadata import metadata, version
import pytest

@pytest.fixture(scope='module')
def facts(root):
    config = ConfigParser(delimiters=['='])
    config.read(root/'settings.ini', encoding='utf-8')
    return config['DEFAULT']

def test_pyproject_names_exactly_the_fields_that_setup_sets(root):
    dynamic = set(tomllib.loads((root/'pyproject.toml').read_text())['project']['dynamic'])
    sets = set(re.findall(r'(?<=[ (])(\w+)=', re.sub(r'\([^()]*\)', '', (root/'setup.py').read_text().split("__main__': setup(")[1])))
    names = {'long_description': 'readme', 'author': 'authors', 'python_requires': 'requires-python', 'install_requires': 'dependencies',
             'extras_require': 'optional-dependencies', 'entry_points': 'scripts'}
    expected = {names.get(s, s) for s in sets} - {'name', 'long_description_content_type', 'packages', 'package_dir', 'package_data'}
    assert dynamic == expected

def test_the_installed_package_has_the_facts_of_settings(facts):
    assert version('segmenter') == facts['version'] and metadata('segmenter')['Summary'] == facts['description']

def test_the_tools_read_the_same_folders(root, facts):
    nbdev = tomllib.loads((root/'pyproject.toml').read_text())['tool']['nbdev']
    assert all(nbdev[key] == facts[key] for key in ('nbs_path', 'lib_path', 'doc_path', 'branch'))
    assert tomllib.loads((root/'pyproject.toml').read_text())['project']['urls']['Repository'] == facts['git_url']

def test_the_citation_has_the_version(root, facts):
    assert f"version: {facts['version']}\n" in (root/'CITATION.cff').read_text()

def test_every_requirement_is_met_here(facts):
    from packaging.requirements import Requirement
    for line in (facts['requirements'] + facts['dev_requirements']).split():
        requirement = Requirement(line)
        assert requirement.specifier.contains(version(requirement.name).split('+')[0]), line

def test_the_data_packages_of_the_message_are_those_of_the_settings(root, facts):
    text = (root/'segmenter'/'datasets.py').read_text()
    assert ' '.join(facts['landcover_requirements'].split()) in text

def test_imports_point_to_earlier_chapters_only(root):
    order = {path.stem.split('_', 1)[1]: path.stem for path in (root/'nbs').glob('[0-9]*.ipynb')}
    for name, number in order.items():
        module = root/'segmenter'/f'{name}.py'
        if name == 'init' or not module.exists(): continue
        for earlier in re.findall(r'^\s*from \.(\w+) import', module.read_text(), re.M):
            assert order[earlier] < number, f'{number} imports {order[earlier]}'

def test_public_names_are_few(root):
    import ast
    for path in (root/'segmenter').glob('[a-z]*.py'):
        found = re.search(r'__all__ = (\[.*?\])', path.read_text(), re.S)
        assert len(ast.literal_eval(found[1])) <= 12, path.name

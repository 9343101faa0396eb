"The Reference pages: nothing public is missing, every link leads somewhere, and an error in a chapter is found."
import ast, json, re, shutil, sys
import pytest

sys.path.append(str(__import__('pathlib').Path(__file__).resolve().parents[1]/'docs'))
import pages

@pytest.fixture(scope='module')
def made(root): return {page.name: page for page in pages.pages(root)}

@pytest.fixture
def copy(root, tmp_path):
    "The sources of the pages, to plant errors in."
    for name in 'nbs', 'segmenter', 'tests', 'docs/reference', 'docs/results': shutil.copytree(root/name, tmp_path/name, ignore=shutil.ignore_patterns('__pycache__', '.ipynb_checkpoints'))
    for name in 'LICENSE', 'CITATION.cff': (tmp_path/name).touch()
    return tmp_path

def edit(path, change):
    "Change a cell of a notebook, or the text of a file."
    if path.suffix != '.ipynb': return path.write_text(change(path.read_text(encoding='utf-8')), encoding='utf-8')
    notebook = json.loads(path.read_text(encoding='utf-8'))
    for cell in notebook['cells']: cell['source'] = change(''.join(cell['source'])).splitlines(True)
    path.write_text(json.dumps(notebook), encoding='utf-8')

def test_nothing_is_wrong_with_the_pages(root): assert pages.problems(root) == []

def test_there_is_a_page_for_each_kind_of_question(made):
    assert list(made) == ['paper_to_code', 'differences', 'symbols', 'file_formats', 'migration', 'from_mmsegmentation', 'reliability', 'glossary', 'licences', 'citing']
    assert all(page.title and page.subtitle and page.group == 'Reference' and not page.markdown.startswith('#  ') for page in made.values())

def test_no_placeholder_is_left_and_no_table_is_empty(made):
    for page in made.values():
        assert '{{' not in page.markdown, page.name
        assert not re.search(r'\|---\|\n(?!\|)', page.markdown), page.name

def test_every_public_symbol_is_in_the_index(root, made):
    for path in (root/'segmenter').glob('[a-z]*.py'):
        names = ast.literal_eval(re.search(r'__all__ = (\[.*?\])', path.read_text(encoding='utf-8'), re.S)[1])
        for name in names: assert re.search(rf'^\| \[`{name}`\]\([^)]+\) .*\| \[{path.stem}\]', made['symbols'].markdown, re.M), f'{path.stem}.{name}'

def test_the_front_door_is_marked_in_the_index(root, made):
    import segmenter
    assert set(re.findall(r'^\| .*? `sg\.(\w+)` \|', made['symbols'].markdown, re.M)) == set(segmenter.__all__)

def test_every_chapter_has_an_opening_table(root):
    chapters = pages.chapters(root)
    assert {c.stem for c in chapters} == {p.stem for p in (root/'nbs').glob('[0-9]*.ipynb') if '#| default_exp' in p.read_text(encoding='utf-8')}
    assert [c.stem for c in chapters if len(c.opening) < 2] == []

def test_the_map_has_every_row_of_every_opening_table(root, made):
    for chapter in pages.chapters(root):
        for row in chapter.opening[1:]: assert row[0].replace('|', '\\|') in made['paper_to_code'].markdown, (chapter.stem, row[0])

def test_the_map_is_sorted_as_the_paper_is(made):
    rows = made['paper_to_code'].markdown.split('## By table')[0].splitlines()[6:]
    sections = [tuple(map(int, found[1].split('.'))) for row in rows if (found := re.search(r'§\s*(\d+(?:\.\d+)?)', row))]
    assert len(sections) > 20 and sections == sorted(sections)

def test_the_masks_of_the_paper_are_guarded_by_a_check_and_a_test(made):
    row = next(line for line in made['paper_to_code'].markdown.splitlines() if 'class_masks' in line)
    assert '§3.2' in row and '04_mask_transformer.ipynb#class_masks' in row and '`test_' in row and '../tests/test_decoders.py' in row

def test_file_formats_say_what_the_code_writes(made):
    from segmenter.checkpoints import CHECKPOINT_KEYS, variant_of
    from segmenter.experiments import COLUMNS
    from segmenter.model import ModelConfig
    text = made['file_formats'].markdown
    variant = variant_of(ModelConfig(variant='Seg-T-Mask/16', n_classes=3, image_size=32))
    keys = [*CHECKPOINT_KEYS, *COLUMNS, *variant, *variant['net_kwargs'], *variant['net_kwargs']['decoder'], *variant['inference_kwargs'], *ModelConfig.__dataclass_fields__]
    for key in keys: assert f'`{key}`' in text, key

def test_migration_knows_every_module_of_the_authors_and_every_flag(made):
    from segmenter import authors, cli
    text = made['migration'].markdown
    for module, function in authors.MODULES.items():
        assert f'`python -m {module}`' in text
        section = text.split(f'\n## {module}\n')[1].split('\n## ')[0]
        for action in cli.verb_parser(function)._actions:
            for spelling in action.option_strings: assert action.dest == 'help' or f'`{spelling}`' in section, (module, spelling)

def test_the_terms_of_the_glossary_are_used_in_the_chapters_they_lead_to(root, made):
    rows = re.findall(r'^\| (.+?) \| .+? \| \[.+?\]\(([\w.]+\.ipynb)', made['glossary'].markdown, re.M)
    assert len(rows) >= 40
    for terms, chapter in rows:
        text = ''.join(''.join(c['source']) for c in json.loads((root/'nbs'/chapter).read_text(encoding='utf-8'))['cells']).lower().replace('-', ' ')
        words = [term.strip(' `').lower().replace('-', ' ') for term in terms.split(',')]
        assert any(word.rstrip('s') in text or word.replace(' ', '_') in text for word in words), (terms, chapter)

CHAPTER = 'nbs/04_mask_transformer.ipynb'
ERRORS = {
    'an opening table is lost': (CHAPTER, lambda s: s.replace('|---|---|', ''), '04_mask_transformer has no opening table'),
    'an opening table names what is not there': (CHAPTER, lambda s: s.replace('`class_masks`, `unit_length` |', '`class_maks`, `unit_length` |'), 'names class_maks, which no chapter defines'),
    'an opening table has a bar too many': (CHAPTER, lambda s: s.replace('| `class_masks`, `unit_length` |', '| `class_masks` | `unit_length` |'), 'a row of 3 cells'),
    'a docstring is lost': (CHAPTER, lambda s: s.replace('"Cosine of every patch with every class (paper §3.2)."', 'pass'), 'class_masks has no docstring'),
    'a link leads to no page': ('docs/reference/glossary.md', lambda s: s.replace('22_metrics.ipynb', '22_scores.ipynb'), '22_scores.ipynb#scores leads to no page'),
    'a link leads to no place': ('docs/reference/glossary.md', lambda s: s.replace('#patch_grid', '#patch_gird'), '01_patches.ipynb#patch_gird leads to no place'),
    'a generated page has another name': ('docs/reference/glossary.md', lambda s: s.replace('file_formats.html', 'files.html'), 'files.html#records leads to no page')}

@pytest.mark.parametrize('error', ERRORS)
def test_a_planted_error_is_found(copy, error):
    path, change, sentence = ERRORS[error]
    edit(copy/path, change)
    assert any(sentence in problem for problem in pages.problems(copy)), pages.problems(copy)

@pytest.mark.parametrize('path, change, sentence', [
    ('segmenter/checkpoints.py', lambda s: s.replace('CHECKPOINT_KEYS = {', 'KEYS = {'), 'gives no value to CHECKPOINT_KEYS'),
    ('segmenter/evaluate.py', lambda s: s.replace('mean_iou=', 'miou='), "makes no dictionary with 'mean_iou'"),
    ('docs/reference/symbols.md', lambda s: s.replace('{{symbol_index}}', '{{symbols}}'), "symbols.md: no table 'symbols'")], ids=['a constant', 'a key', 'a table'])
def test_a_table_whose_source_has_moved_says_where(copy, path, change, sentence):
    edit(copy/path, change)
    with pytest.raises(ValueError, match=re.escape(sentence)): pages.pages(copy)

def test_bars_in_code_do_not_break_a_table():
    assert pages._table(['a', 'b'], [('`int|None`', 'x')]).splitlines()[2] == '| `int\\|None` | x |'
    assert pages._split('| `int\\|None` | x |') == ('`int|None`', 'x')

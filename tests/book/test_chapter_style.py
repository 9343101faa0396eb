"The harness that reads the book: a fault planted in a small notebook turns exactly one check red."
import json, subprocess, sys
import pytest
import book, reading

DEFINITION = '#| export\ndef double(\n    n:int, # A number\n)->int:\n    "Twice as much."\n    return 2*n'
PICTURE = '#| echo: false\n#| fig-cap: "A bar."\n#| fig-alt: "One grey bar."\ndouble(3);'

def markdown(text): return dict(cell_type='markdown', id='m', metadata={}, source=text.splitlines(True))
def code(text, *outputs, tags=()):
    return dict(cell_type='code', id='c', metadata=dict(tags=list(tags)) if tags else {}, execution_count=None, outputs=list(outputs), source=text.splitlines(True))
def value(text): return dict(output_type='execute_result', data={'text/plain': [text]}, metadata={}, execution_count=None)
def printed(text, name='stdout'): return dict(output_type='stream', name=name, text=text.splitlines(True))
def picture(size=10): return dict(output_type='display_data', data={'image/png': 'A'*size}, metadata={})

def cells():
    "A notebook in which nothing is wrong: title, module, why, definition, look, picture."
    return [markdown('# Doubling\n\n> Twice as much'), code('#| default_exp doubling'), markdown('One number is not enough for two people.'),
            code(DEFINITION), code('double(2)', value('4')), code(PICTURE, picture()), *[code(f'double({n})', value(f'{2*n}')) for n in range(10)]]

def write(path, cells, stamped=True):
    path.write_text(json.dumps(dict(cells=cells, metadata={}, nbformat=4, nbformat_minor=5)))
    if stamped: book.stamp(path)
    return path

@pytest.fixture
def read(tmp_path):
    "Measure cells as a notebook; `edit` changes them after the outputs were stamped."
    def read(cells, seconds=None, stamped=True, edit=None):
        path = write(tmp_path/'09_doubling.ipynb', cells, stamped)
        if edit:
            notebook = json.loads(path.read_text())
            edit(notebook['cells'])
            path.write_text(json.dumps(notebook))
        return reading.read(path, seconds)
    return read

def failed(r): return [f.check for f in r.failures]

def test_a_notebook_without_faults_has_no_failures(read):
    r = read(cells(), seconds=3)
    assert r.failures == [] and (r.kind, r.named, r.public) == ('chapter', 1, 1)

def test_numbers_are_those_counted_by_hand(read):
    r = read(cells(), seconds=3)
    assert {k: v for k, v in r.numbers.items() if k != 'KB'} == {'cells': 16, 'median': 1, '9 in 10': 4, 'longest': 6,
        'words': round((1 + 3 + 8)/(1 + 6 + 1 + 4 + 10), 1), 'pictures': 1, 'seconds': 3}

def replaced(i, cell):
    found = cells()
    found[i] = cell
    return found

long_lesson = '\n'.join(f'double({i})' for i in range(21))
FAULTS = {
    'a stale output': (dict(edit=lambda cells: cells[4].update(source=['double(3)'])), 'fresh'),
    'outputs of nobody knows what': (dict(stamped=False), 'fresh'),
    'no output at all': (dict(cells=[{**c, 'outputs': []} if 'outputs' in c else c for c in cells()]), 'outputs'),
    'an exported cell of 60 lines': (dict(cells=replaced(3, code(DEFINITION + '\n    pass'*54))), 'longest'),
    'a chapter of two minutes': (dict(seconds=120), 'seconds'),
    'an absolute path': (dict(cells=replaced(4, code('double(2)', value("PosixPath('/home/somebody/image.png')")))), 'path'),
    'a path of Windows': (dict(cells=replaced(4, code('double(2)', printed('C:\\data\\image.png')))), 'path'),
    'the folder of this checkout': (dict(cells=replaced(4, code('double(2)', printed(f'{book.ROOT}/runs')))), 'path'),
    'a warning': (dict(cells=replaced(4, code('double(2)', printed('module.py:3: UserWarning: slow\n')))), 'warning'),
    'an exception': (dict(cells=replaced(4, code('double(2)', dict(output_type='error', ename='ValueError', evalue='', traceback=[])))), 'warning'),
    'words on standard error': (dict(cells=replaced(4, code('double(2)', printed('hm', 'stderr')))), 'warning'),
    'a progress bar': (dict(cells=replaced(4, code('double(2)', printed('\r 50%|#####     | 2/4 [00:01<00:01, 1.9it/s]', 'stderr')))), 'progress'),
    'a picture without description': (dict(cells=replaced(5, code('#| fig-cap: "A bar."\ndouble(3);', picture()))), 'alt text'),
    'a picture with an empty description': (dict(cells=replaced(5, code(PICTURE.replace('One grey bar.', ''), picture()))), 'alt text'),
    'a linked picture without description': (dict(cells=[*cells(), markdown('![](earth.jpg)')]), 'alt text'),
    'a definition nobody names': (dict(cells=replaced(3, code(DEFINITION + '\n\ndef treble(n): return 3*n'))), 'named'),
    'a definition named in a string only': (dict(cells=[*cells()[:4], *[code('"double"', value("'double'"))]*10]), 'named'),
    'a definition named too late': (dict(cells=[*cells()[:4], *[code('2 + 2', value('4'))]*3, *cells()[4:]]), 'named'),
    'a patched method nobody names': (dict(cells=replaced(3, code(DEFINITION + '\n\n@patch\ndef half(self:int): return self/2'))), 'named'),
    'too many cells': (dict(cells=cells() + [markdown('More.')]*135), 'cells'),
    'long lessons': (dict(cells=cells() + [code(long_lesson)]*2), '9 in 10'),
    'too many pictures': (dict(cells=cells() + [code(PICTURE, picture())]*25), 'pictures'),
    'a heavy notebook': (dict(cells=replaced(5, code(PICTURE, picture(1_000_000)))), 'KB')}

@pytest.mark.parametrize('fault', FAULTS)
def test_a_planted_fault_turns_one_check_red(read, fault):
    how, check = FAULTS[fault]
    assert failed(read(**{'cells': cells(), **how})) == [check]

def test_the_cell_at_fault_is_named(read):
    r = read(replaced(3, code(DEFINITION + '\n    pass'*54)))
    assert [(f.cell, f.text) for f in r.failures] == [(3, 'exported cell of 60 lines, aim 25, ceiling 40')]

@pytest.mark.parametrize('edit', [
    lambda cells: cells[5].update(source=[PICTURE.replace('A bar.', 'A better bar.')]),
    lambda cells: cells[2].update(source=['Another why.']),
    lambda cells: cells.append(markdown('A note.'))], ids=['a caption', 'prose', 'a new note'])
def test_words_do_not_make_outputs_stale(read, edit): assert read(cells(), edit=edit).failures == []

@pytest.mark.parametrize('edit', [
    lambda cells: cells.insert(4, cells.pop(5)),
    lambda cells: cells.pop(4),
    lambda cells: cells[4].update(source=['#| eval: false\n', 'double(2)'])], ids=['another order', 'a missing cell', 'a cell that is no longer run'])
def test_another_run_makes_outputs_stale(read, edit): assert 'fresh' in failed(read(cells(), edit=edit))

@pytest.mark.parametrize('text', ['https://example.org/home/index.html', 'data/home/x.png', '</tmp>', 'N = H/tmp', 'runs/home/'])
def test_what_only_looks_like_an_absolute_path_is_none(read, text):
    assert read(replaced(4, code('double(2)', printed(text)))).failures == []

def test_a_template_stores_no_outputs_and_its_dials_may_be_many(read):
    dials = code('\n'.join(f'dial_{i}: int = {i} # A dial' for i in range(50)), tags=['parameters'])
    r = read([markdown('# Train'), dials, code('dial_1 + dial_2')], stamped=False)
    assert (r.kind, r.failures, r.numbers['9 in 10']) == ('template', [], 1)

def test_aims_are_told_and_do_not_fail(read):
    r = read(replaced(3, code(DEFINITION + '\n    pass'*24)))
    assert r.failures == [] and {'longest', 'cells'} <= {f.check for f in r.findings}

def test_all_chapters_together_have_a_ceiling_of_their_own():
    assert reading.in_sum([55]*13) == [] and [f.text for f in reading.in_sum([55]*14)] == ['770 seconds, ceiling 720']

def test_the_table_marks_what_fails_and_lists_it_by_cell(read):
    text = reading.table([read(replaced(3, code(DEFINITION + '\n    pass'*54)), seconds=120)])
    head, row = text.splitlines()[:2]
    assert {'60!', '120!', '1/1', 'good'} <= set(row.split()) and 'longest' in head
    assert '09_doubling, cell 3: exported cell of 60 lines' in text and '09_doubling: seconds 120, ceiling 60' in text

def test_cleaning_keeps_the_stamp(root, tmp_path):
    for name in 'pyproject.toml', 'settings.ini': (tmp_path/name).write_bytes((root/name).read_bytes())
    (tmp_path/'nbs').mkdir()
    path = write(tmp_path/'nbs'/'09_doubling.ipynb', cells())
    subprocess.run([f'{sys.executable.rsplit("/", 1)[0]}/nbdev-clean', '--fname', path], cwd=tmp_path, check=True, capture_output=True)
    assert json.loads(path.read_text())['metadata']['outputs_of'] == book.source_digest(json.loads(path.read_text()))

def test_the_command_says_which_notebooks_there_are():
    with pytest.raises(SystemExit, match="no notebook '99_nothing'; there are 00_tour, 00a_guards"): reading.main(['99_nothing'])

def test_the_command_prints_the_row_of_one_chapter(capsys):
    assert reading.main(['00a_guards']) in (True, False)
    assert capsys.readouterr().out.splitlines()[1].startswith('00a_guards')

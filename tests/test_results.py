"Records are checked when read, pages quote records only, and a smoke test never gets onto one."
import json, math, re
import pytest
from segmenter import cli
from segmenter.experiments import start_run
from segmenter.measured import read_benches
from segmenter.registry import read_record, read_results, read_runs
from segmenter.results import ours, read_published, show_table

@pytest.fixture
def record(tmp_path):
    start_run(dict(profile='full', seed=0, dataset='x'), tmp_path/'r').record(mIoU=41.25, n_images=3, data_hash='abc')
    return tmp_path/'r'/'metrics.json'

@pytest.mark.parametrize('change, says', [
    (dict(split=None), 'split is None'), (dict(n_images='3'), 'n_images'), (dict(status='half'), 'status'), (dict(protocol='XS'), 'protocol'), (dict(note=1), "'note'"),
    (dict(metrics=dict(mIoU=41.)), 'metric mIoU'), (dict(metrics=dict(mIoU=dict(value='41', unit='%'))), 'metric mIoU'), (dict(seconds=-1), 'seconds'), (dict(n_images=True), 'n_images')])
def test_a_record_that_was_touched_is_refused_by_the_key(record, change, says):
    content = read_record(record)
    record.write_text(json.dumps({**content, **change}))
    with pytest.raises(ValueError, match='not a record of a finished run') as e: read_record(record)
    assert says in str(e.value) and '\n' not in str(e.value)

def test_a_record_without_a_key_or_of_an_unfinished_run_is_refused(record):
    content = read_record(record)
    record.write_text(json.dumps({k: v for k, v in content.items() if k != 'commit'}))
    with pytest.raises(ValueError, match='commit'): read_record(record)
    record.write_text(json.dumps(dict(status='failed')))
    with pytest.raises(ValueError, match='failed, not done'): read_record(record)

def test_a_record_is_checked_when_it_is_written(tmp_path):
    with pytest.raises(ValueError, match='protocol'): start_run(dict(profile='full'), tmp_path/'r').record(mIoU=1., protocol='twice')
    assert not (tmp_path/'r'/'row.csv').exists() and json.loads((tmp_path/'r'/'metrics.json').read_text())['status'] == 'running'

@pytest.mark.parametrize('profile', ['smoke', ''])
def test_a_smoke_test_is_refused_as_a_result(record, profile):
    (record.parents[1]/'kept').mkdir()
    (record.parents[1]/'kept'/'a.json').write_text(json.dumps({**read_record(record), 'profile': profile}))
    with pytest.raises(ValueError, match='smoke test'): read_results(record.parents[1]/'kept')

def test_the_kept_records_are_whole(root): assert len(read_results(root/'docs'/'results')) >= 3

def test_the_rows_of_the_published_tables_are_profiles(root):
    from segmenter.experiments import load_profile
    for r in read_published(root/'docs'/'results'/'published.yaml'): assert load_profile(r['row'])['profile'] == r['row']

# --- the pages

DECIMAL = re.compile(r"(?<![\w.])-?\d+\.\d+(?!\w|\.\d)")
NUMBERED_NAME = re.compile(r'drop path \d\.\d, dropout \d\.\d|Seg[-\w†/]*')

def _spellings(value): return {f'{value:.{n}f}' for n in range(1, 7)} | {f'{value:g}', repr(value)}

def allowed(root):
    "Every number a page may show: published ones, those of records, and what seeds of a profile amount to."
    found, groups = set(), {}
    for r in read_published(root/'docs'/'results'/'published.yaml'):
        for who in ('authors', 'mmsegmentation', 'images_per_second'): found |= {s for v in r.get(who, {}).values() for s in _spellings(float(v))}
    results = root/'docs'/'results'
    for record in (*read_results(results).values(), *read_results(results/'camvid_study').values()):
        found |= _spellings(float(record['seconds']))
        for name, m in record['metrics'].items(): groups.setdefault((record['profile'], name), []).append(m['value'])
    for values in groups.values(): found |= {s for v in (*values, sum(values)/len(values), min(values), max(values)) for s in _spellings(v)}
    for pair in read_benches(root/'docs'/'results'/'bench').itertuples(): found |= {s for v in (pair.ratio, pair.low, pair.high, pair.aim, pair.agreement) if v is not None for s in _spellings(v)}
    return found

def shown(notebook):
    "Decimals in the text a page shows, its prose and its outputs; names of models with numbers in them left out."
    for cell in notebook['cells']:
        if cell['cell_type'] == 'markdown': yield from ((n, 'prose') for n in DECIMAL.findall(re.sub(r'`[^`]*`', '', ''.join(cell['source']))))
        for o in cell.get('outputs', []):
            text = ''.join(o.get('data', {}).get('text/plain', o.get('text', '')))
            yield from ((n, 'output') for n in DECIMAL.findall(NUMBERED_NAME.sub('', text)))

def without_record(notebook, numbers): return [number for number, where in shown(notebook) if number not in numbers or where == 'prose']

def test_every_number_on_a_report_has_a_record(root):
    numbers, pages = allowed(root), sorted((root/'nbs'/'reports').glob('*.ipynb'))
    assert len(pages) >= 2
    for page in pages:
        notebook = json.loads(page.read_text())
        assert list(shown(notebook)), page.name
        assert without_record(notebook, numbers) == [], page.name

def test_a_number_without_a_record_is_noticed(root):
    cell = lambda text: dict(cells=[dict(cell_type='code', source='', outputs=[dict(data={'text/plain': text})])])
    assert without_record(cell('ours 38.13'), allowed(root)) == ['38.13'] and without_record(cell('authors 38.1'), allowed(root)) == []
    assert without_record(dict(cells=[dict(cell_type='markdown', source='It reaches 38.1.')]), allowed(root)) == ['38.1']

def test_reports_do_not_train_and_read_only_kept_records(root):
    for page in (root/'nbs'/'reports').glob('*.ipynb'):
        code = '\n'.join(''.join(c['source']) for c in json.loads(page.read_text())['cells'] if c['cell_type'] == 'code')
        assert re.search('read_results|read_benches', code) and not re.search(r'import torch|segmenter\.(training|evaluate|learner|checkpoints)|runs/', code), page.name

def test_what_was_not_run_says_so(root):
    table = show_table(read_published(root/'docs'/'results'/'published.yaml', 'released'), {})
    assert set(table['ours SS']) == set(table['ours MS']) == {'not run'} and table['authors SS'].iloc[0] == '38.1'
    assert ours(read_results(root/'docs'/'results'), 'demo')['seeds'] >= 3

# --- the registry at the command

def test_runs_lists_filters_compares_and_exports(record, capsys, tmp_path):
    start_run(dict(profile='full', seed=1, dataset='x'), tmp_path/'s').record(mIoU=43., n_images=3)
    assert cli.main(['runs', '--folder', str(tmp_path), '--where', 'mIoU>42', '--csv', str(tmp_path/'t.csv')]) == 0
    out = capsys.readouterr().out
    assert '43.00' in out and '41.25' not in out and 'mIoU' in (tmp_path/'t.csv').read_text()
    assert cli.main(['runs', '--folder', str(tmp_path), '--compare']) == 0 and 'seed' in capsys.readouterr().out
    assert cli.main(['runs', '--folder', str(tmp_path), '--where', 'miou>42']) == 2 and "'mIoU'" in capsys.readouterr().err
    assert cli.main(['runs', '--folder', str(tmp_path/'none')]) == 2 and 'no folder of runs' in capsys.readouterr().err
    assert cli.main(['runs', '--folder', str(tmp_path), '--html', 'r']) == 2 and 'no report.ipynb' in capsys.readouterr().err
    assert math.isclose(read_runs(tmp_path).mIoU.max(), 43)

"Logs of runs, the authors' and ours."
import json
import matplotlib
matplotlib.use('Agg')
import matplotlib.pyplot as plt
import numpy as np, pytest, subprocess, sys
from segmenter import authors, cli
from segmenter.logs import Run, read_run, read_runs, runs_table, show_runs, smoothed, value_of, write_figure

@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close('all')

AUTHORS = '''{"train_loss": 2.5, "train_learning_rate": 0.0009, "val_pixel_accuracy": 50.1, "val_mean_accuracy": 12.0, "val_mean_iou": 8.13, "epoch": 0, "num_updates": 10}
{"train_loss": 1.5, "train_learning_rate": 0.0005, "epoch": 1, "num_updates": 20}
{"train_loss": 1.25, "train_learning_rate": 0.0001, "val_pixel_accuracy": 61.0, "val_mean_accuracy": 22.0, "val_mean_iou": 17.456, "epoch": 2, "num_updates": 30}
{"train_loss": 1.0, "train_learning_rate": 1e-05, "epoch": 3, "num_updates": 40}
'''

@pytest.fixture
def folder(tmp_path):
    for name in ('seg_tiny', 'seg_small_s0', 'seg_small_s1'):
        (tmp_path/name).mkdir()
        (tmp_path/name/'log.txt').write_text(AUTHORS)
    (tmp_path/'logs.yml').write_text(f'root: {tmp_path}\nlogs:\n    "Seg-T": seg_tiny/log.txt\n    "Seg-S": seg_small_s0/log.txt\n    "Seg-L": seg_large/log.txt\nvmin: 5\nvmax: 25\n')
    return tmp_path

def test_an_authors_log_is_read_as_it_is(folder):
    run = read_run(folder/'seg_tiny/log.txt')
    assert run.name == 'seg_tiny' and run.keys[0] == 'train_loss' and [r['epoch'] for r in run.records] == [0, 1, 2, 3]

def test_a_value_is_looked_for_backwards(folder):
    run = read_run(folder/'seg_tiny')
    assert run.at('val_mean_iou') == (2, 17.456) and run.at('val_mean_iou', 1) == (0, 8.13) and run.at('val_mean_iou', -3) == (0, 8.13)
    assert run.at('nothing') is None and run.at('epoch', 99) == (3, 3)

def test_a_key_may_be_a_path():
    assert value_of(dict(a=dict(b=0)), 'a/b') == 0 and value_of(dict(a=1), 'a/b') is None

def test_the_authors_yaml_gives_runs_limits_and_what_is_missing(folder):
    found = read_runs(folder/'logs.yml')
    assert [r.name for r in found.runs] == ['Seg-T', 'Seg-S'] and list(found.missing) == ['Seg-L'] and (found.vmin, found.vmax) == (5, 25)

def test_epochs_cut_every_run(folder):
    (folder/'logs.yml').write_text(f'root: {folder}\nlogs: {{a: seg_tiny/log.txt}}\nepochs: 2\n')
    assert len(read_runs(folder/'logs.yml').runs[0].records) == 2

def test_a_list_of_paths_are_seeds(folder):
    (folder/'logs.yml').write_text('root: .\nlogs: {small: [seg_small_s0, seg_small_s1]}\n')
    found = read_runs(folder/'logs.yml')
    assert [r.name for r in found.runs] == ['small_s0', 'small_s1']
    assert len(show_runs(found, seeds=True).axes[0].lines) == 2 # a curve and a cross

def test_a_root_counts_from_where_we_are_first(folder, monkeypatch):
    (folder/'elsewhere').mkdir()
    (folder/'elsewhere/logs.yml').write_text('root: .\nlogs: {a: seg_tiny/log.txt}\n')
    monkeypatch.chdir(folder)
    assert read_runs('elsewhere/logs.yml').runs[0].path.resolve() == folder/'seg_tiny/log.txt'

def test_folders_and_logs_may_be_given_directly(folder):
    assert [r.name for r in read_runs(folder).runs] == ['seg_small_s0', 'seg_small_s1', 'seg_tiny']
    assert [r.name for r in read_runs(folder/'seg_tiny', folder/'seg_small_s0/log.txt', folder/'logs.yml').runs] == ['seg_tiny', 'seg_small_s0', 'Seg-T', 'Seg-S']

def test_half_a_line_at_the_end_is_left_out_and_one_inside_is_refused(folder):
    log = folder/'seg_tiny/log.txt'
    log.write_text(AUTHORS + '{"train_lo')
    assert len(read_run(log).records) == 4
    log.write_text('{"train_lo\n' + AUTHORS)
    with pytest.raises(ValueError, match='line 1 is no JSON object'): read_run(log)
    log.write_text('\n')
    with pytest.raises(ValueError, match='holds no records'): read_run(log)

def test_the_table_says_where_a_value_was_found(folder):
    [row] = runs_table([read_run(folder/'seg_tiny')])
    assert row == dict(name='seg_tiny', x=2, value=17.456, best=17.456)
    assert runs_table([read_run(folder/'seg_tiny')], 'train_loss')[0]['best'] == 1.

def test_a_running_mean_agrees_with_a_loop():
    x = np.random.default_rng(0).random(20)
    for w in (1, 3, 7, 51):
        for i, y in enumerate(smoothed(x, w)):
            r = min(w//2, i, 19 - i)
            assert y == pytest.approx(x[i - r:i + r + 1].mean())

def test_the_figure_is_the_authors(folder):
    fig = show_runs(read_runs(folder/'logs.yml'))
    ax = fig.axes[0]
    assert len(ax.lines) == 4 and [t.get_text() for t in ax.texts] == ['17.46', '17.46'] and ax.get_ylim() == (5, 25)
    assert ax.lines[1].get_marker() == 'x' and [t.get_text() for t in ax.get_legend().get_texts()] == ['Seg-T', 'Seg-S']
    assert (ax.get_xlabel(), ax.get_ylabel()) == ('epoch', 'val_mean_iou')

def test_two_runs_of_one_name_are_two_lines():
    runs = read_runs.__globals__['Runs']([Run('a', [dict(epoch=0, val_mean_iou=1.)])]*2)
    assert len(show_runs(runs).axes[0].lines) == 4

def test_axes_may_be_logarithmic(folder):
    ax = show_runs(read_runs(folder), 'train_loss', 'num_updates', log_x=True, log_y=True).axes[0]
    assert (ax.get_xscale(), ax.get_yscale()) == ('log', 'log')

@pytest.mark.parametrize('suffix, head', [('.png', b'\x89PNG'), ('.svg', b'<?xml'), ('.pdf', b'%PDF')])
def test_a_figure_is_stored_in_each_format(folder, suffix, head):
    assert write_figure(show_runs(read_runs(folder), size='tight'), folder/f'new/plot{suffix}', 40).read_bytes().startswith(head)

def test_the_command_prints_keys_values_and_what_was_skipped(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    assert cli.main(['logs', 'logs.yml']) == 0
    out = capsys.readouterr().out
    assert 'skipped Seg-L: no log at' in out and 'keys: train_loss, train_learning_rate, val_pixel_accuracy' in out and '17.46' in out and (folder/'plot.png').is_file()
    assert cli.main(['logs', 'seg_tiny', 'seg_small_s0', '--y-key', 'train_loss', '--log-y', '--out', 'loss.svg', '-s', 'tight', '--smooth', '3']) == 0 and (folder/'loss.svg').is_file()

def test_a_logarithm_has_no_zero_and_no_warning(folder, recwarn):
    (folder/'zero.yml').write_text('root: .\nlogs: {a: seg_tiny}\nvmin: 0\nvmax: 9\n')
    ax = show_runs(read_runs(folder/'zero.yml'), 'train_loss', log_y=True).axes[0]
    assert ax.get_ylim()[0] > 0 and ax.get_ylim()[1] == 9 and not [w for w in recwarn if 'ylim' in str(w.message)]

def test_the_authors_line_does_the_same(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    assert authors.run('segm.utils.logs', ['logs.yml', '-ep', '1', '--no-plot']) == 0
    assert '8.13' in capsys.readouterr().out and not (folder/'plot.png').exists()
    assert authors.run('segm.utils.logs', ['logs.yml', '--x-key', 'num_updates', '-plot']) == 0 and (folder/'plot.png').is_file()

@pytest.mark.parametrize('words, message', [
    (['none.yml'], "no logs file, log or folder at 'none.yml'"), (['logs.yml', '--y-key', 'miou'], "no run has 'miou'"),
    (['logs.yml', '--out', 'plot.jpg'], "unknown kind of figure '.jpg'"), (['empty'], "no log.txt in 'empty' or below it"),
    (['logs.yml', '--smooth', '0'], 'smooth 0: give 1 or more')])
def test_a_refusal_is_one_line(words, message, folder, monkeypatch, capsys):
    (folder/'empty').mkdir()
    monkeypatch.chdir(folder)
    assert cli.main(['logs', *words]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count('\n') == 1

def test_when_no_log_is_there_nothing_is_drawn(folder, capsys):
    (folder/'logs.yml').write_text('root: /nowhere\nlogs: {a: b}\n')
    assert cli.main(['logs', str(folder/'logs.yml')]) == 2 and 'none of the logs is there' in capsys.readouterr().err

def test_our_own_log_is_read(folder):
    records = [dict(train_loss=2.8, train_learning_rate=.01, epoch=0, num_updates=10, val_mean_iou=4.)]
    (folder/'log.txt').write_text(''.join(json.dumps(r) + '\n' for r in records))
    assert read_run(folder).records == records

def test_reading_logs_needs_no_torch(folder):
    code = f'import sys; from segmenter.logs import read_runs; read_runs({str(folder)!r}); print("torch" in sys.modules)'
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True).stdout == 'False\n'

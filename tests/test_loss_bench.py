"The bench of the fused loss: both sides do the same work, and the record says what was measured."
import json
import pytest
from segmenter.loss_bench import LOSS_FIGURES, _memory, bench_loss, report_loss

def test_both_sides_agree_and_every_time_is_kept():
    record = bench_loss(rounds=2, size=64, batch=1, n_classes=9, memory=False)
    assert record['bench'] == 'loss' and list(record['results']) == list(LOSS_FIGURES)
    for found in record['results'].values():
        assert found['apart'] < 1e-5 and [len(s) for s in found['seconds'].values()] == [2, 2] and found['ratio'] > 0
    assert json.loads(json.dumps(record)) == record
    assert [line.split(':')[0] for line in report_loss(record).splitlines()[1:]] == ['step', 'loss']

def test_the_plain_side_needs_more_memory():
    extra = _memory('loss', 256, 2, 150)
    assert extra['plain'] > 3*extra['segmenter'] > 0

def test_no_round_is_refused():
    with pytest.raises(ValueError, match='needs at least 1'): bench_loss(0)

def test_the_command_measures_the_loss(monkeypatch, capsys, tmp_path):
    from segmenter import cli, loss_bench
    real = bench_loss
    monkeypatch.setattr(loss_bench, 'bench_loss', lambda rounds: real(rounds, 64, 1, 9, memory=False))
    assert cli.main(['bench', 'loss', '--rounds', '1', '--json', str(tmp_path/'r.json')]) == 0
    assert 'times as fast' in capsys.readouterr().out and json.loads((tmp_path/'r.json').read_text())['rounds'] == 1

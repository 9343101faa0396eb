"What guards the bench of models: the direct way is the separate step-by-step one, opponents get the same work, records can be continued."
import json
import numpy as np, pytest, torch
from step_by_step import Patchwork, step_by_step
from segmenter import cli, model_bench
from segmenter.guards import UnknownName
from segmenter.merge import sliding_labels
from segmenter.model import VARIANTS, ModelConfig, create_model
from segmenter.model_bench import (BENCHES, CONTENTS, FIGURES, _compare, _labelling, _noisy, bench, counted_macs, direct_labels, macs, mmseg_labels, mmseg_twin,
    plain_attention, report)
from segmenter.patches import upsample

class Network(Patchwork):
    "Patchwork as `direct_labels` takes it: logits of full size, and modules to look through."
    def modules(self): return []
    def __call__(self, x):
        masks, p = self.masks(x), self.patch_size
        return upsample(masks, [n*p for n in masks.shape[-2:]])[..., :x.shape[-2], :x.shape[-1]]

@pytest.fixture(scope='module')
def model():
    torch.manual_seed(0)
    made = create_model(backbone='vit_tiny_patch16_384', embed_dim=64, depth=2, n_heads=2, n_classes=9, image_size=64, position_rule='count').eval()
    torch.nn.init.normal_(made.decoder.cls_emb)
    return made

@pytest.mark.parametrize('sizes, flips, out, window, stride', [
    ([(64, 90)], [False], (64, 90), 48, 48), ([(50, 61)], [True], (77, 43), 32, 21), ([(20, 30), (70, 99), (70, 99)], [False, False, True], (55, 66), 40, 25)])
def test_the_direct_way_is_the_separate_step_by_step_way(sizes, flips, out, window, stride):
    net, views = Network(11, 8), [torch.randn(1, 3, *s) for s in sizes]
    best = step_by_step(net, views, flips, out, window, stride)
    found = direct_labels(net, views, flips, out, window, stride, 3)
    differ = found != best.argmax(0)
    assert not (differ & (best.amax(0) - best.gather(0, found[None])[0] > 1e-5)).any() and differ.float().mean() < 1e-3

def test_attention_is_fused_again_even_after_an_error(model):
    with pytest.raises(ZeroDivisionError), plain_attention(model): 1/0
    assert all(b.attn.fused_attn for b in (*model.encoder.blocks, *model.decoder.blocks))

@pytest.mark.parametrize('decoder', ['linear', 'mask_transformer'])
@pytest.mark.parametrize('size', [(64, 64), (64, 100), (90, 64)])
def test_mmsegmentation_and_the_direct_way_find_our_labels(decoder, size):
    torch.manual_seed(1)
    made = create_model(backbone='vit_tiny_patch16_384', embed_dim=64, depth=2, n_heads=2, n_classes=9, image_size=64, decoder=decoder, position_rule='count').eval()
    if decoder != 'linear': torch.nn.init.normal_(made.decoder.cls_emb)
    view, twin = torch.randn(1, 3, *size), mmseg_twin(made)
    ours = sliding_labels(made, [view], [False], size, 64, 64)
    assert (ours == mmseg_labels(twin, view)).float().mean() > .999 and (ours == direct_labels(made, [view], [False], size, 64, 64)).float().mean() > .999

def test_noise_reaches_every_way_and_leaves_again(model):
    view, forward = torch.randn(1, 3, 64, 100), model.decoder.forward
    timings, facts = _compare(model, mmseg_twin(model), [view], [False], (64, 100), (64, 64), 2, noisy=True)
    assert min(facts['agreement'].values()) > .9999 and facts['windows'] == 2 and model.decoder.forward == forward
    assert {len(s) for s in timings.seconds.values()} == {2} == {len(facts['network'])} and facts['after'] > 0

def test_the_network_computes_although_noise_is_said(model):
    calls = []
    hook = model.decoder.blocks[0].register_forward_hook(lambda *a: calls.append(1))
    with _noisy(model.decoder, 1, 9, 4) as noise: assert torch.equal(model.masks(torch.randn(1, 3, 64, 64)), noise.logits)
    hook.remove()
    assert calls

TABLE = [('Seg-T-Mask/16', 512, 150, 12.80), ('Seg-S-Mask/16', 512, 150, 38.56), ('Seg-B-Mask/16', 512, 150, 129.45), ('Seg-L-Mask/16', 640, 150, 671.3),
         ('Seg-S-Mask/16', 480, 60, 32.04), ('Seg-S-Mask/16', 768, 19, 115.8), ('Seg-B/8', 512, 150, 658.6)]

@pytest.mark.parametrize('variant, size, n_classes, giga', TABLE)
def test_macs_are_those_of_the_checked_table(variant, size, n_classes, giga):
    found = sum(macs(ModelConfig(variant, image_size=size, n_classes=n_classes)).values())/1e9
    assert abs(found - giga) < .002*giga

@pytest.mark.parametrize('variant', VARIANTS)
def test_the_formula_counts_what_torch_counts(variant):
    config = ModelConfig(variant, image_size=128, n_classes=7)
    assert counted_macs(config) == sum(macs(config).values()) - macs(config)['upsample']

def tiny(variant, content, model_path=None, seed=0):
    torch.manual_seed(seed)
    made = create_model(backbone='vit_tiny_patch16_384', embed_dim=32, depth=1, n_heads=1, n_classes=20, image_size=64, im_size=64, position_rule='count').eval()
    return made, {}

@pytest.fixture
def small(monkeypatch):
    "A small network and a small photograph."
    image, labels = model_bench._photograph()
    monkeypatch.setattr(model_bench, '_photograph', lambda: (image[:90, :120], labels[:90, :120]))
    monkeypatch.setattr(model_bench, '_model_of', tiny)

def test_every_row_is_handed_over_and_an_unfinished_record_is_continued(monkeypatch, small):
    monkeypatch.setattr(model_bench, 'new_record', lambda what, rounds, device: dict(bench=what, rounds=rounds, device=device, commit='a', processor='p', threads=1))
    seen, made = [], []
    whole = bench('merge', ['Seg-T-Mask/16'], 1, each=lambda record: seen.append(len(record['rows'])))
    assert seen == [1, 2, 3] and [r['content'] for r in whole['rows']] == list(CONTENTS)
    assert all(min(r['agreement'].values()) > .999 and set(r['ratio']) == {'direct', 'mmsegmentation'} for r in whole['rows'])
    part = whole | dict(rows=whole['rows'][:2])
    assert [r['content'] for r in bench('merge', ['Seg-T-Mask/16'], 1, earlier=part, each=lambda r: made.append(1))['rows']] == list(CONTENTS) and len(made) == 1
    assert len(bench('merge', ['Seg-T-Mask/16'], 2, earlier=part)['rows']) == 3 # other rounds: all again
    assert 'MISSED' in report(whole) or 'reached' in report(whole)

def test_twelve_views_are_compared_with_the_direct_way_alone(small):
    record = bench('scales', ['Seg-T-Mask/16'], 1)
    assert [set(r['ratio']) for r in record['rows']] == [{'direct'}]*3 and all(r['agreement']['direct'] > .999 for r in record['rows'])

def test_the_worst_content_counts():
    rows = [dict(task='one view', variant='Seg-T-Mask/16', content=c, ratio=dict(direct=r), quartiles={}, after=a) for c, r, a in (('x', 3., .1), ('y', 4., .3))]
    said = report(dict(bench='merge', rounds=1, processor='p', threads=2, rows=rows))
    assert 'MISSED  one view Seg-T-Mask/16 direct: 3, asked ≥ 3.3' in said and 'MISSED  one view Seg-T-Mask/16 after: 0.3, asked ≤ 0.25' in said

def test_both_ways_are_prepared_with_the_same_model_and_view_before_memory_is_measured(monkeypatch):
    monkeypatch.setattr(model_bench, 'create_model', lambda *a, **k: tiny('', '')[0])
    given = {}
    for way in ('direct', 'sliding'):
        monkeypatch.setattr(model_bench, f'{way}_labels', lambda model, views, *how, way=way: given.update({way: (views[0].sum().item(), how)}))
        work = _labelling(way.replace('sliding', 'segmenter'), 'x', 64, 96)
        assert way not in given # nothing is done before it is measured
        work()
    assert given['direct'] == given['sliding'] and given['direct'][1] == ([False], (64, 96), 512, 512)

def test_a_record_of_a_gpu_says_so_and_is_not_continued_on_a_processor():
    assert not model_bench._same_setting(dict(device='a GPU', commit='a'), dict(device='cpu, 2 cores', commit='a'))

def test_every_row_of_the_study_says_whether_it_is_exact_and_whether_it_helped():
    row = dict(task='study', variant='Seg', content='4 windows', ratio=dict(x=1.2), quartiles=dict(x=(1.1, 1.3)), exact=True, gap=1e-6, labels=1., verdict='helped')
    said = model_bench._line(row)
    assert '1.20 × x (1.10 to 1.30)' in said and 'exact, logits within 1e-06, labels 100.0000 %; helped' in said
    assert 'NOT exact' in model_bench._line(row | dict(exact=False))
    assert 'not measured: ValueError: no' in model_bench._line(dict(task='study', variant='Seg', content='c', ratio={}, failed='ValueError: no'))
    assert 'qkv 80 %' in model_bench._line(dict(task='peak', variant='Seg', content='c', ratio={}, linear=dict(qkv=.8), macs_per_second=3e9))

def test_figures_name_what_benches_measure():
    assert {t for t, *_ in FIGURES} == {'one view', 'twelve views', 'memory', 'confusion matrix', 'colouring'}
    assert all(v in VARIANTS for _, v, _, _ in FIGURES if v) and {'merge', 'scales', 'memory', 'counts', 'figures', 'throughput', 'study', 'video'} == set(BENCHES) == set(cli._BENCHES) - {'data', 'loss', 'export'}

def test_the_command_measures_and_continues(tmp_path, capsys):
    path = tmp_path/'r.json'
    assert cli.main(['bench', 'counts', '--rounds', '1', '--json', str(path)]) == 0
    said, record = capsys.readouterr().out, json.loads(path.read_text())
    assert 'confusion matrix' in said and {'versions', 'processor', 'commit', 'threads', 'load', 'rows'} <= set(record)
    assert cli.main(['bench', 'counts', '--rounds', '1', '--json', str(path)]) == 0 and json.loads(path.read_text())['rows'] == record['rows']
    for words, says in ((['figure'], "did you mean 'figures'"), (['merge', '--variant', 'Seg-X/16'], 'unknown variant'), (['counts', '--rounds', '0'], 'needs at least 1')):
        assert cli.main(['bench', *words]) == 2 and says in capsys.readouterr().err

def test_throughput_says_what_a_model_costs(monkeypatch):
    monkeypatch.setattr(model_bench, 'create_model', lambda *a, **k: tiny('', '')[0])
    row = model_bench._throughput_row('Seg-T-Mask/16', 64, 2, 2)
    assert row['images_per_second'] > 0 and row['counted_macs'] < row['macs'] and row['parameters'] > 1e4 and set(row['percentiles']) == {'p10', 'p50', 'p90'}
    with pytest.raises(UnknownName, match='unknown variant'): bench('throughput', ['Seg-X/16'])

@pytest.mark.gpu
def test_throughput_on_a_gpu_waits_for_it_and_measures_its_memory():
    if not torch.cuda.is_available(): pytest.skip('no GPU')
    row = model_bench._throughput_row('Seg-T-Mask/16', 512, 2, 3, 'cuda')
    assert row['peak_bytes'] > 2**24 and row['images_per_second'] > 1

"What guards the study of speed: kinds cover what torch runs, remedies compute the same."
import pytest, torch
from segmenter import model_bench
from segmenter.model import ModelConfig, create_model
from segmenter.speed import TRIALS, _filled, _kind, _Processes, linear_speeds, matmul_speed, show_times, study, time_by_kind, verdict

@pytest.fixture(scope='module')
def model():
    torch.manual_seed(0)
    made = create_model(backbone='vit_tiny_patch16_384', embed_dim=64, depth=2, n_heads=2, n_classes=9, image_size=64).eval()
    torch.nn.init.normal_(made.decoder.cls_emb)
    return made

def test_operations_have_the_kind_a_reader_expects():
    kinds = dict(upsample_bilinear2d='resizing', linear='matrix products', mm='matrix products', max='softmax and argmax', mul_='other', native_layer_norm='GELU and norms',
                 cat='moving', maximum='other')
    assert {name: _kind(f'aten::{name}') for name in kinds} == kinds

def test_a_product_spends_its_time_on_products():
    a = torch.randn(600, 600)
    spent = time_by_kind(lambda: a @ a)
    assert next(iter(spent)) == 'matrix products' and min(spent.values()) >= 0

@pytest.mark.parametrize('name', [n for n in TRIALS if n not in ('compiled', 'bfloat16')])
def test_every_exact_remedy_gives_the_same_logits(model, name):
    found = study(model, 3, 1, [name])[name]
    assert 'failed' in found or found['exact'] and found['labels'] == 1, found

@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)

def test_two_processes_give_the_logits_of_one_and_end(model, two_threads):
    shared = _Processes(model)
    for n in (3, 3): # the second time they are there already
        images = torch.randn(n, 3, 64, 64)
        with torch.inference_mode(): assert (shared(images) - model.masks(images)).abs().max() < 1e-5
    workers = list(shared.workers)
    assert len(workers) == 2
    shared.close()
    assert all(worker.returncode == 0 for worker in workers)

def test_a_process_that_dies_is_recorded_and_nothing_hangs(model, two_threads, monkeypatch):
    import segmenter.speed as module
    monkeypatch.setattr(module.sys, 'executable', '/bin/false')
    found = study(model, 2, 1, ['a process for each thread'])['a process for each thread']
    assert 'failed' in found

def test_one_thread_cannot_be_shared_out(model):
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    found = study(model, 2, 1, ['a process for each thread'])['a process for each thread']
    torch.set_num_threads(before)
    assert found == dict(failed='ValueError: torch has one thread, so there is nothing to share out')

@pytest.mark.parametrize('multiple', [1, 8, 17, 64])
@pytest.mark.parametrize('decoder', ['linear', 'mask_transformer'])
def test_tokens_that_fill_up_change_nothing(decoder, multiple):
    torch.manual_seed(2)
    made = create_model(backbone='vit_tiny_patch16_384', embed_dim=64, depth=1, n_heads=2, n_classes=9, image_size=64, decoder=decoder).eval()
    images, seen = torch.randn(2, 3, 64, 96), []
    filled = _filled(made, multiple)
    filled.__self__.encoder.blocks[0].mlp.register_forward_hook(lambda block, inputs, out: seen.append(out.shape[1]))
    with torch.inference_mode(): assert (filled(images) - made.masks(images)).abs().max() < 1e-5
    assert seen == [-(-25//multiple)*multiple]

def test_a_remedy_has_helped_when_the_middle_half_says_so():
    assert [verdict(*q) for q in ((1.03, 2), (1.01, 2), (.9, .97), (.9, 1.1))] == ['helped', 'no difference', 'slower', 'no difference']

@pytest.mark.slow
def test_compiling_gives_the_same_logits_or_says_why_not(model):
    found = study(model, 2, 1, ['compiled'])['compiled']
    assert 'failed' in found or found['exact'], found

def test_a_remedy_that_fails_is_recorded_and_the_others_measured(model, monkeypatch):
    def broken(model): raise_ = lambda x: 1/0; return raise_
    monkeypatch.setitem(TRIALS, 'broken', broken)
    found = study(model, 1, 1, ['broken', 'channels last'])
    assert found['broken'] == dict(failed='ZeroDivisionError: division by zero') and found['channels last']['exact']

def test_bfloat16_is_not_called_exact(model): assert not study(model, 1, 1, ['bfloat16'])['bfloat16']['exact']

def test_no_linear_layer_is_above_the_peak():
    found = linear_speeds(ModelConfig('Seg-T-Mask/16', image_size=64), 1, 1)
    assert all(0 < v <= 1 for name, v in found.items() if name != 'peak') and found['peak'] > 1e7 < matmul_speed(99, 98, 97)

def test_the_study_is_a_bench(monkeypatch, model):
    import segmenter.speed as module
    monkeypatch.setattr(module, 'TRIALS', {n: TRIALS[n] for n in ('as it is', 'channels last')})
    monkeypatch.setattr(module, 'create_model', lambda *a, **k: model)
    record = model_bench.bench('study', ['Seg-T-Mask/16'], 1, batches=(1, 2))
    assert [r['task'] for r in record['rows']] == ['study', 'study', 'peak'] and 'channels last' in model_bench.report(record)

def test_times_are_drawn_in_units_of_the_longest():
    import matplotlib
    matplotlib.use('agg')
    ax = show_times({'a': {'resizing': 2., 'other': 2.}, 'b': {'resizing': 1.}})
    assert max(p.get_x() + p.get_width() for p in ax.patches) == 1

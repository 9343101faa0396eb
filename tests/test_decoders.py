import pytest, torch
from torch import nn
from torch.nn import functional as F
from test_encoder import block_keys
from segmenter.linear_decoder import LinearDecoder
from segmenter.mask_transformer import MaskTransformer, class_masks, unit_length

DECODERS = dict(linear=LinearDecoder, mask=lambda D, K: MaskTransformer(D, K, n_heads=2))

@pytest.fixture(params=DECODERS)
def decoder(request):
    torch.manual_seed(0)
    return DECODERS[request.param](32, 7)

@pytest.mark.parametrize('grid', [(1, 1), (4, 4), (2, 9)])
def test_tokens_become_a_map_of_class_scores(decoder, grid):
    assert decoder(torch.randn(3, grid[0]*grid[1], 32), grid).shape == (3, 7, *grid)

def test_a_wrong_grid_is_refused(decoder):
    with pytest.raises(ValueError, match='do not fill'): decoder(torch.randn(1, 12, 32), (3, 5))

def test_gradients_reach_every_parameter(decoder):
    decoder(torch.randn(2, 6, 32), (2, 3)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in decoder.parameters())

def test_a_batch_gives_what_single_images_give(decoder):
    x = torch.randn(3, 6, 32)
    with torch.no_grad(): together, alone = decoder.eval()(x, (2, 3)), torch.cat([decoder(i[None], (2, 3)) for i in x])
    assert torch.allclose(together, alone, atol=1e-5)

def test_linear_keys_and_start():
    d = LinearDecoder(192, 150)
    assert {k: tuple(v.shape) for k, v in d.state_dict().items()} == {'head.weight': (150, 192), 'head.bias': (150,)}
    assert d.head.weight.std().item() == pytest.approx(.02, rel=.05) and d.head.bias.abs().max() == 0

@pytest.mark.parametrize('M', [0, 1, 2, 4])
def test_mask_transformer_has_the_authors_keys_and_shapes(M):
    D, K = 64, 19
    want = {'cls_emb': (1, K, D), 'proj_patch': (D, D), 'proj_classes': (D, D), 'proj_dec.weight': (D, D), 'proj_dec.bias': (D,),
            'decoder_norm.weight': (D,), 'decoder_norm.bias': (D,), 'mask_norm.weight': (K,), 'mask_norm.bias': (K,)}
    want |= {f'blocks.{j}.{k}': v for j in range(M) for k, v in block_keys(D).items()}
    d = MaskTransformer(D, K, M)
    assert {k: tuple(v.shape) for k, v in d.state_dict().items()} == want and len(want) == 9 + 12*M
    assert not list(d.buffers()) and {m.eps for m in d.modules() if isinstance(m, nn.LayerNorm)} == {1e-5}

def test_mask_transformer_starts_as_the_authors():
    torch.manual_seed(0)
    d = MaskTransformer(192, 150)
    assert d.cls_emb.std().item() == pytest.approx(.02, rel=.05)
    for p in (d.proj_patch, d.proj_classes): assert p.std().item() == pytest.approx(192**-.5, rel=.05)
    for m in d.modules():
        if isinstance(m, nn.Linear): assert m.weight.std().item() == pytest.approx(.02, rel=.05) and m.bias.abs().max() == 0
        if isinstance(m, nn.LayerNorm): assert (m.weight == 1).all() and (m.bias == 0).all()

def test_dropout_and_stochastic_depth_are_where_they_belong():
    d = MaskTransformer(64, 5, depth=3, drop_path_rate=.2, dropout=.15)
    assert [m.p for m in d.modules() if isinstance(m, nn.Dropout)] == [.15]*12
    assert [getattr(b.drop_path2, 'drop_prob', 0.) for b in d.blocks] == pytest.approx([0, .1, .2])

def test_evaluation_is_deterministic_and_training_is_not():
    d, x = MaskTransformer(64, 5), torch.randn(1, 6, 64)
    with torch.no_grad():
        assert not torch.equal(d(x, (2, 3)), d(x, (2, 3)))
        d.eval()
        assert torch.equal(d(x, (2, 3)), d(x, (2, 3)))

def test_the_norm_runs_over_the_classes():
    d = MaskTransformer(64, 9).eval()
    with torch.no_grad(): masks = d(torch.randn(2, 12, 64), (3, 4))
    assert masks.mean(1).abs().max() < 1e-5
    assert torch.allclose(masks.var(1, correction=0), torch.ones(2, 3, 4), atol=.02)

def test_raw_projections_multiply_from_the_right():
    d = MaskTransformer(8, 3, depth=0).eval()
    x = torch.randn(1, 4, 8)
    with torch.no_grad():
        patches, classes = d.decode(x)
        assert torch.allclose(patches, F.linear(F.layer_norm(d.proj_dec(x), (8,)), d.proj_patch.T), atol=1e-6)
        assert torch.allclose(classes, F.linear(F.layer_norm(d.cls_emb, (8,)), d.proj_classes.T), atol=1e-6)

def test_cosines_equal_torchs():
    p, c = torch.randn(2, 5, 16), torch.randn(2, 3, 16)
    assert torch.allclose(class_masks(p, c), F.cosine_similarity(p[:, :, None], c[:, None], dim=-1), atol=1e-6)

def test_a_zero_token_stays_zero_and_trains():
    x = torch.randn(4, 8)
    x[1] = 0
    x.requires_grad_()
    out = unit_length(x)
    out.sum().backward()
    assert torch.equal(out[1], torch.zeros(8)) and x.grad.isfinite().all() and x.grad.abs().max() < 1e3
    assert torch.equal(out[0], (x/x.norm(dim=-1, keepdim=True))[0])

@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_neither_overflows_nor_turns_zero(dtype):
    for size in (1e-4, 1., 2e4):
        out = unit_length(torch.full((2, 192), size, dtype=dtype))
        assert out.dtype == dtype and torch.allclose(out.float().norm(dim=-1), torch.ones(2), atol=.02)

def test_an_image_of_zero_tokens_gives_finite_masks():
    d = MaskTransformer(8, 3, depth=0).eval()
    for p in d.parameters(): nn.init.zeros_(p)
    assert d(torch.zeros(1, 4, 8), (2, 2)).isfinite().all()

@pytest.mark.parametrize('args', [(64, 1), (64, 0), (100, 5, 2, 3)])
def test_impossible_decoders_are_refused(args):
    with pytest.raises(ValueError) as e: MaskTransformer(*args)
    assert '\n' not in str(e.value)

"Attention maps are the model's own attention, of the right row, over the right columns."
import numpy as np, pytest, torch
from PIL import Image
from golden import close_to, golden_input, golden_model, set_fused_attention
from segmenter import authors, cli
from segmenter.attention import (AttentionLayer, attention_map, model_view, principal_components, read_attention, rollout, show_class_embeddings, show_classes,
                                 show_features, show_layers, show_maps, write_attention_maps)
from segmenter.sharing import save_pretrained
from segmenter.model import create_model
from segmenter.patches import scene

ENCODERS = { # name: patch size; class token alone, with distillation, with registers, rotary positions, table of offsets, normalised queries
    'vit_tiny_patch16_384': 16, 'deit_tiny_distilled_patch16_224': 16, 'vit_small_patch14_reg4_dinov2': 14, 'eva02_tiny_patch14_224': 14,
    'vit_small_patch16_dinov3': 16, 'beit_base_patch16_224': 16, 'vit_small_patch16_rope_224': 16, 'vit_small_patch16_rope_mixed_224': 16,
    'vit_base_patch16_siglip_224': 16, 'vit_so150m2_patch16_reg1_gap_256': 16, 'eva02_large_patch14_224': 14}

def small(name, **more):
    torch.manual_seed(0)
    P = ENCODERS.get(name, 16)
    return create_model(backbone=name, n_classes=4, image_size=4*P, depth=2, decoder_depth=1, **more).eval()

def rotated(x, table, half):
    "Rotary positions, written out: pairs of numbers turned by the angle of their place."
    sin, cos = table.tensor_split(2, -1)
    if half:
        a, b = x.chunk(2, -1)
        return x*cos + torch.cat((-b, a), -1)*sin
    turned = torch.empty_like(x)
    turned[..., ::2], turned[..., 1::2] = -x[..., 1::2], x[..., ::2]
    return x*cos + turned*sin

def by_hand(model, layer, images):
    "Attention of a layer of the encoder from its input: project, cut into heads, normalise, turn, compare, add the table."
    encoder, seen = model.encoder, []
    attn = encoder.blocks[layer].attn
    ear = encoder.blocks[layer].norm1.register_forward_hook(lambda module, inputs, output: seen.append(output))
    with torch.no_grad(): model.masks(images)
    ear.remove()
    x, D = seen[0], seen[0].shape[-1]
    if getattr(attn, 'qkv', None) is None: q, k = attn.q_proj(x), attn.k_proj(x)
    else:
        q, k = (x @ w.T for w in attn.qkv.weight.chunk(3)[:2])
        if attn.qkv.bias is not None: q, k = (t + b for t, b in zip((q, k), attn.qkv.bias.chunk(3)))
        if getattr(attn, 'q_bias', None) is not None: q, k = q + attn.q_bias, k + attn.k_bias
    q, k = (t[0].unflatten(-1, (attn.num_heads, -1)).transpose(0, 1) for t in (q, k))
    q, k = (norm(t) for norm, t in zip((getattr(attn, 'q_norm', lambda t: t), getattr(attn, 'k_norm', lambda t: t)), (q, k)))
    if getattr(encoder, 'rope', None) is not None:
        T = encoder.num_prefix_tokens
        table = encoder.rope.get_embed(shape=tuple(n//model.patch_size for n in images.shape[-2:]))
        if getattr(encoder, 'rope_mixed', False): table = table[layer]
        q, k = (torch.cat((t[:, :T], rotated(t[:, T:], table, getattr(attn, 'rotate_half', False))), 1) for t in (q, k))
    scores = torch.einsum('hid,hjd->hij', q, k)/q.shape[-1]**.5
    if getattr(attn, 'relative_position_bias_table', None) is not None: scores = scores + attn._get_rel_pos_bias()[0]
    return scores.softmax(-1)

@pytest.mark.parametrize('name', ENCODERS)
def test_it_is_the_attention_computed_by_hand_and_the_one_inside_the_unfused_model(name):
    model, P = small(name), ENCODERS[name]
    images = torch.randn(1, 3, 5*P, 3*P)
    found = read_attention(model, images, [0, 1])
    for layer in 0, 1:
        with torch.no_grad(): torch.testing.assert_close(found[layer].weights(), by_hand(model, layer, images), atol=1e-5, rtol=0)
        inside = []
        ear = model.encoder.blocks[layer].attn.attn_drop.register_forward_hook(lambda module, inputs, output: inside.append(output[0]))
        with torch.no_grad(): set_fused_attention(model, False).masks(images)
        ear.remove()
        set_fused_attention(model, True)
        torch.testing.assert_close(found[layer].weights(), inside[0], atol=1e-5, rtol=0)
    assert found[1].grid == (5, 3) and found[1].n_prefix == model.encoder.num_prefix_tokens
    assert found[1].look((2, 4)).shape[1:] == (5, 3)

@pytest.mark.parametrize('fused', [True, False])
@pytest.mark.parametrize('part, printed', [
    ('encoder', {(0, 0, 1): 0.0308394, (1, 5, 7): 0.0662110, (0, 16, 16): 0.0470471}),
    ('decoder', {(0, 0, 1): 0.1062067, (1, 5, 7): 0.0601879, (0, 20, 0): 0.0269419})])
def test_the_golden_digits_come_out(part, printed, fused):
    weights = read_attention(golden_model(fused=fused), golden_input(1, 3, 64, 64), [1], part)[1].weights()
    close_to([weights[at].item() for at in printed], list(printed.values()), 1e-6)

def test_prediction_keeps_the_fused_kernel_and_its_bits(monkeypatch):
    model, images, calls = small('vit_tiny_patch16_384'), torch.randn(1, 3, 48, 80), []
    fused = torch.nn.functional.scaled_dot_product_attention
    with torch.no_grad(): before = model.masks(images)
    monkeypatch.setattr(torch.nn.functional, 'scaled_dot_product_attention', lambda *a, **k: calls.append(1) or fused(*a, **k))
    with torch.no_grad(): during = model.masks(images)
    assert len(calls) == 3 and torch.equal(before, during)
    monkeypatch.undo()
    read_attention(model, images, [0, 1]), read_attention(model, images, [0], 'decoder')
    with torch.no_grad(): assert torch.equal(model.masks(images), before)
    assert not any(m._forward_pre_hooks for m in model.modules())

def test_a_model_in_training_mode_is_asked_in_evaluation_mode_and_left_as_it_was():
    model = small('vit_tiny_patch16_384', drop_path_rate=.9).train()
    view = torch.randn(1, 3, 48, 48)
    one, two = (read_attention(model, view, [0], 'decoder')[0].weights() for _ in range(2))
    assert torch.equal(one, two) and model.training

def test_a_hook_is_removed_when_the_model_fails():
    model = small('vit_tiny_patch16_384')
    with pytest.raises(RuntimeError): read_attention(model, torch.randn(1, 5, 48, 48), [0])
    assert not any(m._forward_pre_hooks for m in model.modules())

def test_two_attentions_side_by_side_are_more_heads_and_a_difference_of_two_is_refused():
    both = read_attention(small('vit_small_patch16_18x2_224'), torch.randn(1, 3, 64, 64), [1])[1]
    assert both.queries.shape == (12, 17, 64)
    for name in 'vit_dwee_patch16_reg1_gap_256', 'vit_dpwee_patch16_reg1_gap_256':
        with pytest.raises(ValueError, match='difference of two maps'): read_attention(small(name), torch.randn(1, 3, 64, 64), [1])

def test_side_by_side_heads_are_the_models_whether_it_is_fused_or_not():
    model, view = small('vit_small_patch16_18x2_224'), torch.randn(1, 3, 64, 64)
    on = read_attention(model, view, [1])[1].weights()
    torch.testing.assert_close(read_attention(set_fused_attention(model, False), view, [1])[1].weights(), on, atol=1e-5, rtol=0)
    assert not any(m.fused_attn for m in model.modules() if hasattr(m, 'fused_attn'))

# ---- Rows and columns

def layer_of(prefix=0, classes=0, grid=(3, 4), heads=2):
    torch.manual_seed(1)
    n = prefix + grid[0]*grid[1] + classes
    return AttentionLayer(torch.randn(heads, n, 8), torch.randn(heads, n, 8), grid, prefix, classes)

@pytest.mark.parametrize('prefix', [0, 1, 2, 5])
def test_a_patch_is_column_then_row_whatever_stands_before(prefix):
    layer = layer_of(prefix)
    whole = layer.weights().numpy()
    np.testing.assert_allclose(layer.look((3, 1)), whole[:, prefix + 7, prefix:].reshape(2, 3, 4), atol=1e-6)

def test_classes_stand_behind_the_patches():
    layer = layer_of(0, 5)
    np.testing.assert_allclose(layer.look(cls=True), layer.weights()[:, 12:, :12].reshape(2, 5, 3, 4).numpy(), atol=1e-6)
    np.testing.assert_allclose(layer.look((0, 2)), layer.weights()[:, 8, :12].reshape(2, 3, 4).numpy(), atol=1e-6)

@pytest.mark.parametrize('patch', [(4, 0), (0, 3), (-1, 0), (0, -1)])
def test_patches_outside_are_refused_in_one_line(patch):
    with pytest.raises(ValueError, match=r'columns 0–3, rows 0–2') as refused: layer_of(1).look(patch)
    assert '\n' not in str(refused.value)

def test_what_cannot_be_asked_is_refused():
    with pytest.raises(ValueError, match='no class token'): layer_of(0).look(cls=True)
    for given in dict(), dict(patch=(0, 0), cls=True):
        with pytest.raises(ValueError, match='say who looks'): layer_of(1).look(**given)
    with pytest.raises(ValueError, match='a column and a row'): layer_of(1).look(3)
    model = small('vit_tiny_patch16_384', decoder='linear')
    with pytest.raises(ValueError, match='linear decoder has no attention'): attention_map(model, scene(64, 64)[0], 0, 'decoder', cls=True)
    with pytest.raises(ValueError, match='the encoder has layers 0–1'): attention_map(model, scene(64, 64)[0], 2, patch=(0, 0))
    with pytest.raises(ValueError, match='one image'): read_attention(model, torch.zeros(2, 3, 64, 64), [0])

# ---- What is looked at

def test_the_whole_image_is_looked_at_at_any_size():
    model = small('vit_tiny_patch16_384')
    for size in (50, 131), (200, 64), (64, 64):
        image = scene(*size)[0]
        view, picture = model_view(model, image, 64)
        maps = attention_map(model, image, 0, patch=(0, 0), im_size=64)
        assert maps.shape[1:] == tuple(-(-n//16) for n in view.shape[-2:]) and picture.shape[:2] == tuple(view.shape[-2:])

def test_the_crop_is_the_authors():
    from torchvision.transforms import functional as T
    model, image = small('vit_tiny_patch16_384'), scene(90, 150)[0]
    theirs = T.to_tensor(T.resize(Image.fromarray(image), 70))[:, :64, :64]*2 - 1
    view, _ = model_view(model, image, 70, square=True)
    assert view.shape == (1, 3, 64, 64) and (view[0] - theirs).abs().max() < 1e-6
    tall, _ = model_view(model, image.transpose(1, 0, 2).copy(), 70, square=True)
    assert tall.shape == (1, 3, 64, 64)

def test_the_authors_files_have_their_names_sizes_and_pixels(tmp_path):
    model, image = golden_model(), scene(64, 80)[0]
    files = [f.relative_to(tmp_path).as_posix() for f in write_attention_maps(model, image, tmp_path, 1, patch=(2, 3), square=True)]
    assert files == ['enc_layer1/patch_2_3/enc_layer1_attn-head0.png', 'enc_layer1/patch_2_3/enc_layer1_attn-head1.png', 'enc_layer1/patch_2_3/input_img.png']
    marked = np.array(Image.open(tmp_path/files[2]))
    assert marked.shape == (64, 64, 3) and (marked[48:, 32:48] == (255, 0, 0)).all() and not (marked[:48] == (255, 0, 0)).all(-1).any()
    drawn, maps = np.array(Image.open(tmp_path/files[0])), attention_map(model, image, 1, patch=(2, 3), square=True)
    import matplotlib
    at = np.kron((maps[0] - maps[0].min())/np.ptp(maps[0]), np.ones((16, 16)))
    assert np.abs(drawn.astype(int) - (matplotlib.colormaps['viridis'](at)*255)).max() <= 2
    names = [f.relative_to(tmp_path).as_posix() for f in write_attention_maps(model, image, tmp_path, 0, 'encoder', cls=True)]
    assert names == [f'enc_layer0/cls/enc_layer0_attn-head{h}_cls.png' for h in range(2)]
    names = {f.relative_to(tmp_path).as_posix() for f in write_attention_maps(model, image, tmp_path, 0, 'decoder', cls=True)}
    assert names == {f'dec_layer0/cls_{k}/dec_layer0_attn-head{h}_{k}.png' for k in range(5) for h in range(2)}
    names = [f.relative_to(tmp_path).as_posix() for f in write_attention_maps(model, image, tmp_path, 0, 'decoder', patch=(0, 0))]
    assert names[0] == 'dec_layer0/patch_0_0/dec_layer0_attn-head0.png'

def test_padding_is_not_drawn(tmp_path):
    files = write_attention_maps(golden_model(), scene(64, 90)[0], tmp_path, patch=(5, 0), im_size=0)
    assert {Image.open(f).size for f in files} == {(90, 64)}

# ---- Further pictures

def test_rollout_of_even_attention_is_even_but_for_what_stays():
    model, image = golden_model(), scene(64, 64)[0]
    with torch.no_grad():
        for block in model.encoder.blocks: block.attn.qkv.weight.zero_(), block.attn.qkv.bias.zero_()
    rolled = rollout(model, image, patch=(1, 2))
    rest = np.delete(rolled.ravel(), 9)
    assert np.allclose(rest, rest[0], atol=1e-6) and np.isclose(rolled[2, 1] - rest[0], .5**3, atol=1e-6)
    assert np.isclose(rolled.sum() + rest[0], 1, atol=1e-5)

def test_rollout_is_the_product_of_all_layers():
    model, image = golden_model(), scene(64, 96)[0]
    heard = read_attention(model, model_view(model, image)[0], range(3))
    product, eye = torch.eye(25), torch.eye(25)
    for layer in heard.values(): product = (.5*layer.weights().mean(0) + .5*eye) @ product
    np.testing.assert_allclose(rollout(model, image, cls=True).ravel(), product[0, 1:], atol=1e-6)
    np.testing.assert_allclose(rollout(model, image, (5, 3)).ravel(), product[24, 1:], atol=1e-6)
    with pytest.raises(ValueError, match='layers 0–2'): rollout(model, image, (0, 0), layer=3)

def test_principal_components_are_the_largest_and_have_a_sign():
    torch.manual_seed(0)
    tokens = torch.randn(50, 3) @ torch.diag(torch.tensor([1., 5., .1])) + 7
    along = principal_components(tokens, 2)
    np.testing.assert_allclose(np.abs(along[:, 0]), (tokens[:, 1] - tokens[:, 1].mean()).abs(), atol=.5)
    assert (along[np.abs(along).argmax(0), range(2)] > 0).all() and principal_components(tokens[:2], 3).shape == (2, 3)

def test_figures_come_for_every_kind_of_model():
    import matplotlib.pyplot as plt
    model, image = golden_model(), scene(64, 96)[0]
    for figure in (show_layers(model, image, (0, 0)), show_layers(model, image, cls=True, layers=[2]), show_layers(model, image, (1, 1), part='decoder'),
                   show_classes(model, image), show_features(model, image), show_class_embeddings(model), show_maps(np.zeros((1, 2, 2)))):
        figure.canvas.draw()
    with pytest.raises(ValueError, match='use show_classes'): show_layers(model, image, cls=True, part='decoder')
    plt.close('all')

# ---- The commands

@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp('attention')
    save_pretrained(golden_model(), folder/'model')
    Image.fromarray(scene(64, 96)[0]).save(folder/'photo.png')
    return folder

def test_segmenter_attention_takes_the_authors_flags(checkpoint, tmp_path, capsys):
    words = f'{checkpoint}/model {checkpoint}/photo.png {tmp_path}'
    assert cli.main(f'attention {words} --layer-id 1 --x-patch 5 --y-patch 3 --enc --patch --cmap magma --cpu'.split()) == 0
    assert (tmp_path/'enc_layer1/patch_5_3/input_img.png').exists() and 'pictures written to' in capsys.readouterr().out
    assert cli.main(f'attention {words} --dec --cls --class 4 --cpu'.split()) == 0
    assert {f.name for f in (tmp_path/'dec_layer0').iterdir()} == {'cls_4'}

@pytest.mark.parametrize('flags', ['--cls', '--x-patch 2', '--dec', '--dec --cls', '--dec --cls --class 1 --class 3', '--x-patch 2 --layer 0 --layer 2'])
def test_a_figure_is_written_on_request(checkpoint, tmp_path, flags):
    words = f'attention {checkpoint}/model {checkpoint}/photo.png {tmp_path} --cpu {flags} --figure {tmp_path}/f.png'
    assert cli.main(words.split()) == 0 and Image.open(tmp_path/'f.png').width > 200

def test_a_figure_of_no_known_format_is_one_line(checkpoint, tmp_path, capsys):
    assert cli.main(f'attention {checkpoint}/model {checkpoint}/photo.png {tmp_path} --cpu --figure {tmp_path}/f.xyz'.split()) == 2
    assert capsys.readouterr().err.count('\n') == 1 and not any(tmp_path.iterdir())

@pytest.mark.parametrize('flags, said', [('--layer-id 3', 'layer 3 is not there: the encoder has layers 0–2'), ('--layer-id -1', 'layers 0–2'),
    ('--x-patch 6', 'columns 0–5, rows 0–3'), ('--y-patch 4', 'columns 0–5, rows 0–3'), ('--dec --cls --class bus', "unknown class 'bus'"),
    ('--class 1', 'give --dec --cls too'), ('--layer 1', 'give --figure FILE too'), ('--layer last --figure f.png', "--layer takes a number, not 'last'"), ('--cmap viridid', "did you mean 'viridis'"), ('--dec --layer-id 2', 'the decoder has layers 0–1')])
def test_a_slip_is_answered_in_one_line_and_nothing_is_written(checkpoint, tmp_path, capsys, flags, said):
    assert cli.main(f'attention {checkpoint}/model {checkpoint}/photo.png {tmp_path}/out --cpu {flags}'.split()) == 2
    err = capsys.readouterr().err
    assert said in err and err.count('\n') == 1 and not (tmp_path/'out').exists()

def test_the_authors_module_looks_at_their_crop(checkpoint, tmp_path, capsys):
    words = f'{checkpoint}/model {checkpoint}/photo.png {tmp_path} --x-patch 3 --y-patch 1'.split()
    assert authors.run('segm.scripts.show_attn_map', words) == 0
    assert Image.open(tmp_path/'enc_layer0/patch_3_1/enc_layer0_attn-head1.png').size == (64, 64)
    assert authors.run('segm.scripts.show_attn_map', [*words[:3], '--x-patch', '4']) == 2 and 'columns 0–3' in capsys.readouterr().err

import numpy as np, pytest, torch
from timm.layers import resample_abs_pos_embed
from segmenter.patches import INTERPOLATIONS, SCENE_CLASSES, pad_to_patches, patch_grid, resample_positions, scene, tokens_to_map, upsample

@pytest.mark.parametrize('size', [(16, 16), (48, 160), (640, 32)])
@pytest.mark.parametrize('patch', [8, 16])
def test_the_grid_counts_whole_patches(size, patch):
    h, w = patch_grid(*size, patch)
    assert (h*patch, w*patch) == size

@pytest.mark.parametrize('size, patch', [((50, 64), 16), ((64, 77), 16), ((0, 16), 16), ((16, 16), 0), ((8, 16), 16)])
def test_an_image_that_is_no_multiple_is_refused_in_one_line(size, patch):
    with pytest.raises(ValueError) as e: patch_grid(*size, patch)
    assert '\n' not in str(e.value) and str(patch) in str(e.value)

@pytest.mark.parametrize('size', [(1, 1), (16, 16), (17, 15), (50, 77), (33, 16)])
@pytest.mark.parametrize('patch', [8, 14, 16, 32])
def test_padding_adds_less_than_a_patch_of_zeros_right_and_below(size, patch):
    images = torch.rand(2, 3, *size) + 1
    padded = pad_to_patches(images, patch)
    H, W = padded.shape[-2:]
    assert patch_grid(H, W, patch) == (-(-size[0]//patch), -(-size[1]//patch))
    assert torch.equal(padded[..., :size[0], :size[1]], images)
    assert padded.sum().item() == pytest.approx(images.sum().item(), rel=1e-5)

def test_tokens_fill_the_map_row_by_row():
    grid = tokens_to_map(torch.arange(6.).reshape(1, 6, 1), (2, 3))
    assert grid.tolist() == [[[[0, 1, 2], [3, 4, 5]]]]

def test_tokens_that_do_not_fill_the_grid_are_refused():
    with pytest.raises(ValueError, match='7 tokens do not fill a grid of 2×3'): tokens_to_map(torch.zeros(1, 7, 1), (2, 3))

def test_upsampling_equals_bilinear_interpolation_by_loop():
    masks = torch.randn(1, 2, 3, 4)
    out = upsample(masks, (7, 10))
    for y in range(7):
        for x in range(10):
            v, u = (min(max((i + .5)*n/m - .5, 0), n - 1) for i, n, m in ((y, 3, 7), (x, 4, 10)))
            j, i = int(v), int(u)
            a, b, j1, i1 = v - j, u - i, min(j + 1, 2), min(i + 1, 3)
            want = (1-a)*(1-b)*masks[0, :, j, i] + (1-a)*b*masks[0, :, j, i1] + a*(1-b)*masks[0, :, j1, i] + a*b*masks[0, :, j1, i1]
            assert torch.allclose(out[0, :, y, x], want, atol=1e-6)

@pytest.mark.parametrize('old, new', [((24, 24), (32, 32)), ((24, 24), (10, 14)), ((4, 4), (4, 7)), ((2, 8), (4, 4))])
@pytest.mark.parametrize('n_prefix', [0, 1, 2, 5])
def test_positions_equal_timms_when_it_is_told_to_be_plain(old, new, n_prefix):
    pos = torch.randn(1, n_prefix + old[0]*old[1], 6)
    ours = resample_positions(pos, old, new, n_prefix)
    theirs = resample_abs_pos_embed(pos, new, old, num_prefix_tokens=n_prefix, interpolation='bilinear', antialias=False)
    assert ours.shape == (1, n_prefix + new[0]*new[1], 6)
    assert torch.equal(ours[:, :n_prefix], pos[:, :n_prefix])
    if new[0]*new[1] != old[0]*old[1]: assert torch.allclose(ours, theirs, atol=1e-6)  # timm, too, only counts

def test_positions_keep_their_gradient_and_type():
    pos = torch.randn(1, 17, 4, dtype=torch.float64, requires_grad=True)
    out = resample_positions(pos, (4, 4), (3, 5))
    out.sum().backward()
    assert out.dtype == torch.float64 and (pos.grad != 0).any()

@pytest.mark.parametrize('size', [(64, 96), (97, 131), (256, 384)])
def test_the_scene_has_every_class_at_every_size(size):
    image, labels = scene(*size)
    assert image.shape == (*size, 3) and image.dtype == np.uint8
    assert labels.shape == size and set(np.unique(labels)) == set(range(len(SCENE_CLASSES)))

def test_the_scene_is_always_the_same():
    assert all(np.array_equal(a, b) for a, b in zip(scene(), scene()))

@pytest.mark.parametrize('old, new', [((24, 24), (32, 40)), ((24, 24), (10, 14))])
@pytest.mark.parametrize('how, antialias', [('bicubic', False), ('bicubic_antialias', True)])
def test_other_interpolations_equal_timms(how, antialias, old, new):
    pos = torch.randn(1, 1 + old[0]*old[1], 6)
    theirs = resample_abs_pos_embed(pos, new, old, interpolation='bicubic', antialias=antialias)
    assert torch.allclose(resample_positions(pos, old, new, interpolation=how), theirs, atol=1e-6)

def test_half_precision_is_interpolated_in_float32():
    pos = torch.randn(1, 17, 4).bfloat16()
    for how in INTERPOLATIONS:
        assert torch.equal(resample_positions(pos, (4, 4), (3, 7), interpolation=how), resample_positions(pos.float(), (4, 4), (3, 7), interpolation=how).bfloat16())

"The loss against plain PyTorch, and its edges."
import pytest, torch
from torch.nn import functional as F
from segmenter.losses import balanced_weights, fused_cross_entropy, majority_loss, pixel_cross_entropy, valid_pixels

@pytest.mark.parametrize('K', [2, 19, 150])
@pytest.mark.parametrize('size', [(64, 64), (50, 77)])
def test_loss_and_gradient_equal_the_plain_mean(K, size):
    torch.manual_seed(0)
    masks, target = torch.randn(2, K, 4, 5, requires_grad=True), torch.randint(K, (2, *size))
    target[:, :7] = 255
    plain = F.cross_entropy(F.interpolate(masks, size=size, mode='bilinear'), target, ignore_index=255)
    ours = pixel_cross_entropy(masks, target)
    torch.testing.assert_close(ours, plain, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(*torch.autograd.grad(ours, masks, retain_graph=True), *torch.autograd.grad(plain, masks), rtol=1e-5, atol=1e-9)

def test_gradient_is_right_in_double():
    torch.manual_seed(0)
    target = torch.tensor([[[0, 1, 255], [2, 2, 1]]])
    assert torch.autograd.gradcheck(lambda m: pixel_cross_entropy(m, target), torch.randn(1, 3, 2, 2, dtype=torch.double, requires_grad=True))

def test_another_void_label_is_honoured():
    masks, target = torch.randn(1, 3, 2, 2), torch.tensor([[[0, 7], [7, 1]]])
    expected = pixel_cross_entropy(masks, torch.where(target == 7, 255, target))
    assert torch.equal(pixel_cross_entropy(masks, target, ignore_index=7), expected)
    assert valid_pixels(target, 7).sum() == 2

def test_half_precision_masks_give_a_full_precision_loss():
    assert pixel_cross_entropy(torch.randn(1, 3, 2, 2).bfloat16(), torch.zeros(1, 8, 8, dtype=torch.long)).dtype == torch.float32

@pytest.mark.parametrize('power', [0., .5, 1.])
def test_balanced_weights_fall_with_the_power_of_the_frequency_down_to_a_single_pixel(power):
    counts = torch.tensor([1, 2, 0, 900, 10000])
    weights = balanced_weights(counts, power, limit=1e9)
    present = counts > 0
    expected = counts[present]**-power
    torch.testing.assert_close(weights[present]/weights[0], expected/expected[0])
    assert weights[2] == 0 and (weights*counts).sum() == pytest.approx(counts.sum().item())
    limited = balanced_weights(counts, power, limit=2.)
    assert limited.max() <= 2*limited[present].median()*(1 + 1e-6) and (limited[present] > 0).all()

def test_absent_classes_cost_nothing(): assert majority_loss(torch.tensor([5, 0, 0])) == 0


def _loss_and_gradient(loss, masks, *args, **kwargs):
    masks = masks.clone().requires_grad_()
    value = loss(masks, *args, **kwargs)
    return value.detach(), torch.autograd.grad(value, masks)[0]

@pytest.mark.parametrize('case', range(24))
def test_the_fused_loss_and_its_gradient_equal_the_plain_ones(case):
    draw = torch.Generator().manual_seed(case)
    number = lambda low, high: int(torch.randint(low, high, (), generator=draw))
    n, K, h, w = number(1, 4), number(2, 40), number(1, 9), number(1, 9)
    size = number(h, 150), number(w, 150)
    masks = 4*torch.randn(n, K, h, w, generator=draw)
    target = torch.randint(K, (n, *size), generator=draw)
    target[torch.rand(target.shape, generator=draw) < .3] = 255
    how = dict(class_weights=torch.rand(K, generator=draw) if case % 2 else None, label_smoothing=.1*(case % 3))
    plain = _loss_and_gradient(pixel_cross_entropy, masks, target, **how)
    fused = _loss_and_gradient(fused_cross_entropy, masks, target, budget=10**number(1, 6), **how)
    torch.testing.assert_close(fused[0], plain[0], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(fused[1], plain[1], rtol=1e-5, atol=1e-6*plain[1].abs().max().item())

def test_large_logits_do_not_overflow_the_fused_loss():
    masks, target = 1e4*torch.randn(1, 6, 4, 4), torch.randint(6, (1, 32, 32))
    torch.testing.assert_close(_loss_and_gradient(fused_cross_entropy, masks, target), _loss_and_gradient(pixel_cross_entropy, masks, target))

def test_half_precision_masks_are_scored_in_full_precision():
    masks, target = torch.randn(1, 6, 4, 4).half(), torch.randint(6, (1, 32, 32))
    loss, gradient = _loss_and_gradient(fused_cross_entropy, masks, target)
    assert loss.dtype == torch.float32 and gradient.dtype == torch.float16
    torch.testing.assert_close(loss, fused_cross_entropy(masks.float(), target))

def test_without_a_gradient_the_fused_loss_is_the_same_number():
    masks, target = torch.randn(1, 6, 4, 4), torch.randint(6, (1, 32, 32))
    with torch.no_grad(): torch.testing.assert_close(fused_cross_entropy(masks, target), pixel_cross_entropy(masks, target))

def test_sums_of_parts_make_the_mean_of_the_whole():
    from segmenter.losses import cross_entropy_sum
    draw = torch.Generator().manual_seed(0)
    masks, target = torch.randn(4, 5, 3, 3, generator=draw), torch.randint(5, (4, 40, 40), generator=draw)
    target[0], target[1, 3:] = 255, 255
    how = dict(class_weights=torch.rand(5, generator=draw), label_smoothing=.1)
    parts = [cross_entropy_sum(masks[i:i + 1], target[i:i + 1], **how) for i in range(4)]
    torch.testing.assert_close((sum(t for t, _ in parts)/sum(n for _, n in parts)).float(), pixel_cross_entropy(masks, target, **how), rtol=1e-6, atol=1e-6)
    assert cross_entropy_sum(masks, target)[1] == valid_pixels(target).sum()

@pytest.mark.parametrize('budget', [1, 700, 2**12, 2**16, 2**19])
@pytest.mark.parametrize('n_images, n_classes, size', [(3, 5, (40, 300)), (1, 150, (512, 512)), (7, 2, (1, 129)), (4, 19, (64, 128))])
def test_tiles_cover_the_batch_once_within_the_budget(budget, n_images, n_classes, size):
    from segmenter.losses import _tiles
    A, B = torch.zeros(size[0], 2), torch.zeros(size[1], 2)
    seen, tiles = torch.zeros(n_images, *size), _tiles(A, B, n_images, n_classes, budget)
    for images, rows, columns in tiles:
        seen[images, rows, columns] += 1
        numbers, row = seen[images, rows, columns].numel()*n_classes, n_classes*(columns.stop - columns.start)
        assert columns.stop - columns.start <= 128 and (numbers <= budget or numbers == row) # one row of one image is the least
    assert (seen == 1).all()
    if budget == 2**19 and n_classes*size[0]*min(size[1], 128)*n_images <= budget: assert len(tiles) == -(-size[1]//128) # all images at once

def test_nothing_of_full_size_is_made():
    "The largest tensor that autograd or a tile holds stays far below `[B, K, H, W]`."
    from torch.utils._python_dispatch import TorchDispatchMode
    class Largest(TorchDispatchMode):
        found = 0
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **kwargs or {})
            for t in out if isinstance(out, (tuple, list)) else [out]:
                if isinstance(t, torch.Tensor): self.found = max(self.found, t.numel())
            return out
    from segmenter.region_losses import SegmentationLoss
    masks, target = torch.randn(2, 40, 16, 16, requires_grad=True), torch.randint(40, (2, 256, 256))
    for loss in fused_cross_entropy, SegmentationLoss(dice=1., ohem=.2, smoothing=.1):
        with Largest() as seen: loss(masks, target).backward()
        assert seen.found <= 2**19 < 2*40*256*256/4

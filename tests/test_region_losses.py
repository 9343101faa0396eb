"Dice and hard pixels against plain torch, and the one loss that a run is given."
import math, pickle
import pytest, torch
from torch.nn import functional as F
from segmenter.losses import fused_cross_entropy
from segmenter.region_losses import SegmentationLoss, dice_loss, hard_pixels, ohem, pixel_losses

def _case(number, dtype=torch.float32):
    "Masks, a label map with void, and the size of a tile, all random."
    draw = torch.Generator().manual_seed(number)
    pick = lambda low, high: int(torch.randint(low, high, (), generator=draw))
    n, K, h, w = pick(1, 4), pick(2, 30), pick(1, 8), pick(1, 8)
    masks = 3*torch.randn(n, K, h, w, generator=draw, dtype=dtype)
    target = torch.randint(K, (n, pick(h, 90), pick(w, 90)), generator=draw)
    return masks, target.masked_fill(torch.rand(target.shape, generator=draw) < .3, 255), 10**pick(1, 6)

def _both(loss, masks, *args, **kwargs):
    masks = masks.clone().requires_grad_()
    value = loss(masks, *args, **kwargs)
    return value.detach(), torch.autograd.grad(value, masks)[0]

def _plain_logits(masks, target): return F.interpolate(masks, target.shape[-2:], mode='bilinear', align_corners=False)

def _plain_dice(masks, target, smooth=1.):
    p = _plain_logits(masks, target).softmax(1).movedim(1, 0)[:, target != 255]
    truth = F.one_hot(target[target != 255], masks.shape[1]).T
    dice = (2*(p*truth).sum(1) + smooth)/(p.sum(1) + truth.sum(1) + smooth)
    return 1 - dice[truth.any(1)].mean()

def _plain_ohem(masks, target, share, weights=None, smoothing=0.):
    costs = F.cross_entropy(_plain_logits(masks, target), target, ignore_index=255, reduction='none')
    valid = target != 255
    kept = costs[valid].detach().sort(descending=True).values[:math.ceil(share*int(valid.sum()))]
    hard = target.masked_fill(~(valid & (costs >= kept.min())), 255)
    return F.cross_entropy(_plain_logits(masks, target), hard, weights, ignore_index=255, label_smoothing=smoothing)

def _agree(ours, plain):
    torch.testing.assert_close(ours[0], plain[0], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(ours[1], plain[1], rtol=1e-5, atol=1e-6*max(plain[1].abs().max().item(), 1e-3))

@pytest.mark.parametrize('case', range(12))
def test_dice_and_its_gradient_equal_the_plain_ones(case):
    masks, target, budget = _case(case)
    _agree(_both(dice_loss, masks, target, budget=budget), _both(_plain_dice, masks, target))

@pytest.mark.parametrize('case', range(12))
def test_hard_pixels_and_their_gradient_equal_the_plain_ones(case):
    masks, target, _ = _case(case, torch.float64)
    weights, smoothing = torch.rand(masks.shape[1], dtype=torch.float64) + .1, .1*(case % 2)
    _agree(_both(ohem, masks, target, 255, weights, smoothing, share=.3), _both(_plain_ohem, masks, target, .3, weights, smoothing))

@pytest.mark.parametrize('case', range(6))
def test_the_cost_of_each_pixel_is_the_plain_one(case):
    masks, target, budget = _case(case)
    plain = F.cross_entropy(_plain_logits(masks, target), target, ignore_index=255, reduction='none')
    torch.testing.assert_close(pixel_losses(masks, target, budget=budget), plain, rtol=1e-5, atol=1e-5)

@pytest.mark.parametrize('how', [dict(), dict(dice=1.), dict(ohem=.3), dict(ohem=.1, ohem_below=.4), dict(smoothing=.2, dice=.5, ohem=.5),
                                 dict(class_weights=torch.tensor([.5, 2, 0.]), dice=2.)])
def test_every_loss_is_right_in_double(how):
    draw = torch.Generator().manual_seed(1)
    masks = torch.randn(2, 3, 2, 3, dtype=torch.double, generator=draw, requires_grad=True)
    target = torch.randint(3, (2, 7, 9), generator=draw)
    target[0, :2], target[1, :, 4] = 255, 255
    assert torch.autograd.gradcheck(lambda m: SegmentationLoss(**how)(m, target), masks)

@pytest.mark.parametrize('how', [dict(), dict(dice=1.), dict(ohem=.3), dict(ohem_below=.7), dict(smoothing=.1, dice=1., ohem=.2, min_kept=50)])
def test_a_batch_of_void_costs_nothing_and_pulls_nowhere(how):
    loss, gradient = _both(SegmentationLoss(**how), torch.randn(2, 4, 3, 3), torch.full((2, 30, 30), 255))
    assert loss == 0 and not gradient.any()

def test_with_every_dial_at_zero_it_is_the_fused_loss_to_the_bit():
    masks, target, _ = _case(3)
    for ours, plain in zip(_both(SegmentationLoss(), masks, target), _both(fused_cross_entropy, masks, target)): assert torch.equal(ours, plain)

def test_sums_of_parts_make_the_whole():
    masks, target = torch.randn(3, 5, 4, 4), torch.randint(5, (3, 32, 32))
    target[0, 2:] = 255
    loss = SegmentationLoss(class_weights=torch.tensor([1, 2, 3, 4, .5]), smoothing=.1)
    parts = [loss.sums(masks[i:i + 1], target[i:i + 1]) for i in range(3)]
    torch.testing.assert_close((sum(t for t, _ in parts)/sum(n for _, n in parts)).float(), loss(masks, target), rtol=1e-6, atol=1e-6)

def test_never_fewer_pixels_than_asked_and_never_more_than_there_are():
    masks, target = 50*F.one_hot(torch.zeros(1, 2, 2, dtype=torch.long), 3).permute(0, 3, 1, 2).float() + torch.randn(1, 3, 2, 2), torch.zeros(1, 20, 20, dtype=torch.long)
    count = lambda **how: int((hard_pixels(masks, target, **how) != 255).sum())
    assert count(share=0, below=.5) == 0 and count(share=0, below=.5, min_kept=30) >= 30 and count(share=0, min_kept=10**6) == 400

def test_another_void_label_is_honoured():
    masks, target, _ = _case(5)
    other = target.masked_fill(target == 255, 99)
    for how in dict(dice=1.), dict(ohem=.2): assert torch.equal(SegmentationLoss(99, **how)(masks, other), SegmentationLoss(**how)(masks, target))

def test_half_precision_masks_are_scored_in_full_precision():
    masks, target, _ = _case(6)
    for how in dict(), dict(dice=1.), dict(ohem=.2):
        loss, gradient = _both(SegmentationLoss(**how), masks.half(), target)
        assert loss.dtype == torch.float32 and gradient.dtype == torch.float16

@pytest.mark.parametrize('how', [dict(smoothing=2), dict(ohem=-.1), dict(ohem_below=9), dict(dice=-1), dict(min_kept=-1)])
def test_a_dial_out_of_range_is_refused(how):
    with pytest.raises(ValueError, match=next(iter(how))): SegmentationLoss(**how)

def test_masks_and_maps_of_different_batches_are_refused():
    for loss in dice_loss, ohem, SegmentationLoss():
        with pytest.raises(ValueError, match='masks of 2 images for label maps of 1'): loss(torch.randn(2, 3, 2, 2), torch.zeros(1, 8, 8, dtype=torch.long))

def test_a_loss_can_be_sent_to_another_process():
    loss = pickle.loads(pickle.dumps(SegmentationLoss(class_weights=torch.ones(3), dice=1.)))
    assert loss.dice == 1 and loss.class_weights.tolist() == [1, 1, 1]

def test_one_batch_is_learned_by_heart_with_every_loss():
    target = torch.randint(4, (1, 4, 4), generator=torch.Generator().manual_seed(0)).repeat_interleave(8, 1).repeat_interleave(8, 2)
    target[:, :3] = 255
    for how in dict(), dict(dice=1.), dict(ohem=.3), dict(smoothing=.1), dict(dice=1., ohem=.3, smoothing=.1):
        masks = torch.zeros(1, 4, 32, 32, requires_grad=True)
        step = torch.optim.Adam([masks], .3)
        for _ in range(40):
            step.zero_grad()
            SegmentationLoss(**how)(masks, target).backward()
            step.step()
        right = masks.detach().argmax(1) == target
        assert right[target != 255].float().mean() > .99, how

"The loss against plain PyTorch, and its edges."
import pytest, torch
from torch.nn import functional as F
from segmenter.losses import majority_loss, pixel_cross_entropy, valid_pixels

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
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, 'float', lambda self: self)
        assert torch.autograd.gradcheck(lambda m: pixel_cross_entropy(m, target), torch.randn(1, 3, 2, 2, dtype=torch.double, requires_grad=True))

def test_another_void_label_is_honoured():
    masks, target = torch.randn(1, 3, 2, 2), torch.tensor([[[0, 7], [7, 1]]])
    expected = pixel_cross_entropy(masks, torch.where(target == 7, 255, target))
    assert torch.equal(pixel_cross_entropy(masks, target, ignore_index=7), expected)
    assert valid_pixels(target, 7).sum() == 2

def test_half_precision_masks_give_a_full_precision_loss():
    assert pixel_cross_entropy(torch.randn(1, 3, 2, 2).bfloat16(), torch.zeros(1, 8, 8, dtype=torch.long)).dtype == torch.float32

def test_absent_classes_cost_nothing(): assert majority_loss(torch.tensor([5, 0, 0])) == 0

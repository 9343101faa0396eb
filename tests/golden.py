"""The conformance fixture: a small Segmenter whose weights and input are pseudo-noise, as the authors' code was run on it.

Everything comes from one formula, `u(n, o)_i = frac(sin(i·12.9898 + o)·43758.5453) − 0.5`, so no weight file is needed.
`golden_model` and `golden_input` make the two sides; `close_to` compares with printed digits."""
import numpy as np, torch
from segmenter.model import create_model

VALUES_AT = (0, 1, 777)  # Flat indices that the golden cases print, then n//2 and n-1

def noise(n, offset):
    "`n` numbers in [-.5, .5), float64."
    s = np.sin(np.arange(1, n + 1)*12.9898 + offset)*43758.5453
    return s - np.floor(s) - .5

def golden_input(*shape):
    "An image batch in [-1, 1)."
    return torch.from_numpy(2*noise(int(np.prod(shape)), .5)).float().reshape(shape)

def golden_weights(model):
    "A state dict for `model`: tensors in the alphabetical order of their keys, scales of norm layers around 1."
    state = {}
    for k, (key, value) in enumerate(sorted(model.state_dict().items())):
        one = 1. if key.endswith('.weight') and 'norm' in key.split('.')[-2] else 0.
        state[key] = torch.from_numpy(.2*noise(value.numel(), 78.233*(k + 1)) + one).float().reshape(value.shape)
    return state

def set_fused_attention(model, on):
    "timm's attention in one fused kernel, or step by step."
    for module in model.modules():
        if hasattr(module, 'fused_attn'): module.fused_attn = on
    return model

def golden_model(decoder='mask_transformer', distilled=False, decoder_depth=2, fused=False, position_rule='count'):
    "P=16, D=128, L=3, 2 heads, 64×64, K=5, in eval mode."
    backbone = 'deit_tiny_distilled_patch16_224' if distilled else 'vit_tiny_patch16_384'
    model = create_model(backbone=backbone, decoder=decoder, embed_dim=128, depth=3, n_heads=2, image_size=64, n_classes=5,
                         decoder_depth=decoder_depth, position_rule=position_rule)
    model.load_state_dict(golden_weights(model))
    return set_fused_attention(model, fused).eval()

def digits(output):
    "The numbers a golden case prints: mean, deviation, values, and how often each class wins."
    flat = output.flatten()
    picks = [flat[i].item() for i in (*VALUES_AT, flat.numel()//2, flat.numel() - 1)]
    axis = 0 if output.dim() == 3 else 1
    counts = torch.bincount(output.argmax(axis).flatten(), minlength=output.shape[axis]).tolist()
    return [flat.double().mean().item(), flat.double().std(correction=0).item(), *picks], counts

def close_to(numbers, printed, atol):
    "Largest difference to printed six-digit numbers, half a digit of rounding allowed."
    worst = max(abs(a - b) for a, b in zip(numbers, printed, strict=True))
    assert worst <= atol + 5e-7, f'{worst:.1e} away from the printed digits'

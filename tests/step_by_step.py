"""Sliding windows as the authors describe them, one window at a time: plain loops and `F.interpolate`, nothing clever.

Written apart from `segmenter.windows` and sharing no code with it, so that agreement means something.
`Patchwork` is a network without training: a linear map of each patch plus a pattern fixed to the window,
so that overlapping windows disagree and an error in the averaging shows."""
import torch
import torch.nn.functional as F

class Patchwork:
    "Masks of any window, from `n_classes` random filters."
    def __init__(self, n_classes, patch_size, seed=0):
        rng = torch.Generator().manual_seed(seed)
        self.patch_size, self.calls = patch_size, 0
        self.filters = torch.randn(n_classes, 3, patch_size, patch_size, generator=rng)/patch_size
        self.pattern = torch.randn(1, n_classes, 5, 7, generator=rng)

    def masks(self, images):
        self.calls += 1
        p = self.patch_size
        padded = F.pad(images, (0, -images.shape[-1] % p, 0, -images.shape[-2] % p))
        masks = F.conv2d(padded, self.filters, stride=p)
        return masks + F.interpolate(self.pattern, masks.shape[-2:], mode='nearest')

def anchors(length, window, stride):
    found, at = [], 0
    while at < length - window:
        found.append(at)
        at = at + stride
    return found + [length - window]

def window_logits(model, crop):
    "Pad, masks, upsample to the padded size, crop: what the model's `forward` does."
    height, width = crop.shape[-2:]
    p = model.patch_size
    full = ((height + p - 1)//p*p, (width + p - 1)//p*p)
    return F.interpolate(model.masks(crop).float(), size=full, mode='bilinear', align_corners=False)[:, :, :height, :width]

def step_by_step(model, views, flips, out_size, window, stride):
    "Probabilities `[K, H, W]`."
    answers = []
    for view, flip in zip(views, flips):
        height, width = view.shape[2], view.shape[3]
        if min(height, width) < window:
            long = int(max(height, width)/min(height, width)*window)
            height, width = (window, long) if height < width else (long, window)
            view = F.interpolate(view, size=(height, width), mode='bilinear', align_corners=False)
        logits = counts = None
        for y in anchors(height, window, stride):
            for x in anchors(width, window, stride):
                found = window_logits(model, view[:, :, y:y+window, x:x+window])
                if logits is None: logits, counts = torch.zeros(1, found.shape[1], height, width), torch.zeros(height, width)
                logits[:, :, y:y+window, x:x+window] += found
                counts[y:y+window, x:x+window] += 1
        logits = F.interpolate(logits/counts, size=out_size, mode='bilinear', align_corners=False)
        answers.append(torch.softmax(torch.flip(logits, dims=[3]) if flip else logits, dim=1)[0])
    return torch.stack(answers).mean(0)

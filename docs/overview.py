"""The method in one picture, from the model in the box: `python docs/overview.py` writes `docs/images/overview{,_dark}.{png,svg}`.

Figure 2 of the paper, redrawn. Nothing in it is a sketch: the tokens are those of `landcover-mask` for a window of the boxed
picture, as three principal components, the masks are the cosines its decoder finds, and the map is its answer.
"""
import sys
from pathlib import Path
import matplotlib
matplotlib.use('agg')
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.patches import FancyArrowPatch

ROOT = Path(__file__).resolve().parents[1]
INKS = dict(overview=('#1f2328', '#ffffff'), overview_dark=('#e6e6e6', '#1c1f24'))

def window(side=64):
    "The window of the boxed picture in which the model sees most classes, and the model."
    import segmenter as sg
    from PIL import Image
    from segmenter.predict import Protocol, make_views
    model, image = sg.load_model('landcover-mask'), np.array(Image.open(sg.boxed_image('landcover-mask')))
    labels = sg.predict(model, image).label_map
    def richness(place): return (np.bincount(labels[place[0]:place[0] + side, place[1]:place[1] + side].ravel()) > 120).sum()
    y, x = max(((y, x) for y in range(0, 161, 16) for x in range(0, 161, 16)), key=richness)
    part = image[y:y + side, x:x + side]
    return model, part, make_views(part, Protocol(0, side, side), model.config.normalization)[0][0]

@torch.no_grad()
def look(model, view):
    "Tokens after the embedding and after each block, decoded patches and classes, their cosines `[K, h, w]`, labels of the pixels."
    from segmenter.encoder import encode
    from segmenter.mask_transformer import class_masks
    kept = []
    hooks = [module.register_forward_hook(lambda _, __, out: kept.append(out)) for module in (model.encoder.pos_drop, *model.encoder.blocks)]
    tokens = encode(model.encoder, view)
    for hook in hooks: hook.remove()
    patches, classes = model.decoder.decode(tokens)
    agree = class_masks(patches, classes)[0].T.reshape(-1, 16, 16)
    return [t[0, model.encoder.num_prefix_tokens:] for t in kept], patches[0], classes[0], agree, model(view)[0].argmax(0).numpy()

def tint(tokens):
    "Tokens as colours: three principal components, stretched."
    from segmenter.attention import principal_components
    parts = principal_components(tokens)
    low, high = np.quantile(parts, (.02, .98), 0)
    return ((parts - low)/(high - low + 1e-9)).clip(0, 1).reshape(16, 16, 3)

def picture(fig, box, image, title='', ink='k', **more):
    ax = fig.add_axes(box)
    ax.imshow(image, interpolation='nearest', **more)
    ax.set(xticks=[], yticks=[])
    for side in ax.spines.values(): side.set(color=ink, linewidth=.6)
    if title: ax.set_title(title, fontsize=8.5, color=ink, pad=3)
    return ax

def apart(image, patch=8, gap=2):
    "An image cut into patches that stand apart."
    n = len(image)//patch
    out = np.full((n*(patch + gap) - gap, n*(patch + gap) - gap, 4), 0, np.uint8)
    for y in range(n):
        for x in range(n): out[y*(patch + gap):y*(patch + gap) + patch, x*(patch + gap):x*(patch + gap) + patch] = np.dstack([image[y*patch:(y+1)*patch, x*patch:(x+1)*patch], np.full((patch, patch), 255, np.uint8)])
    return out

WIDTH, HEIGHT = 12.2, 3.1 # Inches; everything below is placed in inches

def draw(name, ink, paper, model, part, layers, patches, classes, agree, labels):
    fig = plt.figure(figsize=(WIDTH, HEIGHT), dpi=130, facecolor=paper)
    at = lambda x, y, w, h: (x/WIDTH, y/HEIGHT, w/WIDTH, h/HEIGHT)
    def words(x, y, text, **how): fig.text(x/WIDTH, y/HEIGHT, text, ha='center', color=ink, **dict(fontsize=8.5) | how)
    def arrow(x): fig.add_artist(FancyArrowPatch((x/WIDTH, .48), ((x + .22)/WIDTH, .48), transform=fig.transFigure, arrowstyle='-|>', mutation_scale=10, color=ink, linewidth=1.1))
    palette, names = np.array(model.config.palette, np.uint8), model.config.classes
    picture(fig, at(.12, .74, 1.5, 1.5), part, 'image', ink)
    words(.87, .5, 'H × W × 3')
    arrow(1.68)
    picture(fig, at(1.96, .74, 1.5, 1.5), apart(part, 4, 1), 'patches', ink).set_frame_on(False)
    words(2.71, .5, 'N of P × P')
    arrow(3.52)
    for i, tokens in enumerate(layers):
        picture(fig, at(3.82 + 1.08*(i % 2), 1.63 - 1.27*(i//2), .96, .96), tint(tokens), 'embedded' if i == 0 else f'block {i}', ink)
    words(4.84, 2.86, 'encoder', fontsize=10, weight='bold')
    words(4.84, .1, 'N tokens of width D, as colours')
    arrow(5.98)
    picture(fig, at(6.26, .84, 1.3, 1.3), tint(patches), 'patch tokens', ink)
    strip = classes/classes.norm(dim=1, keepdim=True)
    ax = picture(fig, at(7.76, .84, .62, 1.3), strip[:, :32], 'class tokens', ink, cmap='PuOr', aspect='auto', vmin=-.4, vmax=.4)
    seen = np.argsort(-np.bincount(labels.ravel(), minlength=len(names)))[:4]
    for k in range(len(names)): ax.add_patch(plt.Rectangle((-3.2, k - .42), 2.2, .84, color=palette[k]/255, clip_on=False, linewidth=0))
    words(7.3, 2.86, 'mask transformer', fontsize=10, weight='bold')
    words(7.3, .5, 'patches and K classes look at each other')
    arrow(8.46)
    for i, k in enumerate(seen):
        short = names[k].replace(' and built-up', '').replace('evergreen', 'evergr.').replace('deciduous', 'decid.').replace('broadleaf forest', 'forest').replace('cropland and natural mosaic', 'mosaic')
        ax = picture(fig, at(8.76 + 1.08*(i % 2), 1.63 - 1.27*(i//2), .96, .96), agree[k], short[:16], ink, cmap='RdBu_r', vmin=-1, vmax=1)
        for side in ax.spines.values(): side.set(color=palette[k]/255, linewidth=2)
    words(9.78, 2.86, 'masks: cosine of patch and class', fontsize=10, weight='bold')
    words(9.78, .1, f'K = {len(names)} of N, four shown, −1 to 1')
    arrow(10.3 + .56)
    picture(fig, at(10.3 + .86, 1.0, .96, .96), palette[labels], 'best class', ink)
    words(10.3 + 1.34, .76, 'H × W')
    for kind in ('png', 'svg'): fig.savefig(ROOT/'docs'/'images'/f'{name}.{kind}', facecolor=paper, metadata={'Date': None} if kind == 'svg' else None)
    plt.close(fig)

def main():
    plt.rcParams['svg.hashsalt'] = 'segmenter' # the same file each time
    model, part, view = window()
    found = look(model, view)
    for name, (ink, paper) in INKS.items(): draw(name, ink, paper, model, part, *found)

if __name__ == '__main__': sys.exit(main())

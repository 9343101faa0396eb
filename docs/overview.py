"""The method in one picture, from the model in the box: `python docs/overview.py` writes `docs/images/overview{,_dark}.{png,svg}`.

Figure 2 of the paper, redrawn. Nothing in it is a sketch: the tokens are this model's, as three principal components over all
layers together, the scores are what its decoder says of them, and the map is their argmax.
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
    model, image = sg.load_model('landcover'), np.array(Image.open(sg.boxed_image('landcover')))
    labels = sg.predict(model, image).label_map
    places = [(y, x) for y in range(0, 161, 16) for x in range(0, 161, 16)]
    def richness(place):
        counts = np.bincount(labels[place[0]:place[0] + side, place[1]:place[1] + side].ravel())
        return (counts > 120).sum()
    y, x = max(places, key=richness)
    part = image[y:y + side, x:x + side]
    return model, part, make_views(part, Protocol(0, side, side), model.config.normalization)[0][0]

def look(model, view):
    "Tokens after the embedding and after each block, scores `[K, h, w]`, and labels of the pixels."
    kept = []
    hooks = [module.register_forward_hook(lambda _, __, out: kept.append(out)) for module in (model.encoder.pos_drop, *model.encoder.blocks)]
    with torch.no_grad(): scores, logits = model.masks(view)[0], model(view)[0]
    for hook in hooks: hook.remove()
    return [tokens[0, model.encoder.num_prefix_tokens:] for tokens in kept], scores, logits.argmax(0).numpy()

def tints(tokens):
    "Tokens of each layer as colours: three principal components each, stretched."
    from segmenter.attention import principal_components
    shown = []
    for t in tokens:
        parts = principal_components(t)
        low, high = np.quantile(parts, (.02, .98), 0)
        shown.append(((parts - low)/(high - low + 1e-9)).clip(0, 1).reshape(16, 16, 3))
    return shown

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

def draw(name, ink, paper, model, part, layers, scores, labels):
    fig = plt.figure(figsize=(10, 2.9), dpi=160, facecolor=paper)
    def arrow(x0, x1, y=.46): fig.add_artist(FancyArrowPatch((x0, y), (x1, y), transform=fig.transFigure, arrowstyle='-|>', mutation_scale=10, color=ink, linewidth=1.1))
    def words(x, text, y=.06): fig.text(x, y, text, ha='center', fontsize=8.5, color=ink)
    palette, names = np.array(model.config.palette, np.uint8), model.config.classes
    wide = lambda w: (w*2.9/10)
    s = .50
    picture(fig, (.012, .21, wide(s), s), part, 'image', ink)
    words(.012 + wide(s)/2, 'H × W × 3')
    arrow(.163, .183)
    picture(fig, (.188, .21, wide(s), s), apart(part, 4, 1), 'patches', ink).set_frame_on(False)
    words(.188 + wide(s)/2, 'N of P × P pixels')
    arrow(.339, .359)
    for i, (tokens, title) in enumerate(zip(layers, ['embedded', *(f'block {i}' for i in range(1, len(layers)))])):
        picture(fig, (.366 + .05*(i % 2)*2, .50 - .43*(i//2), wide(.33), .33), tokens, title, ink)
    fig.text(.465, .93, 'encoder: every patch looks at all', ha='center', fontsize=9, color=ink, weight='bold')
    words(.465, 'N tokens of width D, as colours', .015)
    arrow(.572, .592)
    seen = np.argsort(-np.bincount(labels.ravel(), minlength=len(names)))[:4]
    top = scores.abs().amax().item()
    for i, k in enumerate(seen):
        ax = picture(fig, (.60 + .1*(i % 2), .50 - .43*(i//2), wide(.33), .33), scores[k], names[k].split(' and ')[0].replace('evergreen', 'evergr.').replace('broadleaf', 'broadl.')[:18], ink, cmap='RdBu_r', vmin=-top, vmax=top)
        for side in ax.spines.values(): side.set(color=palette[k]/255, linewidth=2)
    fig.text(.698, .93, 'decoder: every class scores every patch', ha='center', fontsize=9, color=ink, weight='bold')
    words(.698, f'K = {len(names)} masks of N, four shown', .015)
    arrow(.808, .828)
    picture(fig, (.835, .21, wide(s), s), palette[labels], 'the best class', ink)
    words(.835 + wide(s)/2, 'upsampled to H × W')
    folder = ROOT/'docs'/'images'
    for kind in ('png', 'svg'): fig.savefig(folder/f'{name}.{kind}', facecolor=paper, metadata={'Date': None} if kind == 'svg' else None)
    plt.close(fig)

def main():
    plt.rcParams['svg.hashsalt'] = 'segmenter' # the same file each time
    model, part, view = window()
    tokens, scores, labels = look(model, view)
    for name, (ink, paper) in INKS.items(): draw(name, ink, paper, model, part, tints(tokens), scores, labels)

if __name__ == '__main__': sys.exit(main())

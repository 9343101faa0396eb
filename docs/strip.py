"""The strip at the top of the chapters on the model: the way of an image through it, with the chapter's part lit.

`python docs/strip.py` writes `docs/images/where_NAME.svg`, one for each name in `LIT`. Plain SVG, drawn by formula: no fonts to
fetch, nothing to install, and the same bytes every time.
"""
from pathlib import Path

STATIONS = ('image', 'patches', 'encoder', 'decoder', 'masks', 'pixels', 'loss')
LIT = { # Name of a strip: the stations it lights
    'patches': ('patches',), 'encoder': ('encoder',), 'linear_decoder': ('decoder',), 'mask_transformer': ('decoder', 'masks'),
    'model': ('patches', 'encoder', 'decoder', 'masks', 'pixels'), 'windows': ('image', 'pixels'), 'losses': ('masks', 'loss')}
SKY, HILL, ROAD, CAR, INK, ACCENT = '#8dbbe0', '#8f9e5f', '#77777d', '#c4362e', '#57606a', '#0a58a6'
W, H, STEP = 60, 44, 103 # Of a station's picture, and from one to the next

def rect(x, y, w, h, fill, more=''): return f'<rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" fill="{fill}"{more}/>'
def text(x, y, words, more=''): return f'<text x="{x:g}" y="{y:g}" text-anchor="middle" font-size="11"{more}>{words}</text>'

def scene(sky=SKY, hill=HILL, road=ROAD, car=CAR):
    "A street in four shapes, 60×44."
    return (rect(0, 0, W, H, sky) + f'<path d="M0 24Q15 16 30 22T60 20V44H0Z" fill="{hill}"/><path d="M27 24H33L50 44H10Z" fill="{road}"/>'
            + rect(22, 32, 13, 6, car, ' rx="2"') + rect(25, 28.5, 7, 4, car, ' rx="1.5"'))

def grid(n_rows=3, n_columns=4, gap=2.4):
    "White lines that cut a station into patches."
    return (''.join(rect(i*W/n_columns - gap/2, 0, gap, H, '#fff') for i in range(1, n_columns))
            + ''.join(rect(0, i*H/n_rows - gap/2, W, gap, '#fff') for i in range(1, n_rows)))

def tokens(n, colours, x, width, y=8, height=28):
    "A sequence of tokens as upright bars."
    return ''.join(rect(x + i*width/n, y, width/n - 1.4, height, colours[i % len(colours)], ' rx="1"') for i in range(n))

def station(name, decoder):
    "The picture of one station."
    classes = (SKY, HILL, ROAD, CAR)
    block = rect(0, 0, W, H, '#fff', f' stroke="{INK}" rx="5"')
    if name == 'image': return scene()
    if name == 'patches': return scene() + grid()
    if name == 'encoder': return block + tokens(9, ('#b9c4cf', '#9fb0c0', '#d0d8df'), 6, 49, 6, 20) + text(W/2, 38, '× L', f' fill="{INK}"')
    if name == 'decoder' and decoder == 'linear': return block + ''.join(f'<path d="M10 {y}L50 {y}" stroke="{c}" stroke-width="3"/>' for y, c in zip((10, 18, 26, 34), classes))
    if name == 'decoder': return block + tokens(5, ('#b9c4cf', '#9fb0c0', '#d0d8df'), 6, 26) + tokens(4, classes, 35, 20)
    if name == 'masks':
        cells = 'SSSSSHSSHHRHHCRH' # the winner of each of 4×4 patches
        return ''.join(rect(W/4*(i % 4), H/4*(i//4), W/4 + .2, H/4 + .2, dict(zip('SHRC', classes))[c]) for i, c in enumerate(cells))
    if name == 'pixels': return scene(*classes)
    return block + f'<path d="M8 8C16 34 26 36 52 37" fill="none" stroke="{ACCENT}" stroke-width="2.5"/>'

def strip(name):
    "The whole of it, as SVG."
    decoder, lit = 'linear' if name == 'linear_decoder' else 'mask', LIT[name]
    shown = STATIONS if name == 'losses' else STATIONS[:-1]
    width, parts = STEP*(len(shown) - 1) + W + 24, []
    for i, at in enumerate(shown):
        on = at in lit
        frame = rect(-4, -4, W + 8, H + 8, 'none', f' stroke="{ACCENT}" stroke-width="2.5" rx="6"') if on else ''
        window = rect(20, 8, 26, 26, 'none', ' stroke="#fff" stroke-width="2"') + rect(33, 17, 26, 26, 'none', ' stroke="#fff" stroke-width="2"') if name == 'windows' and on else ''
        label = text(W/2, H + 20, at, f' fill="{ACCENT}" font-weight="700"' if on else f' fill="{INK}"')
        arrow = f'<path d="M{W + 10} {H/2}H{STEP - 12}m-6 -4l6 4l-6 4" fill="none" stroke="{INK}"/>' if i < len(shown) - 1 else ''
        parts.append(f'<g transform="translate({12 + i*STEP} 12)"><g opacity="{1 if on else .4}">{station(at, decoder)}</g>{window}{frame}{label}{arrow}</g>')
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="86" viewBox="0 0 {width} 86" font-family="system-ui, sans-serif">'
            f'{rect(0, 0, width, 86, "#fff", chr(32) + "rx=" + chr(34) + "8" + chr(34))}{"".join(parts)}</svg>\n')

if __name__ == '__main__':
    for name in LIT: (Path(__file__).resolve().parent/'images'/f'where_{name}.svg').write_text(strip(name), encoding='utf-8')

"""Run chapters, store their outputs, export them: `python docs/book.py [NAME …]`, all of them without a name.

Stored pictures are reduced to 256 colours, which keeps a chapter small and is hardly seen. A chapter remembers of which code
its outputs are (`outputs_of` in the notebook's metadata); `python docs/book.py --stamp NAME …` only writes that down, for
whoever has just run a chapter in another way. `python docs/book.py --colab` gives the tour and the tutorials their link to
Colab and the hidden cell that sets Colab up, both from `settings.ini`.
"""
import base64, configparser, hashlib, io, json, os, re, subprocess, sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
QUIET = {'PYTHONWARNINGS': 'ignore::FutureWarning,ignore::DeprecationWarning', 'OMP_NUM_THREADS': '2'}

def source_digest(notebook):
    "Digest of what a notebook runs: its code in order, without the directives that only say how a cell is shown."
    shown = re.compile(r'^#\|(?!\s*eval\b).*\n?', re.M)
    codes = (''.join(cell['source']) for cell in notebook['cells'] if cell['cell_type'] == 'code')
    kept = [code for code in (shown.sub('', code).strip() for code in codes) if code]
    return hashlib.sha256(json.dumps(kept, ensure_ascii=False).encode()).hexdigest()[:16]

def stamp(path):
    "Write into a notebook that its stored outputs are those of the code it holds now."
    notebook = json.loads(Path(path).read_text(encoding='utf-8'))
    notebook['metadata']['outputs_of'] = source_digest(notebook)
    Path(path).write_text(json.dumps(notebook, sort_keys=True, indent=1, ensure_ascii=False) + '\n', encoding='utf-8')

# ---- Parts of the book, in the sidebar and in the map on the front page

PARTS = {'The model': 0, 'Data': 10, 'Prediction and evaluation': 20, 'Training': 30, 'Pictures, films, logs': 38, 'Export': 50, # Name, and number of its first chapter
         'Experiments': 60, 'The command line': 65}

def part(stem):
    "The part that a chapter belongs to, by the number of its file."
    number = int(re.match(r'\d+', stem)[0])
    return [name for name, first in PARTS.items() if first <= number][-1]

# ---- Tutorials

TUTORIALS = ['your_own_data', 'released_weights', 'reading_attention', 'label_a_film', 'batches', 'many_gpus', 'new_backbone', 'new_parts', 'deploying'] # In order

def tutorials(root=ROOT): return [root/'nbs'/'00_tour.ipynb', *sorted((root/'nbs'/'tutorials').glob('*.ipynb'))]

def facts(root=ROOT):
    "What `settings.ini` says."
    config = configparser.ConfigParser(delimiters=['='])
    config.read(root/'settings.ini', encoding='utf-8')
    return config['DEFAULT']

def colab_link(path, root=ROOT):
    "The line of a notebook's first cell that opens it in Colab."
    said = facts(root)
    place = said['git_url'].removeprefix('https://github.com/').strip('/')
    return f"[Open in Colab](https://colab.research.google.com/github/{place}/blob/{said['branch']}/{path.relative_to(root).as_posix()})"

def colab_cell(root=ROOT):
    "The hidden cell behind it; anywhere but on Colab it does nothing."
    said = facts(root)
    what = [f"git+{said['git_url']}", f"--no-deps {' '.join(said['landcover_requirements'].split())}"]
    return ("#| hide\nimport sys\nif 'google.colab' in sys.modules: # Colab starts bare: the package, then the land-cover data, which bring no code of their own\n"
            f"    for what in {what}: get_ipython().system(f'pip install -q {{what}}')")

def colab(path, root=ROOT):
    "Give a notebook link and cell; those it has are replaced."
    notebook = json.loads(path.read_text(encoding='utf-8'))
    fresh, (title, *cells) = notebook['metadata'].get('outputs_of') == source_digest(notebook), notebook['cells']
    lines = [line for line in ''.join(title['source']).splitlines() if not line.startswith('[Open in Colab]')]
    title['source'] = ('\n'.join(lines).rstrip() + '\n\n' + colab_link(path, root)).splitlines(True)
    is_setup = lambda cell: 'google.colab' in ''.join(cell['source'])
    name = next((cell['id'] for cell in cells if is_setup(cell)), 'c01ab000')
    setup = dict(cell_type='code', execution_count=None, id=name, metadata={}, outputs=[], source=colab_cell(root).splitlines(True))
    notebook['cells'] = [title, setup, *(cell for cell in cells if not is_setup(cell))]
    if fresh: notebook['metadata']['outputs_of'] = source_digest(notebook) # the cell has no output
    path.write_text(json.dumps(notebook, sort_keys=True, indent=1, ensure_ascii=False) + '\n', encoding='utf-8')

# ---- The book

def chapters(names=()):
    "Notebooks of the book by name, in reading order."
    found = {path.stem: path for folder in ('.', 'tutorials', 'reports') for path in sorted((ROOT/'nbs'/folder).glob('*.ipynb'))}
    names = [Path(name).name.removesuffix('.ipynb') for name in names]
    for name in names:
        if name not in found: raise SystemExit(f'no chapter {name!r}; there are {", ".join(found)}')
    return [found[name] for name in names] or list(found.values())

def shrink(png):
    "The picture with a palette of 256 colours, unless that makes it larger."
    from PIL import Image
    small = io.BytesIO()
    Image.open(io.BytesIO(png)).convert('RGB').quantize(256, dither=Image.Dither.NONE).save(small, 'png', optimize=True)
    return min(png, small.getvalue(), key=len)

def shrink_pictures(path):
    "Replace the stored pictures of a notebook by smaller ones."
    import nbformat
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        for output in cell.get('outputs', []):
            if (png := output.get('data', {}).get('image/png')):
                output['data']['image/png'] = base64.b64encode(shrink(base64.b64decode(png))).decode()
    nbformat.write(notebook, path)

def tool(name, *args): subprocess.run([Path(sys.executable).with_name(name), *args], check=True, cwd=ROOT, env={**os.environ, **QUIET})

def main(names):
    if '--stamp' in names:
        for path in chapters([name for name in names if name != '--stamp']): stamp(path)
        return
    if '--colab' in names:
        for path in tutorials(): colab(path)
        return
    for path in chapters(names):
        print(path.stem, flush=True)
        tool('nbdev-test', path, '--save', '--n-workers', '0')
        shrink_pictures(path)
        tool('nbdev-clean', '--fname', path)
        stamp(path)
    tool('nbdev-export')

if __name__ == '__main__': main(sys.argv[1:] or os.environ.get('CHAPTERS', '').split())

"""Run chapters, store their outputs, export them: `python docs/book.py [NAME …]`, all of them without a name.

Stored pictures are reduced to 256 colours, which keeps a chapter small and is hardly seen.
"""
import base64, io, os, subprocess, sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
QUIET = {'PYTHONWARNINGS': 'ignore::FutureWarning,ignore::DeprecationWarning', 'OMP_NUM_THREADS': '2'}

def chapters(names=()):
    "Notebooks of the book by name, in reading order."
    found = {path.stem: path for path in sorted((ROOT/'nbs').glob('*.ipynb'))}
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
    for path in chapters(names):
        print(path.stem, flush=True)
        tool('nbdev-test', path, '--save', '--n-workers', '0')
        shrink_pictures(path)
        tool('nbdev-clean', '--fname', path)
    tool('nbdev-export')

if __name__ == '__main__': main(sys.argv[1:] or os.environ.get('CHAPTERS', '').split())

"Make README.md from nbs/index.ipynb: `python docs/readme.py`. Nothing is run; stored outputs are used as they are."
import re, sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DIRECTIVE = re.compile(r'^\s*#\|\s*(\w+):?\s*(.*)$')

def _directives(cell):
    "Name to value of a cell's `#|` lines."
    return dict(found.groups() for line in cell.source.splitlines() if (found := DIRECTIVE.match(line)))

def _prepare(notebook):
    "Drop hidden cells and the code of cells that only show, and every directive line."
    kept = []
    for cell in notebook.cells:
        says = _directives(cell)
        cell.source = '\n'.join(line for line in cell.source.splitlines() if not DIRECTIVE.match(line)).strip()
        if cell.cell_type == 'code':
            if 'hide' in says or 'default_exp' in says: continue
            if says.get('echo') == 'false': cell.source = ''
        kept.append(cell)
    notebook.cells, notebook.metadata.language_info = kept, {'name': 'python'}
    return notebook

def _relink(text):
    "Links are relative to nbs/ in the notebook, to the root in the README."
    text = re.sub(r'\]\(\.\./', '](', text)
    return re.sub(r'\]\((?!https?:|#|/|docs/)([\w./-]+\.ipynb)', r'](nbs/\1', text)

def make(root=ROOT):
    "The README's text, and its pictures by path from the root."
    import nbformat
    from nbconvert import MarkdownExporter
    notebook = _prepare(nbformat.read(Path(root)/'nbs'/'index.ipynb', as_version=4))
    text, resources = MarkdownExporter().from_notebook_node(notebook, {'output_files_dir': 'docs/images', 'unique_key': 'readme'})
    text = re.sub(r'```python\n+```\n', '', _relink(text))
    text = '\n'.join(line.rstrip() for line in text.splitlines())
    note = '<!-- Made from nbs/index.ipynb by docs/readme.py; edit the notebook. -->\n\n'
    return note + re.sub(r'\n{3,}', '\n\n', text).strip() + '\n', {str(name): data for name, data in resources['outputs'].items()}

def main():
    text, pictures = make()
    (ROOT/'README.md').write_text(text, encoding='utf-8')
    for name, data in pictures.items():
        (ROOT/name).parent.mkdir(parents=True, exist_ok=True)
        (ROOT/name).write_bytes(data)

if __name__ == '__main__': sys.exit(main())

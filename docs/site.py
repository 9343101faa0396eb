"""Build the site from stored outputs, without running anything: `python docs/site.py` fills `_site/`.

A first form: one page a chapter, and a list of them. Nothing is loaded from another host but the formulas' MathJax.
"""
import html, re, shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SITE = ROOT/'_site'

def page_name(path): return re.sub(r'^\d+[a-z]?_', '', path.stem) + '.html'

def title(notebook):
    "H1 and subtitle of a chapter."
    first = notebook.cells[0].source.splitlines()
    return first[0].lstrip('# '), next((line.lstrip('> ') for line in first if line.startswith('>')), '')

def main():
    import nbformat
    from nbconvert import HTMLExporter
    shutil.rmtree(SITE, ignore_errors=True)
    SITE.mkdir()
    rows = []
    for path in sorted((ROOT/'nbs').glob('*.ipynb')) + sorted((ROOT/'nbs'/'experiments').glob('*.ipynb')):
        notebook = nbformat.read(path, as_version=4)
        name, subtitle = title(notebook)
        for cell in notebook.cells: cell.source = re.sub(r'(?m)^#\|.*\n?', '', cell.source)
        text, _ = HTMLExporter(template_name='lab').from_notebook_node(notebook, {'metadata': {'name': name}})
        (SITE/page_name(path)).write_text(text, encoding='utf-8')
        if path.stem != 'index': rows.append(f'<li><a href="{page_name(path)}">{html.escape(name)}</a> {html.escape(subtitle)}</li>')
    (SITE/'contents.html').write_text('<!doctype html><html lang="en"><meta charset="utf-8"><title>segmenter: contents</title>'
        f'<h1>Contents</h1><ul>{"".join(rows)}</ul></html>', encoding='utf-8')
    print(f'{len(rows) + 2} pages in {SITE.relative_to(ROOT)}/')

if __name__ == '__main__': main()

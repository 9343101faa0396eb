"""Build the site from stored outputs, without running anything: `python docs/site.py` fills `_site/`; `--serve` shows it too.

One builder of our own. smalldocs 0.5.4 was tried and left: its maths comes from another host's KaTeX, its pages carry
Bootstrap, and its signature tables need nbdev's processor, which imports the package and runs cells. Quarto would bring a second
site that looks and links differently, and only one of the two could be the one the tests look at. So: markdown-it for the
prose, latex2mathml for formulas (no script draws them), Pygments for code, `ast` for signatures, and what is in `theme/`.
Pages work from a web server, from a folder, and without JavaScript, which adds search, the theme's switch and copy buttons.
"""
import ast, configparser, hashlib, html, importlib.util, json, re, shutil, sys, time
from dataclasses import dataclass
from functools import partial
from html.parser import HTMLParser
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import book as chapters, render
ROOT = HERE.parent
THEME = HERE/'theme'
escape = html.escape

# The sidebar, from top to bottom. Index and tour are its start; templates stand with the chapters about experiments.
GROUPS = ['Start', 'Tutorials', *chapters.PARTS, 'Results', 'Reference']
FOLDERS = dict(tutorials='Tutorials', experiments='Experiments', reports='Results')

@dataclass
class Page:
    name: str # Of the file, without `.html`
    title: str
    subtitle: str
    group: str
    cells: list # Of the notebook; a generated page has one
    source: str = '' # Path from the root, empty for a generated page
    module: str = '' # What it exports
    body: str = ''

# ---- What there is

def page_name(path):
    "A notebook's page is named without its number; a template's is told from the chapter of the same name."
    return ('run_' if path.parent.name == 'experiments' else '') + re.sub(r'^\d+[a-z]?_', '', path.stem)

def _group(path, nbs):
    "A notebook's place in the sidebar."
    if path.parent != nbs: return FOLDERS.get(path.relative_to(nbs).parts[0], 'Reference')
    if path.stem in ('index', '00_tour'): return 'Start'
    return chapters.part(path.stem) if path.stem[:1].isdigit() else 'Reference'

def _opening(cells, path):
    "H1 and subtitle of a notebook; the rest of its first cell stays."
    lines = cells[0]['source'].splitlines() if cells else []
    if not lines or not lines[0].startswith('# '): raise ValueError(f'{path.name}: the first cell has no `# Title`')
    subtitle = next((line.lstrip('> ') for line in lines if line.startswith('>')), '')
    cells[0]['source'] = '\n'.join(line for line in lines[1:] if not line.startswith('>'))
    return lines[0][2:].strip(), subtitle

def _notebook(path, root):
    "A notebook as a page."
    cells = json.loads(path.read_text(encoding='utf-8'))['cells']
    for c in cells: c['source'] = ''.join(c['source'])
    title, subtitle = _opening(cells, path)
    module = next((m[1] for c in cells if (m := re.search(r'(?m)^#\|\s*default_exp\s+(\S+)', c['source']))), '')
    return Page(page_name(path), title, subtitle, _group(path, root/'nbs'), cells, path.relative_to(root).as_posix(), module)

def _generated(root):
    "Pages that `docs/pages.py` makes (symbol index, glossary, …), if there is one."
    path = root/'docs'/'pages.py'
    if not path.exists(): return []
    spec = importlib.util.spec_from_file_location('pages', path)
    module = sys.modules['pages'] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return [Page(p.name, p.title, p.subtitle, p.group, [{'cell_type': 'markdown', 'source': p.markdown}]) for p in module.pages(root)]

def find_pages(root):
    "Every page in the order of the sidebar."
    notebooks = [p for p in (root/'nbs').rglob('*.ipynb') if not any(part[0] in '._' for part in p.relative_to(root).parts)]
    late = lambda path: chapters.TUTORIALS.index(path.stem) if path.stem in chapters.TUTORIALS else len(chapters.TUTORIALS)
    key = lambda path: (path.parent != root/'nbs', path.stem != 'index', late(path), path.relative_to(root).as_posix())
    pages = [_notebook(path, root) for path in sorted(notebooks, key=key)] + _generated(root)
    twice = {p.name for p in pages if [q.name for q in pages].count(p.name) > 1}
    if twice: raise ValueError(f'two pages would be called {", ".join(sorted(twice))}; rename one of the notebooks')
    return sorted(pages, key=lambda page: GROUPS.index(page.group) if page.group in GROUPS else len(GROUPS))

# ---- Links

class Book:
    "What the pages need to know of each other: names of symbols, addresses of notebooks, the repository."
    def __init__(self, root):
        config = configparser.ConfigParser(delimiters=['='])
        config.read(root/'settings.ini', encoding='utf-8')
        self.root, self.facts = root, config['DEFAULT']
        self.lib, self.blob = self.facts['lib_name'], f"{self.facts['git_url']}/blob/{self.facts['branch']}/"
        self.pages = find_pages(root)
        self.files = {page.source or f'docs/reference/{page.name}.md': page.name + '.html' for page in self.pages}
        self.pictures, self.anchors, self.names = {}, {}, {}
        self.writer = render.Writer(self._symbols(), self._link)

    def _symbols(self):
        "Symbol in backticks to address: `(page, name)` on its own page, elsewhere every spelling that can mean one thing only."
        links, spellings = {}, {}
        for page in self.pages:
            names, found = render.Names(), [s for cell in page.cells if cell['cell_type'] == 'code'
                     and {'export', 'exports'} & set(render.directives(cell['source'])) for s in render.symbols(render.bare(cell['source']))]
            found += [m for s in found for m in s.methods]
            self.names[page.name], self.anchors[page.name] = names, {}
            if page.module: spellings.setdefault(f'{self.lib}.{page.module}', set()).add(f'{page.name}.html')
            for s in found:
                self.anchors[page.name][s.name] = at = names(s.name.lower())
                links[page.name, s.name] = target = f'{page.name}.html#{at}'
                for spelling in (s.name, f'sg.{s.name}', f'{self.lib}.{s.name}', f'{page.module}.{s.name}', f'{self.lib}.{page.module}.{s.name}'):
                    spellings.setdefault(spelling, set()).add(target)
                for member in s.members: links[page.name, member] = target; spellings.setdefault(member, set()).add(target)
        return links | {name: targets.pop() for name, targets in spellings.items() if len(targets) == 1}

    def _link(self, target, env):
        "A link as written in a notebook, from its page: notebooks to pages, pictures into the site, other files to the repository."
        if re.match(r'[a-z]+:|#|//', target): return target
        path, _, at = target.partition('#')
        here = (self.root/(env.get('source') or 'nbs/x')).parent
        file = (here/path).resolve()
        if not file.is_relative_to(self.root) or not file.exists(): return target
        name = file.relative_to(self.root).as_posix()
        if name in self.files: return self.files[name] + (f'#{at}' if at else '')
        if file.suffix in ('.png', '.jpg', '.jpeg', '.svg', '.gif'): return self.picture(file.read_bytes(), file.suffix[1:], file.stem)
        return (self.blob if file.is_file() else self.blob.replace('/blob/', '/tree/')) + name + (f'#{at}' if at else '')

    def picture(self, data, kind, stem):
        "Keep a picture for the site; its address."
        name = f'img/{stem}-{hashlib.sha256(data).hexdigest()[:8]}.{kind}'
        self.pictures[name] = data
        return name

    def source(self, page):
        "A function from symbol to the line that defines it, in the repository."
        path = self.root/self.facts['lib_path']/f'{page.module}.py'
        tree = ast.parse(path.read_text(encoding='utf-8')) if page.module and path.exists() else ast.Module([], [])
        lines = {n.name: n.lineno for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.ClassDef))}
        name = path.relative_to(self.root).as_posix()
        return lambda symbol: f'{self.blob}{name}#L{lines[symbol.split(".")[-1]]}' if symbol.split('.')[-1] in lines else None

# ---- Pages

def write_body(page, book):
    "A page's cells as HTML."
    env = dict(page=page.name, source=page.source, names=book.names[page.name], anchors=dict(book.anchors[page.name]))
    source, save = book.source(page), partial(book.picture, stem=page.name)
    parts = []
    for i, cell in enumerate(page.cells):
        cell_env = {**env, 'docId': str(i)} # footnotes are numbered within a cell
        parts.append(render.cell(cell, book.writer, cell_env, save, source))
    page.body = ''.join(parts)

class Outline(HTMLParser):
    "Headings of a page with the words below each, for its table of contents and for the search."
    SILENT = {'math', 'script', 'style', 'thead'}
    def __init__(self, title):
        super().__init__()
        self.sections, self.inside, self.quiet = [['h1', '', title, []]], None, 0
    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        if tag in ('h2', 'h3', 'h4') and 'id' in a: self.sections.append([tag, a['id'], '', []]); self.inside = tag
        if self.quiet or tag in self.SILENT or {'anchor', 'source', 'output', 'kind'} & set((a.get('class') or '').split()):
            self.quiet += tag not in ('img', 'br', 'hr', 'input', 'wbr')
    def handle_endtag(self, tag):
        if self.quiet: self.quiet -= 1
        elif tag == self.inside: self.inside = None
        else: self.handle_data(' ')
    def handle_data(self, text):
        if self.quiet: return
        if self.inside: self.sections[-1][2] += text
        else: self.sections[-1][3].append(text)

def outline(page):
    "Sections of a page: (tag, anchor, heading, text)."
    parser = Outline(page.title)
    parser.feed(page.body)
    return [(tag, at, ' '.join(heading.split()), ' '.join(''.join(text).split())) for tag, at, heading, text in parser.sections]

def sidebar(pages, current):
    "Groups and their pages, two levels."
    groups = {}
    for page in pages: groups.setdefault(page.group, []).append(page)
    mark = lambda page: ' aria-current="page"' if page.name == current else ''
    item = lambda page: f'<li><a href="{page.name}.html"{mark(page)}>{escape(page.title)}</a></li>'
    return ''.join(f'<h2>{escape(group)}</h2><ul>{"".join(map(item, members))}</ul>' for group, members in groups.items())

def contents(sections, symbols):
    "Table of contents: H2, with what is defined and H3 below."
    rows = [(tag, at, heading) for tag, at, heading, _ in sections if tag in ('h2', 'h3')]
    if len(rows) < 2: return ''
    def item(tag, at, heading):
        shown = escape(heading).replace('.', '.<wbr>') if at in symbols else escape(heading)
        return f'<li class="{tag}{" definition" if at in symbols else ""}"><a href="#{at}">{shown}</a></li>'
    return f'<nav id="toc" aria-label="On this page"><h2>On this page</h2><ul>{"".join(item(*row) for row in rows)}</ul></nav>'

def fill(template, **values): return re.sub(r'\{\{(\w+)\}\}', lambda m: values[m[1]], template)

def layout(page, book, template, sections):
    "The whole file of a page."
    pages = book.pages
    at = next((i for i, p in enumerate(pages) if p is page), None)
    near = lambda i, rel, word: (f'<a rel="{rel}" href="{pages[i].name}.html"><span>{word}</span> {escape(pages[i].title)}</a>'
                                 if at is not None and 0 <= i < len(pages) else '<span></span>')
    home = page.name == 'index'
    made = f'Made from <a href="{book.blob}{page.source}">{page.source}</a>.' if page.source else 'Made from the chapters.'
    return fill(template, title=escape(page.title if home else f'{page.title} – {book.lib}'), description=escape(page.subtitle), home_class='home' if home else 'chapter',
                lib=book.lib, repository=book.facts['git_url'], sidebar=sidebar(pages, page.name), toc=contents(sections, set(book.anchors.get(page.name, {}).values())),
                heading=escape(page.title), group=escape(page.group) if not home else '', subtitle=book.writer.line(page.subtitle, {'heading': True}), body=page.body,
                previous=near((at or 0) - 1, 'prev', 'Previous'), next=near((at or 0) + 1, 'next', 'Next'), made=made,
                version=book.facts['version'])

LOST = '''<p>This page is not here. It may have moved when a chapter was renamed.</p>
<p>Try the <a href="index.html">front page</a>, the chapters in the sidebar, or the search (press <kbd>/</kbd>).</p>'''
# GitHub serves 404.html for any address, so it must know where the site begins: the first folder there, the top elsewhere.
BASE = '''<script>document.write('<base href="' + (/github\\.io$/.test(location.hostname) ? '/' + location.pathname.split('/')[1] + '/' : '/') + '">')</script>'''

def not_found(book, template):
    page = Page('404', 'Not found', 'No such page', '', [], body=LOST)
    text = layout(page, book, template, [])
    return text.replace('<meta charset="utf-8">', '<meta charset="utf-8">' + BASE, 1).replace('Made from the chapters.', '')

def search_index(book, sections):
    "Every section with its words, and whether it is a symbol's; as a script, so that it loads from a folder too."
    rows = [[page.title, f'{page.name}.html' + (f'#{at}' if at else ''), '' if tag == 'h1' else heading, text,
             int(at in book.anchors[page.name].values())] for page in book.pages for tag, at, heading, text in sections[page.name]]
    return 'window.SEARCH = ' + json.dumps(rows, ensure_ascii=False, separators=(',', ':')).replace('</', '<\\/') + ';\n'

def plain(page, book):
    "A page as Markdown, for machines that read: prose, code, and outputs that are text."
    parts = [f'# {page.title}', f'> {page.subtitle}' if page.subtitle else '']
    for cell in page.cells:
        says, text = render.directives(cell['source']), render.bare(cell['source'])
        if 'hide' in says or 'default_exp' in says or not text.strip(): continue
        if cell['cell_type'] == 'markdown': parts.append(re.sub(r'\]\((?:([\w./-]*/)?(?:\d+[a-z]?_)?(\w+)\.ipynb|[\w./-]*docs/reference/(\w+)\.md)',
            lambda m: f"]({'run_' if (m[1] or '').endswith('experiments/') else ''}{m[2] or m[3]}.html.md", text))
        elif not render._off(says, 'echo'): parts.append(f'```python\n{text}\n```')
        if says.get('fig-cap'): parts.append(f'*Figure: {says["fig-cap"]}*')
        for o in cell.get('outputs', []):
            shown = o.get('text') or ('' if any(m.startswith('image/') for m in o.get('data', {})) else
                                      o.get('data', {}).get('text/markdown') or o.get('data', {}).get('text/plain', ''))
            if (shown := ''.join(shown).rstrip()): parts.append(shown if 'text/markdown' in o.get('data', {}) else f'```\n{shown}\n```')
    return '\n\n'.join(filter(None, parts)) + '\n'

def llms(book):
    "The list of pages at https://llmstxt.org's place."
    lines, group = [f'# {book.lib}', '', f"> {book.facts['description']}"], None
    for page in book.pages:
        if page.group != group: lines += ['', f'## {page.group}', '']
        group = page.group
        lines.append(f'- [{page.title}]({page.name}.html.md)' + (f': {page.subtitle}' if page.subtitle else ''))
    return '\n'.join(lines) + '\n'

def build(root=ROOT, out=None):
    "Fill `out` (`_site/`) with the site; the pages."
    out = Path(out or root/'_site')
    book = Book(root)
    template = (THEME/'page.html').read_text(encoding='utf-8')
    for page in book.pages: write_body(page, book)
    sections = {page.name: outline(page) for page in book.pages}
    shutil.rmtree(out, ignore_errors=True)
    (out/'img').mkdir(parents=True)
    write = lambda name, text: (out/name).write_text(text, encoding='utf-8')
    for page in book.pages:
        write(f'{page.name}.html', layout(page, book, template, sections[page.name]))
        write(f'{page.name}.html.md', plain(page, book))
    write('404.html', not_found(book, template))
    write('search-index.js', search_index(book, sections))
    write('llms.txt', llms(book))
    for file in THEME.iterdir():
        if file.name != 'page.html': shutil.copy(file, out)
    for name, data in book.pictures.items(): (out/name).write_bytes(data)
    return book.pages

# ---- Serving

def server(folder, port=0):
    "A local web server with the site's own 404 page; port 0 is any free one."
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *args, **more): super().__init__(*args, directory=str(folder), **more)
        def log_message(self, *_): pass
        def send_error(self, code, *args, **more):
            if code != 404: return super().send_error(code, *args, **more)
            body = (Path(folder)/'404.html').read_bytes()
            self.send_response(404)
            self.send_header('Content-Type', 'text/html; charset=utf-8')
            self.send_header('Content-Length', str(len(body)))
            self.end_headers()
            if self.command != 'HEAD': self.wfile.write(body)
    return ThreadingHTTPServer(('127.0.0.1', port), Handler)

def main(serve=False):
    start = time.perf_counter()
    pages = build()
    print(f'{len(pages)} pages in {time.perf_counter() - start:.0f} s: _site/index.html')
    if not serve: return
    import webbrowser
    try: at = server(ROOT/'_site', 8000)
    except OSError: at = server(ROOT/'_site') # somebody else has the port
    address = f'http://127.0.0.1:{at.server_port}/'
    print(f'{address} until Ctrl-C', flush=True)
    webbrowser.open(address)
    try: at.serve_forever()
    except KeyboardInterrupt: pass

if __name__ == '__main__': main('--serve' in sys.argv)

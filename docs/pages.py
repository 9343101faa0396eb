"""The Reference pages of the site: what the chapters say of themselves, turned into tables.

The prose is in `docs/reference/*.md`; `{{name}}` or `{{name:argument}}` there is replaced by the table that the function of
that name in `TABLES` makes. A page's links are written as in a notebook, from `nbs/`: `04_mask_transformer.ipynb#class_masks`,
or `glossary.html` for another page of this kind. Nothing is run, and nothing heavy imported: chapters, modules and tests are
read as text, and only the command line's own parsers are asked.

`python docs/pages.py` prints what is wrong with the sources of these pages, and fails when there is something.
"""
import ast, io, json, re, sys, tokenize
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ORDER = ['paper_to_code', 'differences', 'symbols', 'file_formats', 'migration', 'from_mmsegmentation', 'reliability', 'glossary', 'licences', 'citing']

@dataclass(frozen=True)
class Page:
    "A page of the site that is not a notebook."
    name:str # Of the file, without `.html`
    title:str
    subtitle:str
    markdown:str # What follows title and subtitle; links are from `nbs/`
    group:str='Reference' # Of the sidebar

# ---- Chapters

@dataclass(frozen=True)
class Chapter:
    "A notebook that exports a module."
    stem:str # Of the file
    title:str
    module:str # Its name without `segmenter.`
    cells:tuple # (is it code, is it exported, source) of each
    opening:tuple # Rows of the opening table, header first; () when there is none

def _exported(source): return bool(re.search(r'^#\|\s*export[si]?\b', source, re.M))

def _split(line):
    "The cells of a line of a Markdown table; `\\|` and code keep their bars."
    return tuple(cell.strip().replace('\\|', '|') for cell in re.split(r'(?<!\\)\|', line.strip().strip('|')))

def opening_table(sources):
    "Rows of the first table of a chapter's opening, header first; () when there is none."
    for source in sources[:8]:
        lines = source.splitlines()
        for i, line in enumerate(lines[1:], 1):
            if re.fullmatch(r'\|(\s*:?-+:?\s*\|)+', line.strip()) and lines[i-1].startswith('|'):
                body = [row for row in lines[i+1:] if row.startswith('|')]
                return tuple(map(_split, [lines[i-1], *body]))
    return ()

@lru_cache
def chapters(root):
    "The chapters in reading order."
    found = []
    for path in sorted((root/'nbs').glob('*.ipynb')):
        cells = [(c['cell_type'] == 'code', ''.join(c['source'])) for c in json.loads(path.read_text(encoding='utf-8'))['cells']]
        module = next((m[1] for code, s in cells if code and (m := re.search(r'^#\|\s*default_exp\s+(\S+)', s, re.M))), None)
        if module: found.append(Chapter(path.stem, cells[0][1].splitlines()[0].lstrip('# '), module, tuple((code, code and _exported(s), s) for code, s in cells),
                                        opening_table([s for code, s in cells if not code])))
    return found

# ---- Symbols

@dataclass(frozen=True)
class Symbol:
    "Something public."
    name:str # `function`, `Class`, `CONSTANT`, or `Class.method` for a method that was patched in
    module:str
    chapter:str # Stem
    doc:str # One line
    cell:int # Which cell of the chapter defines it
    constant:bool=False
    @property
    def link(self): return f'[`{self.name}`]({self.chapter}.ipynb{"" if self.constant else "#" + self.name.lower()})'

def _comment_on(source, line):
    "The comment that ends a line of code."
    try: return next((t.string.lstrip('# ') for t in tokenize.generate_tokens(io.StringIO(source).readline)
                      if t.type == tokenize.COMMENT and t.start[0] == line), '')
    except (tokenize.TokenError, SyntaxError): return ''

def _sentence_about(name, texts):
    "The first sentence of some prose that names a symbol; tables, headings and directives are no prose."
    for text in texts:
        prose = ' '.join(line for line in text.splitlines() if not line.startswith(('|', '#')))
        for sentence in re.split(r'(?<=[.!?])\s+', prose):
            if f'`{name}`' in sentence and len(sentence) < 250: return sentence
    return ''

def _owner(node):
    "The class a patched method goes to, or None."
    if not any(ast.unparse(d).split('(')[0] == 'patch' for d in node.decorator_list): return None
    return ast.unparse(node.args.args[0].annotation).strip('\'"')

def _definitions(source):
    "Name, first line of the docstring and whether it is a constant, of each public definition of an exported cell."
    for node in ast.parse(source).body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            if node.name.startswith('_'): continue
            owner = None if isinstance(node, ast.ClassDef) else _owner(node)
            yield f'{owner}.{node.name}' if owner else node.name, (ast.get_docstring(node) or '').split('\n')[0], False
        if isinstance(node, (ast.Assign, ast.AnnAssign)):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                if isinstance(target, ast.Name) and not target.id.startswith('_'):
                    yield target.id, _comment_on(source, node.lineno) or _comment_on(source, node.end_lineno), True

@lru_cache
def symbols(root):
    "Every public symbol, in the order of the book."
    found = []
    for chapter in chapters(root):
        prose = [s for code, _, s in chapter.cells if not code]
        for i, (_, exported, source) in enumerate(chapter.cells):
            if not exported: continue
            for name, doc, constant in _definitions(source):
                said = _sentence_about(name, prose) or doc or f'A table of the chapter *{chapter.title}*' if constant else doc
                found.append(Symbol(name, chapter.module, chapter.stem, said, i, constant))
    return found

def _named(name, root, chapter=None):
    "The symbol a piece of code in a table means, or None: first the chapter's own, then the book's."
    plain = re.match(r'(?:segmenter\.)?([A-Za-z_][\w.]*)', name)
    if not plain: return None
    parts = plain[1].split('.')
    for known in ([s for s in symbols(root) if s.chapter == chapter], symbols(root)):
        for wanted in (plain[1], '.'.join(parts[1:]), parts[0]):
            for s in known:
                if wanted and s.name == wanted and (len(parts) == 1 or wanted != '.'.join(parts[1:]) or s.module == parts[0]): return s

# ---- Checks

def _names(node): return {n.id if isinstance(n, ast.Name) else n.attr for n in ast.walk(node) if isinstance(n, (ast.Name, ast.Attribute))} | \
                         {k.arg for n in ast.walk(node) if isinstance(n, ast.Call) for k in n.keywords}

def _is_check(node):
    called = {ast.unparse(n.func).split('.')[-1] for n in ast.walk(node) if isinstance(n, ast.Call)}
    return isinstance(node, ast.Assert) or any(name.startswith('test_') or name == 'expect_fail' for name in called)

@lru_cache
def _lessons(cells):
    "What each lesson cell names, and its checks: (names in it, is it a refusal, the line)."
    found = []
    for code, exported, source in cells:
        if not code or exported: continue
        try: body = ast.parse(source).body
        except SyntaxError: continue
        checks = [(_names(node), ' '.join(ast.get_source_segment(source, node).split())) for node in body if _is_check(node)]
        found.append((set().union(*map(_names, body)), [(names, 'expect_fail' in names, line) for names, line in checks]))
    return found

def lesson_check(chapter, name):
    "The line of a chapter that checks a symbol, '' when there is none: a value compared before a refusal, its own name before its cell's."
    name, best, found = name.split('.')[-1], 4, ''
    for named, checks in _lessons(chapter.cells):
        for names, refusal, line in checks if name in named else ():
            rank = 2*refusal + (name not in names)
            if rank < best: best, found = rank, line
    return found

@lru_cache
def _tests(root):
    "Tests by file: (path, modules it imports, {test: names in it})."
    found = []
    for path in sorted((root/'tests').rglob('test_*.py')):
        text = path.read_text(encoding='utf-8')
        modules = set(re.findall(r'segmenter\.(\w+)', text)) | {m.strip() for line in re.findall(r'from segmenter import (.+)', text) for m in line.split(',')}
        found.append((path.relative_to(root).as_posix(), modules, {n.name: _names(n) for n in ast.parse(text).body if isinstance(n, ast.FunctionDef) and n.name.startswith('test_')}))
    return found

def test_checks(root, symbol):
    "(file, test) of the tests that name a symbol."
    name = symbol.name.split('.')[-1]
    return [(path, test) for path, modules, tests in _tests(root) if symbol.module in modules for test, names in tests.items() if name in names]

# ---- Tables

def _table(header, rows):
    "A Markdown table."
    clean = lambda cell: ' '.join(str(cell).split()).replace('\\|', '|').replace('|', '\\|')
    line = lambda cells: f'| {" | ".join(map(clean, cells))} |'
    return '\n'.join([line(header), '|' + '---|'*len(header), *map(line, rows)])

def _code(text, longest=88):
    "A piece of code, cut where it gets too long."
    text = text if len(text) <= longest else text[:longest - 2].rstrip() + ' …'
    return f'``{text}``' if '`' in text else f'`{text}`'

def _guard(root, chapter, name, symbol):
    "What guards a symbol: the line of its chapter, and the tests."
    home = next((c for c in chapters(root) if symbol and c.stem == symbol.chapter), chapter)
    line = next(filter(None, (lesson_check(c, n) for n in (name, symbol.name if symbol else name) for c in (chapter, home))), '')
    tests = test_checks(root, symbol) if symbol else []
    said = f'[{tests[0][1].removeprefix("test_").replace("_", " ")}](../{tests[0][0]})' + (f' and {len(tests) - 1} more' if len(tests) > 1 else '') if tests else ''
    return '<br>'.join(filter(None, (_code(line) if line else '', said))) or '–'

@lru_cache
def paper_rows(root):
    "A row for each place and symbol: (what the opening table says, chapter, what carries it, what guards that)."
    rows = []
    for chapter in chapters(root):
        if not chapter.opening: continue
        head, *body = chapter.opening
        here = next((i for i, title in enumerate(head) if 'here' in title.split() or title == 'here'), len(head) - 1)
        for row in body:
            place = row[0] + (f' ({row[1]})' if here > 1 and row[1] not in ('', '–') else '')
            names = [name for name in re.findall(r'`([^`]+)`', row[here]) if re.match(r'[A-Za-z_]', name) and '…' not in name and not name.startswith('segmenter ')]
            if not names: rows.append((place, chapter, row[here], '–'))
            for name in names:
                symbol = _named(name, root, chapter.stem)
                shown = symbol.link if symbol and symbol.name == name else f'[{_code(name)}]({symbol.chapter}.ipynb{"" if symbol.constant else "#" + symbol.name.lower()})' if symbol else _code(name)
                rows.append((place, chapter, shown, _guard(root, chapter, re.match(r'[\w.]+', name)[0], symbol)))
    return rows

SECTION = re.compile(r'§\s*(\d+(?:\.\d+)?)')
FIGURE = re.compile(r'\b(tables?|figures?|equations?)\s+(\d+)', re.I)

def _rows(root, wanted, key=None):
    rows = [row for row in paper_rows(root) if wanted(row[0])]
    rows = sorted(rows, key=lambda row: key(row[0])) if key else rows
    return _table(['where', 'page', 'here', 'what guards it'], [(place, f'[{c.title}]({c.stem}.ipynb)', shown, guard) for place, c, shown, guard in rows])

def by_section(root): return _rows(root, SECTION.search, lambda place: [int(n) for n in SECTION.search(place)[1].split('.')])
def by_figure(root): return _rows(root, FIGURE.search, lambda place: (FIGURE.search(place)[1][:3].lower(), int(FIGURE.search(place)[2])))
def beyond_paper(root): return _rows(root, lambda place: not SECTION.search(place) and not FIGURE.search(place))

def symbol_index(root):
    "Every public symbol by name."
    doors = {k.arg: ast.literal_eval(k.value) for k in _assigned(root, '__init__', '_DOORS').keywords}
    homes = {(s.name, s.module) for s in symbols(root)}
    behind = lambda s: doors.get(s.name) == s.module or s.name in doors and (s.name, doors[s.name]) not in homes # opened from elsewhere
    rows = [(s.link + (f' `sg.{s.name}`' if behind(s) else ''), s.doc, f'[{s.module}]({s.chapter}.ipynb)')
            for s in sorted(symbols(root), key=lambda s: (s.name.lower(), s.module))]
    return _table(['symbol', 'what it is', 'module'], rows)

# ---- What the code knows of files

@lru_cache
def _tree(root, module):
    source = (root/'segmenter'/f'{module}.py').read_text(encoding='utf-8')
    return source, ast.parse(source)

def _assigned(root, module, name):
    "The value given to a name of a module, as code."
    for node in _tree(root, module)[1].body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets): return node.value
    raise ValueError(f'segmenter/{module}.py gives no value to {name}; docs/reference or docs/pages.py expects one')

def _literal(root, module, name): return ast.literal_eval(_assigned(root, module, name))

def _entries(node):
    "Key to value of a dictionary, however it is written."
    if isinstance(node, ast.Dict): return {k.value: v for k, v in zip(node.keys, node.values) if isinstance(k, ast.Constant)}
    if isinstance(node, ast.Call): return {k.arg: k.value for k in node.keywords if k.arg}
    return {}

def _dictionary(root, module, function, key, without=None):
    "The dictionary with this key (and without another) that a function (`Class.method` for a method) makes."
    node = _tree(root, module)[1]
    for name in function.split('.'): node = next((n for n in ast.walk(node) if isinstance(n, (ast.FunctionDef, ast.ClassDef)) and n.name == name), ast.Module([], []))
    for n in ast.walk(node):
        if key in _entries(n) and without not in _entries(n): return _entries(n)
    raise ValueError(f'segmenter/{module}.py: {function} makes no dictionary with {key!r}; a table of docs/reference expects one')

def _keys(*found): return ', '.join(f'`{key}`' for entries in found for key in entries)

def checkpoint_keys(root):
    return _table(['key', 'holds'], [(f'`{key}`', text) for key, text in _literal(root, 'checkpoints', 'CHECKPOINT_KEYS').items()])

def variant_groups(root):
    part = lambda key, without=None: _dictionary(root, 'checkpoints', 'variant_of', key, without)
    model = {'net_kwargs': part('d_model'), 'net_kwargs, decoder': {**part('name'), **part('n_layers', 'd_model')}, 'inference_kwargs': part('window_stride')}
    whole, run = _dictionary(root, 'checkpoints', 'variant_of', 'net_kwargs'), _dictionary(root, 'run_files', '_variant', 'algorithm_kwargs')
    groups = {**model, **{key: _entries(value) for key, value in run.items() if _entries(value)}}
    rows = [('its `decoder`; the last three with the mask transformer' if ',' in name else f'`{name}`', _keys(entries)) for name, entries in groups.items()]
    rows.append(('`segmenter`', 'our own description of the model, every field of `ModelConfig`; the authors\' code ignores it'))
    rows.append(('beside the groups', _keys([key for key in whole if key not in groups and key != 'segmenter'], [k for k, v in run.items() if not _entries(v)])))
    return _table(['group', 'keys'], rows)

def log_keys(root):
    return _table(['when', 'keys'], [('after training an epoch', _keys(_dictionary(root, 'run_files', '_record', 'train_loss'))),
                                     ('after validating it', _keys(_dictionary(root, 'run_files', 'after_epoch', 'val_mean_iou')))])

def curve_columns(root): return _keys(_dictionary(root, 'run_files', '_read_curve', 'iteration'))
def metrics_keys(root): return _keys(_dictionary(root, 'experiments', 'record', 'status'))
def row_columns(root): return _keys(_literal(root, 'experiments', 'COLUMNS'))
def scores_keys(root): return _keys(_dictionary(root, 'evaluate', '_authors_scores', 'mean_iou'))
def evaluation_keys(root): return _keys(_dictionary(root, 'evaluate', 'record', 'mIoU'))
def per_class_columns(root): return _keys(_dictionary(root, 'evaluate', '_per_class', 'IoU'))
def image_suffixes(root): return ', '.join(f'`{s}`' for s in _literal(root, 'pairs', '_IMAGE_SUFFIXES'))
def label_suffixes(root): return ', '.join(f'`{s}`' for s in _literal(root, 'pairs', '_LABEL_SUFFIXES'))

def fields(root, where):
    "The fields of a dataclass, `module.Class`, with the comment behind each."
    module, name = where.split('.')
    source, tree = _tree(root, module)
    node = next((n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == name), None)
    if node is None: raise ValueError(f'segmenter/{module}.py has no class {name}; a table of docs/reference expects it')
    rows = [(f'`{n.target.id}`', f'`{ast.unparse(n.annotation)}`', f'`{ast.unparse(n.value)}`' if n.value else '', _comment_on(source, n.end_lineno))
            for n in node.body if isinstance(n, ast.AnnAssign)]
    return _table(['field', 'type', 'default', 'meaning'], rows)

def dials(root, template):
    "The dials of an experiment."
    for cell in json.loads((root/'nbs'/'experiments'/f'{template}.ipynb').read_text(encoding='utf-8'))['cells']:
        if 'parameters' in cell['metadata'].get('tags', []): source = ''.join(cell['source'])
    return _table(['dial', 'type', 'default', 'meaning'], [(f'`{n.target.id}`', f'`{ast.unparse(n.annotation)}`', f'`{ast.unparse(n.value)}`', _comment_on(source, n.end_lineno))
                                                           for n in ast.parse(source).body if isinstance(n, ast.AnnAssign)])

# ---- The command

def _commands():
    from segmenter import authors, cli
    return authors.MODULES, cli.VERBS, cli.verb_parser

def _verb_of(root, module):
    "The verb that the authors' module stands for, from the opening table of its chapter."
    rows = next((c.opening[1:] for c in chapters(root) if c.module == 'authors'), ())
    for row in rows:
        names = re.findall(r'`([^`]+)`', row[0])
        full = [names[0].rsplit('_', 1)[0] + name[1:] if name.startswith('…') else name for name in names]
        if module in full: return row[-1].strip('`').split()[1]
    raise ValueError(f'the opening table of the authors chapter has no row for {module}')

def _flags(parser):
    "What a parser takes: name to (spellings, default, whether it must be given, help)."
    found = {}
    for a in parser._actions:
        if a.dest == 'help': continue
        before = found.get(a.dest, ([], None, None, ''))
        said = re.sub(r'\s*\((?:default: [^()]*(?:\([^()]*\))?|the default)\)$', '', (a.help or '').replace('%%', '%'))
        default = a.default if a.option_strings else None
        found[a.dest] = ([*before[0], *(a.option_strings or [a.dest.upper()])], default, a.required, before[3] or said)
    return found

def _shown(default):
    if default is None or default == () or isinstance(default, (list, dict)): return '–'
    return ('on' if default else 'off') if isinstance(default, bool) else f'`{default}`'

def commands(root):
    "The authors' commands and ours."
    modules, verbs, _ = _commands()
    rows = []
    for module in modules:
        verb, kind = _verb_of(root, module), module.split('.')[-1].removeprefix('prepare_') if 'prepare' in module else ''
        kind = {'pcontext': 'pascal_context'}.get(kind, kind)
        rows.append((f'`python -m {module}`', f'`segmenter {verb}{" " + kind if kind else ""}`', f'[{"works" if verb in verbs else "not part of this version yet"}](#{module.replace(".", "")})'))
    return _table(["the authors' command", 'ours', 'state, and its flags'], rows)

def flags(root, module):
    "The flags of one of the authors' commands, beside those of our verb."
    modules, verbs, parser = _commands()
    verb = _verb_of(root, module)
    old, new = _flags(parser(modules[module])), _flags(parser(verbs[verb])) if verb in verbs else {}
    spelled = lambda names: ' '.join(f'`{name}`' for name in names)
    alike = {'dataset_name': 'dataset'}
    def ours(name): return new.get(name) or new.get(alike.get(name))
    rows = [(spelled(names), 'must be given' if must else _shown(default),
             ('the same' if ours(name)[0] == names else spelled(ours(name)[0])) if ours(name) else '–',
             ('must be given' if ours(name)[2] else _shown(ours(name)[1])) if ours(name) else '–', text) for name, (names, default, must, text) in old.items()]
    more = [name for name in new if not any(ours(o) is new[name] for o in old)]
    rows += [('–', '–', spelled(new[name][0]), _shown(new[name][1]), new[name][3]) for name in more]
    return _table([f'`{module}`', 'default', f'`segmenter {verb}`', 'default', 'meaning'], rows)

def verbs(root):
    "Every verb of the command."
    return _table(['verb', 'what it does'], [(f'`segmenter {name}`', (verb.__doc__ or '').split('\n')[0]) for name, verb in _commands()[1].items()])

# ---- Drills

def drills(root):
    "Every failure drill with the tests that hold it, a slow one in italics; a test checks that they exist."
    def said(name):
        file, test = name.split('::')
        slow = any(isinstance(n, ast.FunctionDef) and n.name == test and any('slow' in ast.unparse(d) and 'parametrize' not in ast.unparse(d) for d in n.decorator_list)
                   for n in ast.parse((root/'tests'/file).read_text(encoding='utf-8')).body)
        words = test.removeprefix('test_').replace('_', ' ')
        return f'*{words}*' if slow else words
    rows = [(str(d['number']), d['promise'], d['drill'], '; '.join(map(said, d['tests']))) for d in json.loads((root/'tests'/'drills.json').read_text(encoding='utf-8'))]
    return _table(['', 'promise', 'drill', 'held by the tests'], rows)

# ---- Numbers

def measured(root, name):
    "What the chapter on effects shows for a name: the stored output of the cell that assigns it."
    for cell in json.loads((root/'nbs'/'36_effects.ipynb').read_text(encoding='utf-8'))['cells']:
        if cell['cell_type'] == 'code' and re.search(rf'^(?:\w+, )*{name}(?:, \w+)* = ', ''.join(cell['source']), re.M):
            shown = ''.join(''.join(o.get('data', {}).get('text/plain', '')) for o in cell['outputs'])
            asked = [n.strip() for n in ''.join(cell['source']).strip().splitlines()[-1].split(',')]
            if name in asked and shown: found = ast.literal_eval(shown); return str(found[asked.index(name)] if len(asked) > 1 else found)
    raise ValueError(f'36_effects.ipynb shows nothing called {name!r}; a page of docs/reference quotes it')

def published(root, table):
    "What others published beside what was run here, a row a model."
    from segmenter.registry import read_results
    from segmenter.results import read_published, show_table
    shown = show_table(read_published(root/'docs'/'results'/'published.yaml', table), read_results(root/'docs'/'results')).reset_index()
    return _table(shown.columns, shown.itertuples(index=False))

# ---- Pages

TABLES = {f.__name__: f for f in (by_section, by_figure, beyond_paper, symbol_index, checkpoint_keys, variant_groups, log_keys, curve_columns, metrics_keys,
    row_columns, scores_keys, evaluation_keys, per_class_columns, image_suffixes, label_suffixes, fields, dials, commands, flags, verbs, drills, measured, published)}

def _fill(root, text, source):
    "Prose with its tables."
    def table(found):
        name, argument = found[1], found[2]
        if name not in TABLES: raise ValueError(f'{source}: no table {name!r}; there are {", ".join(TABLES)}')
        return TABLES[name](root, *([argument] if argument else []))
    return re.sub(r'\{\{(\w+)(?::([\w.]+))?\}\}', table, text)

def _page(root, path):
    title, rest = path.read_text(encoding='utf-8').split('\n', 1)
    subtitle, body = rest.lstrip().split('\n', 1)
    if not (title.startswith('# ') and subtitle.startswith('> ')): raise ValueError(f'{path.name} must begin with "# Title" and "> subtitle"')
    return Page(path.stem, title[2:].strip(), subtitle[2:].strip(), _fill(root, body.strip(), path.name) + '\n')

def _forget(): [cached.cache_clear() for cached in (chapters, symbols, paper_rows, anchors, _lessons, _tests, _tree)]

def pages(
    root=ROOT, # Of the repository
)->list[Page]: # In the order of the sidebar
    "The Reference pages."
    _forget()
    paths = sorted((Path(root)/'docs'/'reference').glob('*.md'), key=lambda path: (ORDER.index(path.stem) if path.stem in ORDER else len(ORDER), path.stem))
    return [_page(Path(root), path) for path in paths]

# ---- What is wrong with them

def slug(text): return re.sub(r'\s+', '-', re.sub(r'[^\w\s-]', '', text.lower()).strip())

@lru_cache
def anchors(root):
    "Every place a link may lead to: file from nbs/, or page, to its anchors."
    found = {f'{c.stem}.ipynb': {s.name.lower() for s in symbols(root) if s.chapter == c.stem and not s.constant} for c in chapters(root)}
    for path in [*(root/'nbs').glob('*.ipynb'), *(root/'nbs'/'tutorials').glob('*.ipynb')]:
        cells = json.loads(path.read_text(encoding='utf-8'))['cells']
        heads = [h for c in cells if c['cell_type'] == 'markdown' for h in re.findall(r'^#{2,4} (.+)$', ''.join(c['source']), re.M)]
        found.setdefault(path.relative_to(root/'nbs').as_posix(), set()).update(map(slug, heads))
    for path in (root/'docs'/'reference').glob('*.md'): found[f'{path.stem}.html'] = {slug(h) for h in re.findall(r'^#{2,4} (.+)$', path.read_text(encoding='utf-8'), re.M)}
    return found

def links(page): return re.findall(r'(?<!!)\[(?:[^\]\[]|\[[^\]]*\])*\]\(([^)\s]+)\)', re.sub(r'```.*?```', '', page.markdown, flags=re.S))

def dead_links(root, page):
    "Links of a page that lead nowhere."
    known = anchors(root)
    for link in links(page):
        if re.match(r'[a-z]+:', link): continue
        path, _, at = link.partition('#')
        path = path or f'{page.name}.html'
        exists = path in known or not path.endswith('.html') and (root/'nbs'/path).resolve().is_file()
        if not exists: yield f'{page.name}: {link} leads to no page or file'
        elif at and at not in known.get(path, ()): yield f'{page.name}: {link} leads to no place on its page'

def problems(root=ROOT):
    "What is wrong with chapters and pages, in sentences."
    root, found = Path(root), []
    _forget()
    for chapter in chapters(root):
        exported = '\n'.join(s for _, is_exported, s in chapter.cells if is_exported)
        if not chapter.opening: found.append(f'{chapter.stem} has no opening table (paper → here)')
        for row in chapter.opening[1:]:
            if len(row) != len(chapter.opening[0]): found.append(f'{chapter.stem}: the opening table has a row of {len(row)} cells: {row[0]}')
            for name in re.findall(r'`([A-Za-z_]\w+)`', row[-1]):
                if not _named(name, root, chapter.stem) and not re.search(rf'\b{name}\b', exported): found.append(f'{chapter.stem}: the opening table names {name}, which no chapter defines')
    found += [f'{s.chapter}: {s.name} has no docstring' for s in symbols(root) if not s.doc]
    return found + [problem for page in pages(root) for problem in dead_links(root, page)]

if __name__ == '__main__':
    wrong = problems()
    print('\n'.join(wrong) or f'{len(pages())} pages, nothing wrong')
    sys.exit(bool(wrong))

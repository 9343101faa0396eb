"""Markdown, formulas, code, signatures and stored outputs as HTML; used by `docs/site.py`.

Nothing is imported from the package and nothing is run: signatures, shapes and units are read from the source of the
exported cells (their docments), pictures and numbers from the stored outputs. Formulas become MathML here, which browsers
draw by themselves, so no page needs a script for them.
"""
import ast, base64, html, io, re, tokenize
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import groupby
from operator import itemgetter
from markdown_it import MarkdownIt
from mdit_py_plugins.container import container_plugin
from mdit_py_plugins.dollarmath import dollarmath_plugin
from mdit_py_plugins.footnote import footnote_plugin
from pygments.lexers import get_lexer_by_name
from pygments.token import Token
from pygments.util import ClassNotFound

escape = html.escape
DIRECTIVE = re.compile(r'^\s*#\|\s*([\w-]+)\s*:?\s*(.*)$')

# ---- Text

def maths(tex, options=None):
    "A formula as MathML; its TeX stays as the text for those who cannot see it. `options` holds the plugin's `display_mode`."
    from latex2mathml.converter import convert
    display = bool(options and options.get('display_mode'))
    made = convert(tex.strip(), display='block' if display else 'inline')
    made = made.replace('<math ', f'<math alttext="{escape(tex.strip())}" ', 1)
    return f'<div class="formula scroll">{made}</div>' if display else made

# Kinds of token that the theme colours; the rest of the code stays plain text, which keeps pages small.
COLOURS = [(Token.Comment, 'c'), (Token.Keyword, 'k'), (Token.Operator.Word, 'k'), (Token.Literal.String, 's'), (Token.Literal.Number, 'm'),
           (Token.Name.Function, 'd'), (Token.Name.Class, 'd'), (Token.Name.Decorator, 'd'), (Token.Name.Builtin, 'b'), (Token.Name.Exception, 'b')]

@lru_cache(maxsize=None)
def _colour(token): return next((name for kind, name in COLOURS if token in kind), '')

def highlight(code, language='python'):
    "Code in spans that the theme colours."
    try: lexer = get_lexer_by_name(language or 'text')
    except ClassNotFound: lexer = get_lexer_by_name('text')
    kinds = ((_colour(token), text) for token, text in lexer.get_tokens(code.strip('\n')))
    runs = ((name, escape(''.join(text for _, text in run), quote=False)) for name, run in groupby(kinds, itemgetter(0)))
    return '<pre class="code"><code>' + ''.join(f'<span class="{n}">{t}</span>' if n else t for n, t in runs).rstrip() + '</code></pre>\n'

def slug(text):
    "The anchor of a heading: lower case, words joined by hyphens."
    return re.sub(r'\s+', '-', re.sub(r'[^\w\s-]', '', text.lower()).strip()) or 'section'

class Names:
    "Anchors of one page, each given once."
    def __init__(self): self.taken = {'top', 'content', 'sidebar', 'toc', 'search'}
    def __call__(self, wanted):
        name = next(n for n in (wanted, *(f'{wanted}-{i}' for i in range(1, 1000))) if n not in self.taken)
        self.taken.add(name)
        return name

def anchor(name): return f'<a class="anchor" href="#{name}" aria-label="Link to this place">#</a>'

CALLOUTS = dict(note='Note', tip='Tip', important='Important', warning='Warning', caution='Caution')
def _box(tokens, i, *_):
    "Open and close tags of `::: {.callout-note title=\"…\"}` and of `::: {.panel-tabset}`."
    if tokens[i].nesting < 0: return '</div></aside>\n' if tokens[i].meta.get('callout') else '</div>\n'
    classes, title = re.findall(r'\.([\w-]+)', tokens[i].info), re.search(r'title="([^"]*)"', tokens[i].info)
    kind = next((c.removeprefix('callout-') for c in classes if c.startswith('callout-')), None)
    if kind is None: return f'<div class="{escape(" ".join(classes))}">\n'
    title = tokens[i].meta.get('title') or escape(title[1] if title else CALLOUTS.get(kind, kind.title()))
    return f'<aside class="callout {escape(kind)}" aria-label="{escape(re.sub("<.*?>", "", title))}"><p class="title">{title}</p><div>\n'

class Writer:
    "Markdown to HTML with this book's links: symbols in backticks, and notebooks to their pages."
    def __init__(self, symbols=None, # Symbol in backticks to `page.html#anchor`
                 link=lambda target, env: target): # What to write for the target of a link or picture
        self.symbols, self.link = symbols or {}, link
        self.md = md = MarkdownIt('commonmark', {'html': True, 'highlight': lambda code, language, _: highlight(code, language)})
        md.enable(['table', 'strikethrough']).use(footnote_plugin)
        md.use(dollarmath_plugin, allow_space=False, allow_digits=False, double_inline=True, renderer=maths)
        container_plugin(md, 'box', validate=lambda info, *_: info.strip().startswith('{'), render=lambda _, *args: _box(*args))
        md.core.ruler.push('book', self._mend)
        rules = md.renderer.rules
        rules['math_inline'] = lambda tokens, i, *_: maths(tokens[i].content)
        rules['math_block'] = rules['math_inline_double'] = lambda tokens, i, *_: maths(tokens[i].content, {'display_mode': True})
        rules['table_open'], rules['table_close'] = lambda *_: '<div class="scroll"><table>\n', lambda *_: '</table></div>\n'
        rules['heading_close'] = lambda tokens, i, *_: f'{anchor(tokens[i].meta["id"])}</{tokens[i].tag}>\n'
        rules['code_inline'] = self._code

    def __call__(self, text, env): return self.md.render(text, env)
    def line(self, text, env): return self.md.renderInline(text, {k: v for k, v in env.items() if k != 'footnotes'})

    def _code(self, tokens, i, options, env):
        "Code in a sentence; the name of a symbol becomes a link, unless it stands in a link already."
        text = tokens[i].content
        name = re.sub(r'\(.*\)$', '', text) # a call is a name too
        inside = sum(t.nesting for t in tokens[:i] if t.type in ('link_open', 'link_close'))
        target = None if inside else self.symbols.get((env.get('page'), name)) or self.symbols.get(name)
        made = f'<code>{escape(text)}</code>'
        return f'<a class="symbol-link" href="{target}">{made}</a>' if target and not env.get('heading') else made

    def _mend(self, state):
        "Anchors of headings, targets of links, titles of callouts."
        opened = []
        for i, token in enumerate(state.tokens):
            if token.type == 'heading_open':
                words = ''.join(t.content for t in state.tokens[i+1].children or [] if t.type in ('text', 'code_inline', 'math_inline'))
                name = (state.env.get('names') or Names())(slug(words))
                token.attrSet('id', name)
                state.tokens[i+2].meta['id'] = name
            if token.type == 'container_box_open':
                opened.append('callout-' in token.info)
                if opened[-1] and state.tokens[i+1].type == 'heading_open':
                    token.meta['title'] = self.line(state.tokens[i+2].content, {**state.env, 'heading': True})
                    for dropped in state.tokens[i+1:i+4]: dropped.type, dropped.hidden, dropped.children, dropped.content = 'inline', True, [], ''
            if token.type == 'container_box_close': token.meta['callout'] = opened.pop()
            for child in token.children or []:
                for name in ('href', 'src'):
                    if name in child.attrs: child.attrs[name] = self.link(child.attrs[name], state.env)

# ---- Signatures

@dataclass
class Parameter:
    name: str
    type: str = ''
    default: str | None = None
    details: str = ''

@dataclass
class Symbol:
    "An exported definition: what its card shows."
    name: str # `function`, `Class` or `Class.method`
    kind: str # function, class, method or property
    signature: str
    doc: str
    parameters: list = field(default_factory=list)
    methods: list = field(default_factory=list)
    members: list = field(default_factory=list) # Public names without a card of their own

def _comments(source):
    "Line to comment."
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {t.start[0]: t.string.lstrip('# ').rstrip() for t in tokens if t.type == tokenize.COMMENT}

def _parameters(function, comments, skip_first):
    "Arguments and what is returned, each with the comment on its last line (docments)."
    a, text = function.args, ast.unparse
    positional = [*a.posonlyargs, *a.args]
    defaults = [None]*(len(positional) - len(a.defaults)) + a.defaults
    rows = list(zip([arg.arg for arg in positional], positional, defaults))[skip_first:]
    if a.vararg: rows.append(('*' + a.vararg.arg, a.vararg, None))
    rows += [(arg.arg, arg, default) for arg, default in zip(a.kwonlyargs, a.kw_defaults)]
    if a.kwarg: rows.append(('**' + a.kwarg.arg, a.kwarg, None))
    last = lambda arg, default: max(arg.end_lineno, default.end_lineno if default else 0)
    owner = {last(arg, default): name for name, arg, default in rows} # the last argument of a line owns its comment
    made = [Parameter(name, text(arg.annotation) if arg.annotation else '', text(default) if default else None,
                      comments.get(last(arg, default), '') if owner[last(arg, default)] == name else '') for name, arg, default in rows]
    returns = function.returns
    if returns is not None:
        for row, (name, arg, default) in zip(made, rows):
            if last(arg, default) == returns.end_lineno: row.details = ''
        made.append(Parameter('returns', text(returns), None, comments.get(returns.end_lineno, '')))
    return made

def _signature(name, parameters):
    "Names and defaults; types and units are in the table."
    shown = [p.name + (f'={p.default}' if p.default is not None else '') for p in parameters if p.name != 'returns']
    result = next((f' → {p.type}' for p in parameters if p.name == 'returns' and p.type != 'None'), '')
    short = f'{name}({", ".join(shown)}){result}'
    return short if len(short) <= 76 else f'{name}(\n    ' + ',\n    '.join(shown) + f'){result}'

def _decorators(node): return [ast.unparse(d).split('(')[0].split('.')[-1] for d in node.decorator_list]

def _function(node, comments, owner='', name=None):
    "Card of a function or method; a first argument of a patched method names its class."
    marks = _decorators(node)
    first = (node.args.posonlyargs + node.args.args)[:1]
    if 'patch' in marks and first and first[0].annotation is not None: owner = ast.unparse(first[0].annotation).strip('\'"')
    bound = int(bool(owner) and 'staticmethod' not in marks)
    parameters = _parameters(node, comments, bound)
    property_ = {'property', 'cached_property'} & {*marks, 'property' if 'as_prop=True' in ''.join(map(ast.unparse, node.decorator_list)) else ''}
    full = f'{owner}.{name or node.name}' if owner else node.name
    return Symbol(full, 'property' if property_ else 'method' if owner else 'function',
                  full if property_ else _signature(full, parameters), ast.get_docstring(node) or '', parameters)

def _class(node, comments):
    "Card of a class: how it is made (its `__init__`, or its fields), and its public methods."
    functions = [n for n in node.body if isinstance(n, ast.FunctionDef)]
    init = next((f for f in functions if f.name == '__init__'), None)
    fields = [n for n in node.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)]
    parameters = ([p for p in _parameters(init, comments, 1) if p.name != 'returns'] if init else
                  [Parameter(n.target.id, ast.unparse(n.annotation), ast.unparse(n.value) if n.value else None,
                             comments.get(n.end_lineno, '')) for n in fields])
    methods = [_function(f, comments, node.name) for f in functions
               if (not f.name.startswith('_') or f.name == '__call__') and ast.get_docstring(f)]
    carded = {m.name for m in methods}
    members = [name for name in (f'{node.name}.{n.name if isinstance(n, ast.FunctionDef) else n.target.id}' for n in [*functions, *fields])
               if name not in carded and '._' not in name]
    return Symbol(node.name, 'class', _signature(node.name, parameters), ast.get_docstring(node) or '', parameters, methods, members)

def symbols(source):
    "Cards of the public definitions of an exported cell."
    comments = _comments(source)
    made = [_class(n, comments) if isinstance(n, ast.ClassDef) else _function(n, comments)
            for n in ast.parse(source).body if isinstance(n, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))]
    return [s for s in made if not any(part.startswith('_') for part in s.name.split('.'))]

def _table(parameters, writer, env):
    "Name, type, default, details; a column that would be empty is left out."
    if not any(p.type or p.details for p in parameters): return ''
    code = lambda text: f'<code>{escape(text)}</code>' if text else ''
    columns = [('type', 'Type', lambda p: code(p.type)), ('default', 'Default', lambda p: code(p.default)),
               ('details', 'Details', lambda p: writer.line(p.details, env))]
    columns = [(name, head, show) for name, head, show in columns if any(map(show, parameters))]
    rows = ''.join(f'<tr><th scope="row">{"<em>returns</em>" if p.name == "returns" else code(p.name)}</th>'
                   + ''.join(f'<td class="{name}">{show(p)}</td>' for name, _, show in columns) + '</tr>' for p in parameters)
    heads = ''.join(f'<th scope="col">{head}</th>' for head in ('Name', *(head for _, head, _ in columns)))
    return f'<div class="scroll"><table class="parameters"><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>'

def card(symbol, writer, env, source, # Where the definition can be read, a URL, or None
         level=3, signature=True):
    "An exported definition as a heading, its signature, its docstring and a table of its parameters."
    name = env['anchors'].pop(symbol.name, None) or env['names'](symbol.name.lower())
    link = f'<a class="source" href="{source}" aria-label="Source of {symbol.name}">source</a>' if source else ''
    kind = '' if symbol.kind == 'function' else f'<span class="kind">{symbol.kind}</span> '
    parts = [f'<div class="symbol-head"><h{level} id="{name}">{kind}<code>{symbol.name}</code>{anchor(name)}</h{level}>{link}</div>']
    if signature and symbol.kind != 'property': parts.append(f'<pre class="signature"><code>{escape(symbol.signature)}</code></pre>')
    if symbol.doc: parts.append(f'<div class="doc">{writer(symbol.doc, env)}</div>')
    parts.append(_table([p for p in symbol.parameters if symbol.kind != 'property' or p.details], writer, env))
    for method in symbol.methods: parts.append(card(method, writer, env, None, 4))
    tag = 'section' if level == 3 else 'div'
    return f'<{tag} class="symbol">' + '\n'.join(filter(None, parts)) + f'</{tag}>\n'

# ---- Cells

def directives(source):
    "Name to value of a cell's `#|` lines."
    import yaml
    found = [m.groups() for line in source.splitlines() if (m := DIRECTIVE.match(line))]
    return {name: (yaml.safe_load(value) if value[:1] in '"\'' else value.strip()) for name, value in found}

def bare(source): return '\n'.join(line for line in source.splitlines() if not DIRECTIVE.match(line)).strip('\n')
def _off(says, name): return says.get(name, 'true').lower() == 'false'

def _picture(mime, data, says, env, save):
    "A stored picture with its caption and description; the file is written by `save`."
    from PIL import Image
    kind = mime.split('/')[1].split('+')[0]
    raw = data.encode() if kind == 'svg' else base64.b64decode(data)
    width, height = (0, 1) if kind == 'svg' else Image.open(io.BytesIO(raw)).size
    size = f' width="{width}" height="{height}"' if width else ''
    if width > 2.2*height and width > 600: size += ' class="wide"' # on a phone one scrolls along it instead of guessing at its labels
    return f'<img src="{save(raw, kind)}" alt="{escape(says.get("fig-alt", ""))}"{size} loading="lazy" decoding="async">'

def _dataframe(text):
    "A table of pandas without its own style."
    text = re.sub(r'<style.*?</style>', '', text, flags=re.S).replace(' border="1"', '').replace(' style="text-align: right;"', '')
    return f'<div class="scroll output">{text}</div>'

ESCAPES = re.compile(r'\x1b\[[0-9;]*[A-Za-z]')
def output(stored, says, writer, env, save):
    "One stored output: (kind, HTML), where kind is picture or text."
    join = lambda value: ''.join(value) if isinstance(value, list) else value
    if stored['output_type'] == 'stream': return 'text', f'<pre class="output">{escape(ESCAPES.sub("", join(stored["text"])).rstrip())}</pre>'
    if stored['output_type'] == 'error': return 'text', f'<pre class="output error">{escape(stored["ename"])}: {escape(stored["evalue"])}</pre>'
    data = {mime: join(value) for mime, value in stored['data'].items() if mime != 'application/json'}
    for mime in 'image/svg+xml', 'image/png', 'image/jpeg', 'image/gif':
        if mime in data: return 'picture', _picture(mime, data[mime], says, env, save)
    if 'text/html' in data: return 'text', _dataframe(data['text/html'])
    if 'text/markdown' in data: return 'text', f'<div class="output rich">{writer(data["text/markdown"], env)}</div>'
    if 'text/latex' in data: return 'text', writer(data['text/latex'], env)
    return 'text', f'<pre class="output">{escape(ESCAPES.sub("", data.get("text/plain", "")).rstrip())}</pre>'

def outputs(cell, says, writer, env, save):
    "All stored outputs; pictures of one cell share a figure and its caption."
    made = [output(stored, says, writer, env, save) for stored in cell.get('outputs', [])]
    text, pictures = ''.join(m for kind, m in made if kind == 'text'), ''.join(m for kind, m in made if kind == 'picture')
    caption = f'<figcaption>{writer.line(says["fig-cap"], env)}</figcaption>' if says.get('fig-cap') else ''
    return text + (f'<figure><div class="scroll">{pictures}</div>{caption}</figure>' if pictures else '')

def _fold(code, title): return f'<details class="fold"><summary>{title}</summary>{highlight(code)}</details>\n'

def _what(text):
    "What an exported cell without a card defines: helpers, constants."
    named = [n.name if hasattr(n, 'name') else ast.unparse(n.targets[0]) if isinstance(n, ast.Assign) else '' for n in ast.parse(text).body]
    return 'Source of ' + ', '.join(f'<code>{escape(n)}</code>' for n in named if n) if any(named) else 'Source'

def cell(cell, writer, env, save, # Takes the bytes of a picture and its kind, returns its address
         source=lambda name: None, # Where a symbol is defined
         ):
    "A cell as the reader sees it; the directives decide what that is."
    says, text = directives(cell['source']), bare(cell['source'])
    if cell['cell_type'] == 'markdown': return writer(text, env)
    if cell['cell_type'] != 'code' or 'hide' in says or _off(says, 'include'): return ''
    exported = 'export' in says or 'exports' in says
    parts = [card(s, writer, env, source(s.name), signature='exports' not in says) for s in symbols(text)] if exported else []
    defines = exported and any(not isinstance(n, (ast.Import, ast.ImportFrom)) for n in ast.parse(text).body)
    if 'export' in says or 'exporti' in says:
        if defines: parts.append(_fold(text, _what(text) if not parts else 'Source'))
    elif text and 'default_exp' not in says and not _off(says, 'echo') and 'hide_input' not in says:
        if 'parameters' in cell.get('metadata', {}).get('tags', []): parts.append('<p class="tag">Parameters of the experiment</p>')
        parts.append(_fold(text, 'Code') if says.get('code-fold', 'false') in ('true', 'show') else highlight(text))
    if not _off(says, 'output') and 'hide_output' not in says: parts.append(outputs(cell, says, writer, env, save))
    return ''.join(parts)

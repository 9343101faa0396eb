"""How the book reads: `python docs/reading.py [NAME …]` prints a row a chapter, and below it what is wrong, by cell.

`!` marks a number over its ceiling (the command then ends with exit code 1, and a test fails), `~` one that misses its aim
(a place to look; nothing fails). `--run` runs the whole book first, for the column of seconds. Nothing else runs anything:
what is measured is the notebook as it is stored.
"""
import ast, io, json, os, re, statistics, subprocess, sys, tokenize
from dataclasses import dataclass, field
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent))
from book import ROOT, source_digest

BOOK_SECONDS = 12*60
LIMITS = { # column: (lowest aim, highest aim, ceiling); None where there is none
    'cells': (40, 110, 150),
    'median': (None, 3, None), # lines of a code cell
    '9 in 10': (None, 12, 20), # nine code cells in ten have at most so many lines
    'longest': (None, 25, 40), # lines of the longest exported cell
    'words': (1.5, None, None), # of prose for each line of code
    'pictures': (None, 15, 25),
    'KB': (None, 400, 1000), # as stored, outputs included
    'seconds': (None, 15, 60)}
UNEXPORTED = 20 # aim: lines of a cell that is not exported

@dataclass(frozen=True)
class Finding:
    "Something a reader should look at."
    check:str # What found it: a column of the table, or 'outputs', 'fresh', 'path', 'warning', 'progress', 'alt text', 'named'
    text:str # In words
    cell:int|None=None # Which cell, counted from 0; None for the notebook
    fails:bool=True # Over a ceiling, or only off its aim?

@dataclass
class Reading:
    "One notebook, measured."
    name:str # Its path from nbs/, without ending
    kind:str # 'chapter' exports a module, 'page' does not, 'template' is an experiment with dials
    numbers:dict # Column to number; None where it does not apply
    named:int # Public definitions that a lesson cell names soon
    public:int # Public definitions
    findings:list=field(default_factory=list)

    @property
    def failures(self): return [found for found in self.findings if found.fails]

# Cells

def source(cell): return ''.join(cell['source'])
def is_code(cell): return cell['cell_type'] == 'code' and bool(source(cell).strip())
def is_exported(cell): return is_code(cell) and bool(re.search(r'^#\|\s*export[si]?\b', source(cell), re.M))
def is_dials(cell): return 'parameters' in cell.get('metadata', {}).get('tags', [])
def n_lines(cell): return sum(bool(line.strip()) for line in source(cell).splitlines())

def n_words(cell):
    "Words of a markdown cell: whatever has a letter or digit in it, fenced code left out."
    if cell['cell_type'] != 'markdown': return 0
    return sum(bool(re.search(r'\w', word)) for word in re.sub(r'```.*?```', '', source(cell), flags=re.S).split())

def names_in(cell):
    "The names a code cell uses; what stands in strings and comments does not count."
    try: return {token.string for token in tokenize.generate_tokens(io.StringIO(source(cell)).readline) if token.type == tokenize.NAME}
    except (tokenize.TokenError, SyntaxError): return set(re.findall(r'\w+', source(cell)))

def definitions(cell):
    "Public functions, classes and patched methods an exported cell defines."
    try: body = ast.parse(source(cell)).body
    except SyntaxError: return []
    return [node.name for node in body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and not node.name.startswith('_')]

def pictures(cell): return sum(kind.startswith('image/') for output in cell.get('outputs', []) for kind in output.get('data', {}))

def output_text(output):
    "What an output says, pictures left out."
    data = [value for kind, value in output.get('data', {}).items() if kind.startswith('text/')]
    return '\n'.join(''.join(part) for part in [output.get('text', ''), *data, output.get('traceback', [])])

# Checks

def kind_of(cells):
    "Of a notebook: 'template', 'chapter' or 'page'."
    if any(map(is_dials, cells)): return 'template'
    return 'chapter' if any(re.search(r'^#\|\s*default_exp\b', source(cell), re.M) for cell in cells) else 'page'

def check_outputs(notebook, kind):
    "Stored, and those of the code beside them. A template's outputs are in its runs."
    cells = notebook['cells']
    if not any(cell.get('outputs') for cell in cells):
        if kind != 'template': yield Finding('outputs', 'no outputs are stored: run it (docs/book.py)')
        return
    stamp = notebook['metadata'].get('outputs_of')
    if stamp is None: yield Finding('fresh', 'nobody wrote down of which code the outputs are: run it (docs/book.py)')
    elif stamp != source_digest(notebook): yield Finding('fresh', 'the code has changed since the outputs were stored: run it (docs/book.py)')

PATH = re.compile(r'(?<![\w.<:/~-])/(?:home|root|tmp|usr|var|opt|mnt|Users|private|Volumes)/\S*|\b[A-Z]:\\+\w\S*|' + re.escape(str(ROOT)) + r'\S*')
WARNING = re.compile(r'\b\w*Warning\b.*|Traceback.*')
PROGRESS = re.compile(r'\d+%\|.*|\r(?!\n)|\[[^]\n]*(?:it/s|s/it)\]|<progress\b')

def check_debris(cells):
    "What a run leaves in outputs that no reader wants."
    for i, cell in enumerate(cells):
        for output in cell.get('outputs', []):
            text = output_text(output)
            if output.get('output_type') == 'error': yield Finding('warning', f'an error is stored: {output.get("ename")}', i)
            elif found := WARNING.search(text): yield Finding('warning', f'a warning is stored: {found[0][:80]}', i)
            elif PROGRESS.search(text) or 'application/vnd.jupyter.widget-view+json' in output.get('data', {}):
                yield Finding('progress', 'a progress bar is stored', i)
            elif output.get('name') == 'stderr': yield Finding('warning', f'standard error is stored: {text.strip()[:80]}', i)
            if found := PATH.search(text): yield Finding('path', f'an absolute path is stored: {found[0][:80]}', i)

def check_pictures(cells):
    "Each picture has a caption and a description."
    for i, cell in enumerate(cells):
        if pictures(cell):
            missing = [what for what in ('fig-cap', 'fig-alt') if not re.search(rf'^#\|\s*{what}:\s*["\']?\w', source(cell), re.M)]
            if missing: yield Finding('alt text', f'a picture without {" and ".join(missing)}', i)
        if cell['cell_type'] == 'markdown' and re.search(r'!\[\s*\]\(|<img(?![^>]*\balt="[^"])', source(cell)):
            yield Finding('alt text', 'a picture without alternative text', i)

def check_named(cells, within=3):
    "Each public definition is named in code that is not exported, a few cells on; yields (name, finding or None)."
    for i, cell in enumerate(cells):
        if not is_exported(cell): continue
        seen = set().union(*(names_in(later) for later in cells[i+1:i+1+within] if is_code(later) and not is_exported(later)))
        for name in definitions(cell):
            yield name, None if name in seen else Finding('named', f'{name} is not named in a lesson cell within {within} cells', i)

def check_cells(cells):
    "Cells too long to be one idea."
    for i, cell in enumerate(cells):
        if not is_code(cell) or is_dials(cell): continue
        n, (_, aim, ceiling) = n_lines(cell), LIMITS['longest']
        if is_exported(cell) and n > aim: yield Finding('longest', f'exported cell of {n} lines, aim {aim}, ceiling {ceiling}', i, fails=n > ceiling)
        if not is_exported(cell) and n > UNEXPORTED: yield Finding('9 in 10', f'unexported cell of {n} lines, aim {UNEXPORTED}', i, fails=False)

def check_numbers(numbers, kind):
    "Numbers of the whole notebook beside their limits."
    for column, (low, high, ceiling) in LIMITS.items():
        value = numbers[column]
        if value is None or column == 'longest': continue
        if ceiling is not None and value > ceiling: yield Finding(column, f'{column} {value:g}, ceiling {ceiling}')
        elif high is not None and value > high: yield Finding(column, f'{column} {value:g}, aim {high}', fails=False)
        elif low is not None and value < low and kind == 'chapter': yield Finding(column, f'{column} {value:g}, aim {low} or more', fails=False)

def read(
    path, # A notebook
    seconds=None, # How long it ran, when somebody measured it
    name=None, # What to call it; None: its file name
)->Reading:
    "Measure a notebook as it is stored."
    path = Path(path)
    notebook = json.loads(path.read_text(encoding='utf-8'))
    cells = notebook['cells']
    kind, code = kind_of(cells), [cell for cell in cells if is_code(cell) and not is_dials(cell)]
    lengths, named = sorted(map(n_lines, code)) or [0], list(check_named(cells))
    numbers = {'cells': len(cells), 'median': statistics.median(lengths), '9 in 10': lengths[max(0, -(-9*len(lengths)//10) - 1)],
        'longest': max(map(n_lines, filter(is_exported, cells)), default=None), 'words': round(sum(map(n_words, cells))/max(1, sum(lengths)), 1),
        'pictures': sum(map(pictures, cells)), 'KB': path.stat().st_size/1000, 'seconds': seconds}
    findings = [*check_outputs(notebook, kind), *check_debris(cells), *check_pictures(cells), *(found for _, found in named if found),
                *check_cells(cells), *check_numbers(numbers, kind)]
    return Reading(name or path.stem, kind, numbers, sum(found is None for _, found in named), len(named), findings)

# The book

def notebooks():
    "Every notebook of the book by its path from nbs/, in reading order."
    folder = ROOT/'nbs'
    paths = (path for path in folder.rglob('*.ipynb') if '.ipynb_checkpoints' not in path.parts)
    return {name: path for name, path in sorted((path.relative_to(folder).with_suffix('').as_posix(), path) for path in paths)}

def run_book():
    "`nbdev-test` on the whole book, one chapter at a time, as other tests have the other core: what it said, and the seconds of each notebook by its file name."
    quiet = {**os.environ, 'OMP_NUM_THREADS': '1', 'MPLBACKEND': 'agg', 'PYTHONWARNINGS': 'ignore::FutureWarning'}
    done = subprocess.run([Path(sys.executable).with_name('nbdev-test'), '--n-workers', '1', '--timing', '--do-print'],
                          cwd=ROOT, env=quiet, capture_output=True, text=True)
    return done, {name: int(s) for name, s in re.findall(r'^(\S+)\.ipynb: (\d+) secs', done.stdout, re.M)}

def read_book(names=(), seconds=()):
    "Readings of the notebooks of those names, or of all."
    found, seconds = notebooks(), dict(seconds)
    for name in names:
        if name not in found: raise SystemExit(f'no notebook {name!r}; there are {", ".join(found)}')
    return [read(found[name], seconds.get(found[name].name.removesuffix('.ipynb')), name) for name in names or found]

def in_sum(seconds):
    "The finding about all chapters together, if there is one."
    total = sum(seconds)
    return [Finding('in sum', f'{total} seconds, ceiling {BOOK_SECONDS}')] if total > BOOK_SECONDS else []

# The table

def _shown(value): return '–' if value is None else f'{value:.1f}' if value != int(value) and value < 100 else f'{value:.0f}'

def _row(reading):
    "A cell of the table for each column, marked where there is something to look at."
    found = {check: '~' for check in (f.check for f in reading.findings)} | {f.check: '!' for f in reading.failures}
    state = next((check for check in ('outputs', 'fresh', 'warning', 'progress', 'path', 'alt text') if check in found), None)
    words = {'outputs': 'none', 'fresh': 'stale', None: '–' if reading.kind == 'template' else 'good'}
    named = f'{reading.named}/{reading.public}' if reading.public else '–'
    return [reading.name, *(_shown(reading.numbers[column]) + found.get(column, ' ') for column in LIMITS),
            named + found.get('named', ' '), words.get(state, state) + found.get(state, ' ')]

def table(
    readings, # From `read_book`
    aims:bool=True, # List what misses its aim too, not only what fails
)->str:
    "A row a notebook; below it what is over a ceiling, and then what is off its aim, by cell."
    seconds = [r.numbers['seconds'] for r in readings if r.numbers['seconds'] is not None]
    rows = [['notebook', *(f'{column} ' for column in LIMITS), 'named ', 'outputs '], *map(_row, readings)]
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ['  '.join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))]).rstrip() for row in rows]
    lines += [f'{len(readings)} notebooks, {sum(r.numbers["KB"] for r in readings)/1000:.1f} MB, {f"{sum(seconds)} s" if seconds else "not timed"}']
    for fails, title in ((True, 'over a ceiling (!)'), (False, 'off an aim (~)'))[:1 + aims]:
        listed = [f'  {r.name}{"" if f.cell is None else f", cell {f.cell}"}: {f.text}' for r in readings for f in r.findings if f.fails == fails]
        if fails: listed += [f'  all chapters together: {f.text}' for f in in_sum(seconds)]
        if listed: lines += ['', title, *listed]
    return '\n'.join(lines)

def main(words):
    names, seconds = [word for word in words if word != '--run'], {}
    if '--run' in words:
        done, seconds = run_book()
        if done.returncode: sys.exit(done.stderr[-4000:])
    readings = read_book(names, seconds)
    print(table(readings))
    return any(r.failures for r in readings) or bool(in_sum(seconds.values()))

if __name__ == '__main__': sys.exit(main(sys.argv[1:]))

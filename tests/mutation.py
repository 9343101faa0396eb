"""Would a wrong sign turn something red? `make mutation`: minutes for each hundred, one core.

A mutant is a chapter in which one place of one exported line is changed: a sign, a comparison, an axis, a number by one, two
arguments swapped. It is killed when the tests of its module fail, or the chapter itself; what survives is looked at by hand.
Places are drawn by seed, one to a line; `tests/mutants.json` keeps what was seen, with a note on each survivor.
"""
import argparse, ast, json, os, random, re, shutil, subprocess, sys, tempfile, time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RECORD = ROOT/'tests'/'mutants.json'
ROOMS = { # Chapter: its module, and the test files that guard it
    '04_mask_transformer': ('mask_transformer', ['test_decoders.py', 'test_golden.py']),
    '05_model': ('model', ['test_model.py', 'test_golden.py']),
    '20_windows': ('windows', ['test_windows.py', 'test_golden.py', 'test_merge.py']),
    '20a_merge': ('merge', ['test_merge.py', 'test_windows.py']),
    '22_metrics': ('metrics', ['test_metrics.py']),
    '30_losses': ('losses', ['test_losses.py']),
    '14_pipelines': ('pipelines', ['test_pipelines.py']),
}
SYMMETRIC = {'max', 'min', 'maximum', 'minimum', 'promote_types'} # swapped arguments say the same
SIGNS = {ast.Add: ast.Sub, ast.Sub: ast.Add}
COMPARISONS = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is}
REDUCTIONS = set('sum mean amax amin max min argmax argmin softmax log_softmax flatten transpose movedim permute squeeze unsqueeze cat stack flip size chunk split any all cumsum topk sort'.split())

@dataclass
class Mutant:
    "One changed place."
    chapter:str # Name of the notebook
    cell:int # Number of its cell
    line:int # Line in that cell, from 1
    operator:str # sign, comparison, axis, off by one, swapped arguments
    before:str # As it was written
    after:str # As it is now
    start:int # Where it begins in the cell, characters
    end:int # Where it ends
    outcome:str = '' # Which test or chapter turned red, or survived
    seconds:float = 0.
    note:str = '' # Of a survivor, written by hand afterwards: what it changes, if anything

def _other(node, axes):
    "The operator that fits a node and what becomes of it, or None."
    if isinstance(node, ast.BinOp) and type(node.op) in SIGNS: return 'sign', ast.BinOp(node.left, SIGNS[type(node.op)](), node.right)
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in COMPARISONS:
        return 'comparison', ast.Compare(node.left, [COMPARISONS[type(node.ops[0])]()], node.comparators)
    if isinstance(node, ast.Constant) and type(node.value) is int:
        if node in axes: return 'axis', ast.Constant({0: 1, 1: 0, -1: -2, -2: -1}.get(node.value, node.value - 1))
        return 'off by one', ast.Constant(node.value + 1)
    if isinstance(node, ast.Call) and len(node.args) > 1 and getattr(node.func, 'attr', getattr(node.func, 'id', '')) not in SYMMETRIC and not any(isinstance(a, (ast.Starred, ast.GeneratorExp)) for a in node.args):
        swapped = [node.args[1], node.args[0], *node.args[2:]]
        if ast.dump(swapped[0]) != ast.dump(swapped[1]): return 'swapped arguments', ast.Call(node.func, swapped, node.keywords)

def _axes(tree):
    "The numbers that say an axis."
    found = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call): continue
        found |= {k.value for k in node.keywords if k.arg in ('dim', 'axis', 'dims')}
        name = getattr(node.func, 'attr', getattr(node.func, 'id', ''))
        if name in REDUCTIONS: found |= set(node.args)
    return found

def _told(tree):
    "Nodes that only speak: messages of errors, annotations, decorators."
    silent = set()
    for node in ast.walk(tree):
        parts = [node.exc] if isinstance(node, ast.Raise) and node.exc else [node] if isinstance(node, (ast.JoinedStr, ast.Import, ast.ImportFrom)) else []
        parts += [getattr(node, 'annotation', None), getattr(node, 'returns', None), *getattr(node, 'decorator_list', [])]
        for part in filter(None, parts): silent |= set(ast.walk(part))
    return silent

def _places(chapter, number, source):
    "Every mutant of a cell."
    tree, lines = ast.parse(source), source.splitlines(True)
    starts = [0]
    for line in lines: starts.append(starts[-1] + len(line))
    at = lambda line, column: starts[line - 1] + len(lines[line - 1].encode()[:column].decode())
    axes, silent = _axes(tree), _told(tree)
    for node in ast.walk(tree):
        if node in silent or not (other := _other(node, axes)): continue
        operator, new = other
        start, end = at(node.lineno, node.col_offset), at(node.end_lineno, node.end_col_offset)
        after = ast.unparse(ast.fix_missing_locations(new))
        yield Mutant(chapter, number, node.lineno, operator, source[start:end], f'({after})' if operator in ('sign', 'comparison') else after, start, end)

def notebook(chapter): return json.loads((ROOT/'nbs'/f'{chapter}.ipynb').read_text(encoding='utf-8'))

def mutants(chapter):
    "Every mutant of a chapter's exported cells; those that import, and those that draw, which are judged by eye, are left out."
    found = []
    for number, cell in enumerate(notebook(chapter)['cells']):
        source = ''.join(cell['source'])
        if cell['cell_type'] == 'code' and re.match(r'#\|\s*exports?\b', source) and not re.search(r'^(from|import) |^def show_', source, re.M):
            found += _places(chapter, number, source)
    return found

def draw(chapters, n, seed):
    "So many mutants, no two on one line, evenly over the operators as far as they occur."
    by_line, choose = {}, random.Random(seed)
    for mutant in (m for chapter in chapters for m in mutants(chapter)): by_line.setdefault((mutant.chapter, mutant.cell, mutant.line), []).append(mutant)
    common = Counter(m.operator for line in by_line.values() for m in line)
    one_each = [choose.choices(line, [1/common[m.operator] for m in line])[0] for line in by_line.values()]
    return choose.sample(one_each, min(n, len(one_each)))

def nothing(chapter):
    "A mutant that changes nothing: whoever kills it kills everything."
    one = mutants(chapter)[0]
    return Mutant(chapter, one.cell, one.line, 'nothing', one.before, one.before, one.start, one.end)

def plant(mutant, folder):
    "The package and the chapter with the change, in a folder of their own; the changed chapter."
    shutil.copytree(ROOT/'segmenter', folder/'segmenter', ignore=shutil.ignore_patterns('__pycache__'))
    book = notebook(mutant.chapter)
    source = ''.join(book['cells'][mutant.cell]['source'])
    changed = source[:mutant.start] + mutant.after + source[mutant.end:]
    body = lambda text: re.sub(r'\A(#\|.*\n)+', '', text).strip()
    module = folder/'segmenter'/f'{ROOMS[mutant.chapter][0]}.py'
    text = module.read_text(encoding='utf-8')
    if text.count(body(source)) != 1: raise RuntimeError(f'cell {mutant.cell} of {mutant.chapter} is not what was exported: run nbdev-export')
    module.write_text(text.replace(body(source), body(changed)), encoding='utf-8')
    book['cells'][mutant.cell]['source'] = changed
    (folder/'nbs').mkdir()
    for other in (ROOT/'nbs').iterdir():
        if other.name != f'{mutant.chapter}.ipynb': (folder/'nbs'/other.name).symlink_to(other)
    for other in ('docs', 'settings.ini', 'tests'): (folder/other).symlink_to(ROOT/other)
    path = folder/'nbs'/f'{mutant.chapter}.ipynb'
    path.write_text(json.dumps(book), encoding='utf-8')
    return path

def judge(mutant, limit):
    "What turned red, or that nothing did."
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        chapter = plant(mutant, folder)
        tests = [str(ROOT/'tests'/name) for name in (*ROOMS[mutant.chapter][1], 'test_defaults.py')]
        steps = {'chapter': [Path(sys.executable).with_name('exec_nb'), str(chapter), '--exc-stop'],
                 'tests': [sys.executable, '-m', 'pytest', *tests, '-x', '-q', '-m', 'not slow and not gpu', '-p', 'no:cacheprovider', '--no-header']}
        mutant.outcome = 'survived'
        for name, command in reversed(steps.items()):
            cwd = folder if name == 'tests' else folder/'nbs'
            try: done = subprocess.run(command, cwd=cwd, env={**os.environ, 'PYTHONPATH': str(folder), 'MPLBACKEND': 'agg'}, capture_output=True, text=True, timeout=limit)
            except subprocess.TimeoutExpired: mutant.outcome = f'{name}: never ended'; break
            if done.returncode:
                said = re.search(r'^(?:FAILED|ERROR) \S*?([^/\s]+\.py\S*)', done.stdout, re.M)
                mutant.outcome = said[1] if said else f'{name}: {(done.stderr or done.stdout).strip().splitlines()[-1][:120]}'
                break
    mutant.seconds = round(time.perf_counter() - begin, 1)
    return mutant

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('-n', type=int, default=120, help='mutants to draw')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--chapter', action='append', choices=list(ROOMS), help='only this one; may be repeated')
    parser.add_argument('--limit', type=float, default=240., help='seconds for tests, and for the chapter')
    parser.add_argument('--out', type=Path, default=RECORD)
    parser.add_argument('--list', action='store_true', help='show the sample and judge nothing')
    args = parser.parse_args()
    chapters = args.chapter or list(ROOMS)
    sample = draw(chapters, args.n, args.seed)
    if args.list: return print('\n'.join(f'{m.chapter} cell {m.cell} line {m.line}: {m.operator}: {m.before} -> {m.after}' for m in sample))
    for chapter in chapters:
        unchanged = judge(nothing(chapter), args.limit)
        print(f'{chapter} as it is: {unchanged.outcome} ({unchanged.seconds:.0f} s)', flush=True)
        if unchanged.outcome != 'survived': raise SystemExit('red before anything was changed: mend that first')
    judged = []
    for i, mutant in enumerate(sample, 1):
        judged.append(judge(mutant, args.limit))
        print(f'{i}/{len(sample)} {mutant.chapter} {mutant.cell}:{mutant.line} {mutant.operator}: {mutant.before!r} -> {mutant.after!r}: {mutant.outcome} ({mutant.seconds:.0f} s)', flush=True)
        args.out.write_text(json.dumps(dict(seed=args.seed, mutants=[asdict(m) for m in judged]), indent=1) + '\n', encoding='utf-8')
    survived = [m for m in judged if m.outcome == 'survived']
    print(f'{len(survived)} of {len(judged)} survived ({100*len(survived)/len(judged):.1f} %)')

if __name__ == '__main__': main()

"The example at the top of a module of the method runs, and says what stands behind its arrows."
import ast, importlib, re
import pytest

MODULES = 'guards patches encoder linear_decoder mask_transformer model mmseg_model pretrained windows losses region_losses'.split()

@pytest.mark.parametrize('name', MODULES)
def test_the_example_of_a_module_gives_what_it_says(name):
    (code,) = re.findall(r'```python\n(.*?)```', importlib.import_module(f'segmenter.{name}').__doc__, re.S)
    space, lines, found = {}, code.splitlines(), 0
    for node in ast.parse(code).body:
        said = lines[node.end_lineno - 1].partition(' # → ')[2]
        if said and isinstance(node, ast.Expr):
            assert repr(eval(compile(ast.Expression(node.value), name, 'eval'), space)) == said
            found += 1
        else: exec(compile(ast.Module([node], []), name, 'exec'), space)
    assert found

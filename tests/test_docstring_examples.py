"The example in a module's docstring runs as it stands, in an empty folder; what stands behind its arrows is what comes out."
import ast, importlib, re
import pytest

MODULES = ('classes pairs folders datasets doctor statistics browser archives prepare augmentation reading pipelines '
           'drawing attention explorer frames flicker video logs film_speed looking showing '
           'experiments sweeps slurm registry results flags laboratory cli').split()
MEASURED = ('merge outputs predict photo_folders large_images metrics boundaries calibration sizes intervals evaluate reports submissions '
            'accuracy bench model_bench loss_bench speed measuring').split()
EXCHANGED = 'checkpoints sharing convert zoo exchange authors mmseg_registry'.split() # those that export a graph: tests/test_export.py
TRAINED = 'learner planning training learning_rate own_data box'.split()

def example(module): return re.findall(r'```python\n(.*?)```', importlib.import_module(f'segmenter.{module}').__doc__, re.S)

@pytest.mark.parametrize('module', MODULES + MEASURED + EXCHANGED + TRAINED)
def test_the_example_of_a_module_runs_as_it_stands(module, tmp_path, monkeypatch):
    if module in ('frames', 'video', 'film_speed', 'showing'): pytest.importorskip('av')
    monkeypatch.chdir(tmp_path)
    (code,) = example(module)
    assert len(code.splitlines()) <= 10
    exec(compile(code, module, 'exec'), {})

METHOD = 'guards patches encoder linear_decoder mask_transformer model mmseg_model pretrained windows losses region_losses'.split()
RUN = 'schedules optimizers settings recipes averaging steps watching world_batch safekeeping run_files distributed'.split()

@pytest.mark.parametrize('name', METHOD + RUN)
def test_the_example_of_a_module_gives_what_it_says(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (code,) = example(name)
    space, lines, found = {}, code.splitlines(), 0
    for node in ast.parse(code).body:
        said = lines[node.end_lineno - 1].partition(' # → ')[2]
        if said and isinstance(node, ast.Expr):
            assert repr(eval(compile(ast.Expression(node.value), name, 'eval'), space)) == said
            found += 1
        else: exec(compile(ast.Module([node], []), name, 'exec'), space)
    assert found

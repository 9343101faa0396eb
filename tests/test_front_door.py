"`import segmenter`: cheap, lazy, and the same whatever was imported before."
import subprocess, sys
import pytest

def fresh(code):
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()

def seconds(code): return float(fresh(f'import time; t = time.perf_counter(); {code}; print(time.perf_counter() - t)'))

def test_importing_loads_nothing_heavy():
    assert fresh('import sys, segmenter; segmenter.__version__, dir(segmenter); '
                 'print([m for m in ("torch", "timm", "fastai", "mmseg", "mmcv", "numpy", "matplotlib", "PIL") if m in sys.modules])') == '[]'

def test_importing_costs_far_less_than_torch_and_timm():
    assert seconds('import segmenter') < .5 * seconds('import torch, timm')

def test_the_names_of_the_readme_are_there():
    import segmenter
    names = {'create_model', 'load_model', 'predict', 'evaluate', 'load_dataset', 'sliding_labels', 'sliding_probabilities', 'ConfusionMatrix',
             'segmentation_learner', 'dataloaders', 'Interpretation', 'boxed_image', 'train', 'save_pretrained', 'from_pretrained', 'export_onnx', '__version__'}
    assert names <= set(dir(segmenter)) and names - {'__version__'} == set(segmenter.__all__) == set(segmenter._DOORS)

@pytest.mark.parametrize('name', ['create_model', 'load_model', 'predict', 'evaluate', 'load_dataset', 'sliding_labels', 'sliding_probabilities',
                                  'ConfusionMatrix', 'segmentation_learner', 'dataloaders', 'Interpretation', 'boxed_image', 'train',
                                  'save_pretrained', 'from_pretrained', 'export_onnx'])
def test_a_front_door_name_is_the_chapters_own(name):
    import importlib, segmenter
    module = pytest.importorskip(f'segmenter.{segmenter._DOORS[name]}', exc_type=ModuleNotFoundError)
    assert getattr(segmenter, name) is getattr(module, name) and callable(getattr(segmenter, name))

def test_an_unknown_name_is_an_attribute_error_with_the_nearest():
    import segmenter
    with pytest.raises(AttributeError, match='nearest: create_model'): segmenter.creat_model
    with pytest.raises(AttributeError, match='it has: create_model'): segmenter.xyzzy
    with pytest.raises(ImportError): exec('from segmenter import xyzzy')
    assert not hasattr(segmenter, '__wrapped__')

def test_predict_is_the_function_whatever_was_imported_before():
    assert fresh("""import sys, segmenter as sg
sg.create_model
print([m for m in ('fastai', 'mmseg', 'mmcv') if m in sys.modules])
import segmenter.predict
from segmenter.predict import Prediction
print(type(sg.predict).__name__, sg.predict.__name__)
sg.evaluate; import segmenter.evaluate
from segmenter import evaluate
print(type(sg.evaluate).__name__, evaluate is sg.evaluate)""").splitlines() == ['[]', 'function predict', 'function True']

def test_chapters_can_be_reached_from_the_package():
    assert fresh('import segmenter as sg; print(sg.guards.lookup("thing", "a", dict(a=1)))') == '1'

def test_the_version_is_the_packages():
    import segmenter
    from importlib.metadata import version
    assert segmenter.__version__ == version('segmenter')

def test_the_example_of_the_package_runs(tmp_path, monkeypatch):
    import re, segmenter
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r'```python\n(.*?)```', segmenter.__doc__, re.S)
    exec(compile(code, 'segmenter', 'exec'), {})

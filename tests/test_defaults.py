"What is meant when an argument is left out: one answer wherever the same argument is taken, and the authors' where they have one."
import importlib, inspect
import pytest

AUTHORS = dict(image_size=512, n_classes=150, decoder_depth=2, decoder_dropout=.1, decoder_drop_path_rate=0., dropout=0., drop_path_rate=.1)
EVERYWHERE = dict( # Argument: what it is when left out, in every public function of these modules that takes it
    ignore_index=255, label_smoothing=0., window_batch=4, max_ratio=4, scale_range=(.5, 2.), flips='horizontal', photometric=True,
    normalization='vit', budget=2**19, batch_size=8, num_workers=0, in_chans=3, ratio=1., seed=0)
MODULES = 'model windows merge metrics losses region_losses pipelines'.split()
HERE = [ # (module, name, what is meant when arguments are left out)
    ('model', 'ModelConfig', AUTHORS), ('model', 'create_model', AUTHORS),
    ('mask_transformer', 'MaskTransformer', dict(depth=2, drop_path_rate=0., dropout=.1)), # the authors' configuration of the decoder
    ('losses', 'balanced_weights', dict(power=.5, limit=10.)),
    ('metrics', 'show_confusion', dict(n=20)), ('metrics', 'most_confused', dict(n=10)), ('metrics', 'show_confused', dict(n=10)),
    ('pipelines', 'SegmentationDataset', dict(seed=0, keep_labels=False, memory=2**28)), ('pipelines', 'EpochSampler', dict(seed=0, shuffle=True)),
    ('pipelines', 'SegmentationLoader.set_epoch', dict(cursor=0)), ('pipelines', 'SegmentationLoader.show_batch', dict(max_n=4, alpha=.6))]

def find(module, name):
    found = importlib.import_module(f'segmenter.{module}')
    for part in name.split('.'): found = getattr(found, part)
    return found

def left_out(function): return {p.name: p.default for p in inspect.signature(function).parameters.values() if p.default not in (p.empty, None)}

@pytest.mark.parametrize('module, name, meant', HERE, ids=[f'{m}.{n}' for m, n, _ in HERE])
def test_an_argument_left_out_means_what_the_pages_say(module, name, meant):
    found = left_out(find(module, name))
    assert {argument: found[argument] for argument in meant} == meant

def test_the_same_argument_means_the_same_everywhere():
    seen = set()
    for module in MODULES:
        for name in find(module, '__all__'):
            if not callable(thing := find(module, name)): continue
            for argument, value in left_out(thing).items():
                if argument in EVERYWHERE and not (argument == 'normalization' and value == ''): # the backbone's own
                    assert value == EVERYWHERE[argument], f'{module}.{name}({argument}={value!r})'
                    seen.add(argument)
    assert seen == EVERYWHERE.keys()

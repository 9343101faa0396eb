"What the Learner costs beside a bare loop."
import statistics, time
import pytest, torch
from fastai.callback.core import Callback, CancelValidException
from segmenter.bench import one_thread
from segmenter.learner import segmentation_learner
from segmenter.losses import fused_cross_entropy
from segmenter.model import create_model
from segmenter.optimizers import create_optimizer
from segmenter.datasets import load_dataset
from segmenter.pipelines import dataloaders
from segmenter.schedules import polynomial

class NoValidation(Callback):
    order = 0
    def before_validate(self): raise CancelValidException

def learner_overhead(rounds=12, steps=20):
    "Milliseconds an iteration: median of (Learner − bare loop), turn by turn, on the same batches. The processor's time of one thread: other work does not count."
    loaders = dataloaders(load_dataset('landcover', 'train'), load_dataset('landcover', 'val'), batch_size=2, crop_size=64, device='cpu')
    batches = [loaders.train.one_batch()]*steps
    make = lambda: create_model(backbone='vit_tiny_patch16_384', embed_dim=32, depth=1, n_heads=2, n_classes=17, image_size=64, decoder='linear', drop_path_rate=0.)
    loaders.loaders[0] = batches
    learn, other = segmentation_learner(loaders, make(), eval_freq=10**9, cbs=NoValidation()), make()
    sgd = create_optimizer(other)
    def bare():
        other.train()
        for t, (images, labels) in enumerate(batches):
            for group in sgd.param_groups: group['lr'] = polynomial(t, steps, 1e-3)
            loss = fused_cross_entropy(other.masks(images), labels)
            loss.backward()
            sgd.step()
            sgd.zero_grad()
    ways, seconds = dict(learner=lambda: learn.fit(1, 1e-3), bare=bare), dict(learner=[], bare=[])
    with one_thread():
        for i in range(rounds + 2):
            for name in sorted(ways, reverse=bool(i % 2)):
                began = time.process_time()
                ways[name]()
                if i > 1: seconds[name].append((time.process_time() - began)/steps)
    return 1e3*statistics.median(a - b for a, b in zip(seconds['learner'], seconds['bare'])), {name: 1e3*statistics.median(s) for name, s in seconds.items()}

@pytest.mark.slow
def test_the_learner_costs_less_than_three_milliseconds_an_iteration():
    overhead, timings = learner_overhead()
    print(f'{overhead:.2f} ms; {timings}')
    assert overhead <= 3, f'{overhead:.2f} ms; {timings}'

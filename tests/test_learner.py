"The Learner against a plain loop, and what a training loop must be able to do."
from dataclasses import replace
import numpy as np, pytest, torch
from fastai.callback.core import Callback, CancelValidException
from torch.nn import functional as F
from segmenter.datasets import load_dataset
from segmenter.learner import Scheduled, seed_everything, segmentation_learner
from segmenter.optimizers import create_optimizer
from segmenter.metrics import ConfusionMatrix
from segmenter.model import create_model
from segmenter.pipelines import dataloaders
from segmenter.schedules import Schedule

TINY = dict(backbone='vit_tiny_patch16_384', patch_size=8, embed_dim=48, depth=2, n_classes=17, image_size=64, decoder_depth=1)

@pytest.fixture(scope='module')
def tiles(): return [(d := load_dataset('landcover', split)) and replace(d, images=d.images[8:8+n], labels=d.labels[8:8+n]) for split, n in (('train', 10), ('val', 2))]

class Steps(Callback):
    "Loss and learning rate of every step."
    def before_fit(self): self.taken, self.rates = [], []
    def before_step(self):
        self.taken.append(self.loss.item())
        self.rates.append(self.opt.hypers[0]['lr'])

class NoValidation(Callback):
    "Skip the validation."
    order = 0
    def before_validate(self): raise CancelValidException

@pytest.mark.parametrize('decoder', ['linear', 'mask_transformer'])
def test_twenty_steps_equal_those_of_a_plain_loop(tiles, decoder):
    loaders = lambda: dataloaders(*tiles, batch_size=2, crop_size=64, seed=3, device='cpu')
    torch.manual_seed(0)
    model, loader, losses = create_model(**TINY, decoder=decoder), loaders().train, []
    sgd = torch.optim.SGD(model.parameters(), lr=.01, momentum=.9, nesterov=True)
    for epoch in range(4):
        seed_everything(3, epoch)
        loader.set_epoch(epoch)
        for i, (images, labels) in enumerate(loader):
            for group in sgd.param_groups: group['lr'] = (.01 - 1e-5)*(1 - (5*epoch + i)/20)**.9 + 1e-5
            loss = F.cross_entropy(model(images), labels, ignore_index=255)
            sgd.zero_grad()
            loss.backward()
            sgd.step()
            losses.append(loss.item())
    torch.manual_seed(0)
    learn = segmentation_learner(loaders(), create_model(**TINY, decoder=decoder), seed=3, eval_freq=100, cbs=Steps())
    learn.fit(4, lr=.01)
    assert len(losses) == 20
    np.testing.assert_allclose(learn.steps.taken, losses, atol=1e-6, rtol=0)
    for ours, theirs in zip(learn.model.segmenter.parameters(), model.parameters()): torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)

def test_learning_rates_are_the_golden_schedule(tiles):
    learn = segmentation_learner(dataloaders(*tiles, batch_size=2, crop_size=64, device='cpu'), create_model(**TINY), eval_freq=100, cbs=Steps())
    learn.fit(2, lr=1e-3)
    golden = [9.104373e-4, 8.198716e-4, 7.281637e-4, 6.351314e-4, 5.405279e-4, 4.439995e-4, 3.449996e-4, 2.425746e-4, 1.346336e-4]
    np.testing.assert_allclose(learn.steps.rates, [1e-3, *golden], atol=5e-11, rtol=0)
    assert learn.scheduled.schedule(10) == 1e-5

@pytest.mark.parametrize('decoder, steps', [('linear', 200), ('mask_transformer', 450)]) # cosines begin slowly
def test_one_batch_of_real_tiles_is_learned_by_heart(tiles, decoder, steps):
    for seed in range(100): # enlarged eight times, so that borders lie between patches; no class of a handful of pixels
        loaders = dataloaders(*tiles, batch_size=4, im_size=8*224, crop_size=64, scale_range=(1., 1.), seed=seed, device='cpu')
        images, labels = loaders.train.one_batch()
        counts = torch.bincount(labels[labels != 255], minlength=17)
        if (counts > 0).sum() > 3 and counts[counts > 0].min() >= 500: break
    else: raise AssertionError('no such batch')
    loaders.loaders[0] = [(images, labels)]*steps
    torch.manual_seed(0)
    model = create_model(**TINY | dict(patch_size=4, drop_path_rate=0.), decoder_dropout=0., decoder=decoder)
    segmentation_learner(loaders, model, optimizer='adamw', warmup=20, eval_freq=100, cbs=NoValidation()).fit(1, lr=3e-3)
    confusion = ConfusionMatrix(17)
    with torch.no_grad(): confusion.update(model.eval()(images).argmax(1), labels)
    assert confusion.compute().mIoU >= 95, confusion.compute()

def test_every_parameter_that_sees_a_pixel_moves(tiles):
    learn = segmentation_learner(dataloaders(*tiles, batch_size=5, crop_size=64, device='cpu'), create_model(**TINY, drop_path_rate=0.), eval_freq=100)
    before = {key: value.clone() for key, value in learn.model.segmenter.state_dict().items()}
    learn.fit(1, lr=.01)
    still = [key for key, value in learn.model.segmenter.state_dict().items() if torch.equal(value, before[key])]
    assert still == ['encoder.head.weight', 'encoder.head.bias']

def test_the_learning_rate_does_not_change_while_validating(tiles):
    learn = segmentation_learner(dataloaders(*tiles, batch_size=5, crop_size=64, device='cpu'), create_model(**TINY))
    learn.fit(1, lr=.01)
    assert learn.opt.hypers[0]['lr'] == Schedule(.01, 2)(1) and learn.evaluation.n_images == 2

@pytest.mark.parametrize('error', [ConnectionResetError(104, 'Connection reset by peer'), EOFError()])
def test_a_worker_that_dies_while_it_hands_over_a_batch_is_named(error, monkeypatch):
    from segmenter import learner
    def broken():
        yield 'a batch'
        raise error
    monkeypatch.setattr(learner.time, 'sleep', lambda _: None)
    class Fake: dl, stopping, interrupted = broken(), lambda self: False, None
    drawn = learner.SegmentationLearner._drawn(Fake())
    assert next(drawn) == 'a batch'
    with pytest.raises(RuntimeError, match='DataLoader worker died'): next(drawn)

"A decoder that learns from the kept answers of an encoder that does not."
import shutil
from collections import namedtuple
import numpy as np, pytest, torch
from fastai.callback.core import Callback
from PIL import Image
from segmenter import cached_features, cli
from segmenter.cached_features import CachedFeatures, DecoderModel, WholeImages, cache_bytes, cache_features, cached_loader, common_size, whole_loader
from segmenter.checkpoints import load_checkpoint, load_model
from segmenter.datasets import load_dataset
from segmenter.evaluate import evaluate
from segmenter.learner import MaskModel, segmentation_learner
from segmenter.model import create_model
from segmenter.pipelines import dataloaders
from segmenter.settings import TrainSettings
from segmenter.training import plan, train
from small_sets import make_stripes

TINY = dict(backbone='vit_tiny_patch16_384', patch_size=8, embed_dim=32, depth=1, decoder_depth=1)
Draw = namedtuple('Draw', 'epoch index again', defaults=[0])

@pytest.fixture(scope='module')
def tree(tmp_path_factory): return make_stripes(tmp_path_factory.mktemp('stripes'), 6, 2)

@pytest.fixture
def model():
    torch.manual_seed(0)
    return create_model(**TINY, n_classes=3, image_size=32, drop_path_rate=0.)

def asked(tree, **other):
    return dict(dataset=str(tree), **TINY, crop_size=32, im_size=48, batch_size=4, epochs=3, learning_rate=3e-3, optimizer='adamw', eval_freq=1,
                device='cpu', progress=False, drop_path=0., cache_features=True) | other

def images_of(tree, size=(48, 48), **how): return WholeImages(load_dataset(str(tree), 'train'), size, 48, 4, **how)

def test_the_masks_from_the_file_are_those_of_the_model(tree, model, tmp_path):
    images = images_of(tree, flips='both')
    features = CachedFeatures(images, cache_features(images, model, tmp_path))
    model.eval()
    for i in range(len(images)):
        pixels = torch.stack([torch.from_numpy(images.seen(i, view)['img']).permute(2, 0, 1) for view in range(4)])
        with torch.no_grad(): torch.testing.assert_close(DecoderModel(model)(torch.from_numpy(features.tokens[i].copy())), model.masks(pixels), atol=1e-6, rtol=0)

class Losses(Callback):
    def before_fit(self): self.values = []
    def after_batch(self):
        if self.training: self.values.append(self.loss.item())

@pytest.mark.parametrize('parts', [1, 2])
def test_the_curve_is_that_of_the_frozen_model_on_the_same_images(tree, tmp_path, parts):
    curves = []
    for cached in (False, True):
        torch.manual_seed(0)
        model, (data, val) = create_model(**TINY, n_classes=3, image_size=32, drop_path_rate=0.), (load_dataset(str(tree), split) for split in ('train', 'val'))
        dls = dataloaders(data, val, batch_size=4, crop_size=32, im_size=48, device='cpu')
        loader = whole_loader(data, model, batch_size=4, im_size=48, flips='both')
        dls.loaders[0] = cached_loader(loader, model, tmp_path) if cached else loader
        learn = segmentation_learner(dls, model, optimizer='adamw', weight_decay=.1, freeze=3, eval_freq=100, accumulate=parts, cbs=Losses())
        assert type(learn.model) is (DecoderModel if cached else MaskModel)
        learn.fit(3, 3e-3)
        curves.append(learn.losses.values)
    np.testing.assert_allclose(*curves, atol=1e-4, rtol=0)
    assert curves[0][-1] < curves[0][0]

def test_a_run_keeps_the_whole_model_and_its_encoder_is_the_first_one(tree, tmp_path):
    result = train(tmp_path/'run', **asked(tree))
    first = plan(TrainSettings(**{k: v for k, v in asked(tree).items() if k != 'progress'})).model
    for key, value in result.model.state_dict().items(): assert torch.equal(value, first.state_dict()[key]) == key.startswith('encoder.'), key
    found = evaluate(load_model(tmp_path/'run'), load_dataset(str(tree), 'val'), progress=False).scores.mIoU
    assert round(found, 2) == result.records[-1]['val_mean_iou'] and not (tmp_path/'run'/'features').exists()
    setup = load_checkpoint(tmp_path/'run'/'checkpoint.pth')['segmenter_state']['setup']
    assert (setup['cache_features'], setup['freeze'], setup['scale_range'], setup['photometric']) == (True, 3, [1., 1.], False)

@pytest.mark.parametrize('lost', [False, True])
def test_a_run_continues_bit_for_bit_with_its_features_or_with_new_ones(tree, tmp_path, lost):
    class PowerCut(Callback):
        def before_batch(self):
            if self.training and self.scheduled.iteration == 3: raise RuntimeError('power cut')
    settings = asked(tree, ema=.9, flips='both', checkpoint_every=1, rare_class_sampling=.5)
    whole = train(tmp_path/'whole', **settings)
    with pytest.raises(RuntimeError, match='power cut'): train(tmp_path/'broken', cbs=PowerCut(), **settings)
    assert (tmp_path/'broken'/'features'/'tokens.npy').exists()
    if lost: shutil.rmtree(tmp_path/'broken'/'features')
    again = train(tmp_path/'broken', **settings)
    assert again.records == whole.records and again.curve == whole.curve
    one, two = (load_checkpoint(tmp_path/name/'checkpoint.pth')['segmenter_state']['trained'] for name in ('whole', 'broken'))
    assert all(torch.equal(a, b) for a, b in zip(one.values(), two.values()))
    assert train(tmp_path/'broken', **settings).epochs_before == 3 and not (tmp_path/'broken'/'features').exists()

@pytest.mark.parametrize('wrong, says', [(dict(drop_path=.1), 'drop_path 0.1 cannot act; give drop_path 0'), (dict(dropout=.1), 'dropout 0.1 cannot act'), (dict(freeze=2), 'freeze 2 of 3 epochs'),
    (dict(scale_range=(.8, 1.2)), 'at one scale'), (dict(grad_checkpointing=True), 'grad_checkpointing')])
def test_what_contradicts_caching_is_refused_in_one_line_before_anything_is_written(tree, tmp_path, wrong, says):
    with pytest.raises(ValueError, match=says) as e: train(tmp_path/'run', **asked(tree, **wrong))
    assert '\n' not in str(e.value) and not (tmp_path/'run').exists()

def test_the_command_refuses_in_one_line_too(tree, tmp_path, capsys):
    words = ['--dataset', str(tree), '--cache-features', '--epochs', '1', '--device', 'cpu']
    assert cli.main(['train', '--log-dir', str(tmp_path/'run'), *words]) == 2
    assert 'give drop_path 0' in (said := capsys.readouterr().err) and said.count('\n') == 1

def test_a_disk_without_room_is_said_before_the_first_image(tree, model, tmp_path, monkeypatch):
    monkeypatch.setattr(cached_features, '_compute', lambda *_: pytest.fail('too late'))
    monkeypatch.setattr(shutil, 'disk_usage', lambda _: namedtuple('Usage', 'free')(1000))
    with pytest.raises(ValueError, match=r'features of 6 images in 2 views take 0.00 GB.*smaller im_size'): cache_features(images_of(tree), model, tmp_path)
    assert not list(tmp_path.iterdir())

def test_features_of_other_weights_images_sizes_or_views_are_not_taken(tree, model, tmp_path, monkeypatch):
    made, compute = [], cached_features._compute
    monkeypatch.setattr(cached_features, '_compute', lambda *args: made.append(1) or compute(*args))
    images = images_of(tree)
    for _ in range(2): cache_features(images, model, tmp_path)
    assert len(made) == 1
    for other in (images_of(tree, flips='none'), images_of(tree, (48, 56)), images_of(tree, normalization='deit')): cache_features(other, model, tmp_path)
    model.encoder.norm.bias.data += 1
    cache_features(other, model, tmp_path)
    assert len(made) == 5

def test_images_of_several_sizes_share_one_and_padding_is_void(tmp_path, model):
    tree = make_stripes(tmp_path/'mixed', 2, 1)
    for part in 'images', 'annotations': Image.open(tree/part/'train'/'1.png').resize((96, 48)).save(tree/part/'train'/'1.png')
    data = load_dataset(str(tree), 'train')
    assert common_size(data, 30, 4, 8) == (32, 64) # 30x60 padded to patches
    loader = whole_loader(data, model, batch_size=2, im_size=30, flips='none')
    x, y = loader.one_batch()
    narrow = list(loader.order.order()).index(0)
    assert x.shape[-2:] == y.shape[-2:] == (32, 64) and (y[narrow, :, 30:] == 255).all() and not x[narrow, :, :, 30:].any() and (y[:, :30, :30] != 255).all()
    tokens, labels = cached_loader(loader, model, tmp_path).one_batch()
    assert tokens.shape == (2, 4, 8, 32) and torch.equal(labels, y)

def test_the_size_on_disk_is_the_one_that_was_said(tree, model, tmp_path):
    images = images_of(tree, flips='both')
    place = cache_features(images, model, tmp_path)
    assert sum(np.load(f).nbytes for f in place.glob('*.npy')) == cache_bytes(images, model)

def test_every_view_is_drawn_and_an_epoch_can_be_had_again(tree):
    images = images_of(tree, flips='both', seed=3)
    draws = [[images.view(Draw(epoch, i)) for i in range(6)] for epoch in range(12)]
    assert {v for row in draws for v in row} == {0, 1, 2, 3} and draws == [[images.view(Draw(epoch, i)) for i in range(6)] for epoch in range(12)]
    assert images.view(Draw(0, 0, 1)) in range(4)

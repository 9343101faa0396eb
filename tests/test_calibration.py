"Calibration against the definitions, sklearn and torch's own optimiser."
import numpy as np
import pytest
import torch
from dataclasses import replace
from importlib import import_module
from segmenter.calibration import Calibration, _Sample, calibrate, fit_temperature, probability_strips, scaled, show_reliability
from segmenter.patches import SCENE_CLASSES, scene
from segmenter.predict import make_views, protocol_for
from segmenter.windows import PatchColours, sliding_probabilities

def drawn(n=4000, k=5, sharpness=2., seed=0):
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(k, n, generator=g)
    return (sharpness*logits).softmax(0), torch.multinomial(logits.softmax(0).T, 1, generator=g)[:, 0].numpy()

def by_loop(p, y, n_bins):
    "ECE and its parts, pixel by pixel."
    bins = [[] for _ in range(n_bins)]
    for column, label in zip(p.numpy().T, y):
        sure = column.max()
        bins[min(max(int(np.ceil(np.float32(sure)*np.float32(n_bins))), 1), n_bins) - 1].append((sure, column.argmax() == label))
    gaps = [abs(np.mean([s for s, _ in b]) - np.mean([r for _, r in b])) if b else 0 for b in bins]
    return 100*sum(len(b)*g for b, g in zip(bins, gaps))/len(y), 100*max(gaps), [len(b) for b in bins]

@pytest.mark.parametrize('n_bins', [1, 10, 15])
def test_errors_equal_the_definition_by_a_loop(n_bins):
    p, y = drawn()
    found = Calibration(n_bins).update(p, y).compute()
    ece, mce, pixels = by_loop(p, y, n_bins)
    assert found.ece == pytest.approx(ece, abs=1e-4) and found.mce == pytest.approx(mce, abs=1e-4) and found.pixels.tolist() == pixels
    assert found.nll == pytest.approx(torch.nn.functional.nll_loss(p.log().T, torch.from_numpy(y)).item(), abs=1e-5)

def test_the_reliability_curve_is_sklearns():
    curve = pytest.importorskip('sklearn.calibration').calibration_curve
    rng = np.random.default_rng(0)
    sure = rng.uniform(.5, 1, 3000)
    right = rng.random(3000) < sure**2
    found = Calibration(10).update(np.stack([sure, 1 - sure]).astype(np.float32), 1 - right.astype(int)).compute()
    accuracy, confidence = curve(right, sure.astype(np.float32), n_bins=10)
    np.testing.assert_allclose(found.accuracy[found.pixels > 0], accuracy)
    np.testing.assert_allclose(found.confidence[found.pixels > 0], confidence, atol=1e-6)

def test_sums_do_not_depend_on_order_or_on_parts():
    p, y = drawn()
    whole, order = Calibration().update(p, y), np.random.default_rng(0).permutation(len(y))
    parts = [Calibration().update(p[:, part], y[part.numpy()]) for part in torch.from_numpy(order).split(333)]
    total = Calibration()
    for part in parts: total.merge(part)
    assert torch.equal(total.counts, whole.counts)

def test_void_pixels_do_not_count_and_none_is_nan(recwarn):
    p, y = drawn(100)
    with_void = np.r_[y, np.full(100, 255)]
    assert torch.equal(Calibration().update(torch.cat([p, p], 1), with_void).counts, Calibration().update(p, y).counts)
    empty = Calibration().update(p, np.full(100, 255)).compute()
    assert np.isnan([empty.ece, empty.mce, empty.nll]).all() and not recwarn.list

@pytest.mark.parametrize('sharpness', [.5, 1., 3.])
def test_the_temperature_is_the_one_an_optimiser_finds(sharpness):
    p, y = drawn(sharpness=sharpness)
    z, beta, target = p.double().log(), torch.ones((), dtype=torch.double, requires_grad=True), torch.from_numpy(y)
    optimiser = torch.optim.LBFGS([beta], max_iter=100, tolerance_grad=1e-12)
    def closure():
        optimiser.zero_grad()
        loss = torch.nn.functional.cross_entropy((beta*z).T, target)
        loss.backward()
        return loss
    for _ in range(5): optimiser.step(closure)
    assert fit_temperature(p, y) == pytest.approx(1/beta.item(), rel=1e-4)

def test_temperature_keeps_the_order_and_undoes_itself():
    p, _ = drawn(500)
    for t in (.7, 1., 4.):
        assert torch.equal(scaled(p, t).argsort(0), p.argsort(0))
        torch.testing.assert_close(scaled(scaled(p, t), 1/t), p, atol=1e-4, rtol=1e-3)
    with pytest.raises(ValueError, match='above 0'): scaled(p, -1)
    with pytest.raises(ValueError, match='no labelled pixel'): fit_temperature(p[:, :0], [])

@pytest.fixture(scope='module')
def model(): return PatchColours(*scene(60, 90), SCENE_CLASSES, patch_size=4, window_size=32, window_stride=20, im_size=48)

@pytest.mark.parametrize('multi_scale', [False, True])
@pytest.mark.parametrize('rows', [1, 7, 16, 500])
def test_strips_are_the_step_by_step_probabilities(model, multi_scale, rows):
    image, p = scene(53, 80)[0], protocol_for(model, multi_scale=multi_scale)
    views, flips = make_views(image, p)
    whole = sliding_probabilities(model, views, flips, image.shape[:2], 32, 20)
    strips = list(probability_strips(model, image, p, rows=rows))
    assert [y for y, _ in strips] == list(range(0, 53, rows)) and all(s.shape[1] <= rows for _, s in strips)
    torch.testing.assert_close(torch.cat([s for _, s in strips], 1), whole, atol=1e-5, rtol=1e-4)

def test_strips_work_for_a_transformer_whose_patches_do_not_divide_the_window():
    from segmenter import create_model
    net = create_model(backbone='vit_tiny_patch16_384', n_classes=4, image_size=32, embed_dim=64, depth=1, n_heads=1, decoder='mask_transformer').eval()
    image, p = scene(50, 70)[0], replace(protocol_for(net), window_size=40, window_stride=24, im_size=45)
    views, flips = make_views(image, p)
    whole = sliding_probabilities(net, views, flips, image.shape[:2], 40, 24)
    torch.testing.assert_close(torch.cat([s for _, s in probability_strips(net, image, p)], 1), whole, atol=1e-5, rtol=1e-4)

def test_a_sample_does_not_depend_on_how_the_stream_is_cut():
    keys, p, y = np.random.default_rng(0).random(4000), *drawn()
    kept = []
    for parts in (1, 7, 400):
        sample = _Sample(50)
        for part in np.array_split(np.arange(4000), parts): sample.add(keys[part], p[:, torch.from_numpy(part)], y[part])
        kept.append(sample)
    for other in kept[1:]: assert np.array_equal(kept[0].labels, other.labels) and torch.equal(kept[0].columns, other.columns)
    assert np.array_equal(np.sort(keys)[:50], kept[0].keys)

@pytest.fixture
def folder(tmp_path):
    from PIL import Image
    from segmenter.datasets import load_dataset
    for part in 'images', 'annotations': (tmp_path/part/'val').mkdir(parents=True)
    for i in range(4):
        image, labels = scene(48, 64)
        labels[:4] = 255
        noisy = np.clip(image + np.random.default_rng(i).normal(0, 40, image.shape), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(tmp_path/f'images/val/{i}.png')
        Image.fromarray(labels.astype(np.uint8)).save(tmp_path/f'annotations/val/{i}.png')
    (tmp_path/'classes.txt').write_text('\n'.join(SCENE_CLASSES))
    return load_dataset(tmp_path, 'val')

def test_a_model_is_fitted_on_one_half_and_measured_on_the_other(model, folder):
    found = calibrate(model, folder)
    assert (found.fit_images, found.n_images) == (2, 2) and found.before.pixels.sum() == found.after.pixels.sum() == 2*44*64
    assert found.after.nll <= found.before.nll + 1e-3 and calibrate(model, folder).temperature == found.temperature
    with pytest.raises(ValueError, match='at least 2'): calibrate(model, folder, images=[1])

def test_a_model_in_training_is_measured_in_evaluation_and_left_as_it_was(model, folder):
    model.train()
    calibrate(model, folder)
    assert model.training
    model.eval()

def test_calibration_runs_in_the_precision_of_the_evaluation(model, folder, monkeypatch):
    module = import_module('segmenter.predict') # the package's front door has a function of that name
    with pytest.raises(ValueError, match="'bf16' is for a GPU"): calibrate(model, folder, precision='bf16')
    asked, quicker = [], module.Quicker
    monkeypatch.setattr(module, 'Quicker', lambda model, precision, compile: asked.append((precision, compile)) or quicker(model, precision))
    monkeypatch.setattr(module._Careful, '__init__', lambda self, model, precision=None, compile=False: self.__dict__.update(
        device=torch.device('cpu'), model=model, quick=module.Quicker(model, precision, compile), patch_size=model.patch_size))
    half, whole = calibrate(model, folder, precision='bf16', compile=True), calibrate(model, folder)
    assert asked == [('bf16', True)]*4 + [(None, False)]*4 and half.n_images == whole.n_images

def test_the_command_hands_the_precision_on_to_the_calibration(model, folder, monkeypatch, tmp_path):
    from segmenter import measuring
    evaluation, calibration = (import_module(f'segmenter.{name}') for name in ('evaluate', 'calibration'))
    given, real = {}, evaluation.evaluate
    monkeypatch.setattr(evaluation, 'evaluate', lambda *a, precision, compile, **k: real(*a, **k, progress=False))
    monkeypatch.setattr(calibration, 'calibrate', lambda *a, **k: given.update(k))
    measuring._measure(model, folder, tmp_path/'scores', 0, {}, True, False, {}, protocol='published', multi_scale=False, window_batch=3, precision='bf16', compile=True)
    assert (given['precision'], given['compile'], given['window_batch']) == ('bf16', True, 3)

def test_the_picture_is_drawn_without_a_screen():
    import matplotlib
    matplotlib.use('Agg')
    assert len(show_reliability(dict(a=Calibration().update(*drawn()).compute())).axes) == 1

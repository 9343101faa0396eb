import random
import numpy as np
import pytest
import torch
from golden import close_to, digits, golden_input, golden_model
from step_by_step import Patchwork, step_by_step
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from segmenter import windows
from segmenter.merge import sliding_labels
from segmenter.patches import SCENE_CLASSES, scene
from segmenter.windows import (PatchColours, _check_enlargement, _logits, _mosaic, axis_operator, enlarge_to_window, enlarged_size,
                               sliding_probabilities, surviving_classes, window_anchors)

GOLDEN = dict(
    G=((70, 100), (False,), (91, 130), (0.2, 0.112613, 0.042432, 0.042432, 0.035763, 0.175753, 0.290366), [704, 201, 1153, 2547, 7225]),
    H=((70, 100), (False, True), (91, 130), (0.2, 0.089669, 0.053188, 0.053188, 0.035182, 0.181684, 0.422162), [317, 547, 1652, 1895, 7419]),
    I=((40, 50), (False,), (40, 50), (0.2, 0.134073, 0.244485, 0.244485, 0.118295, 0.067237, 0.186115), [208, 134, 262, 693, 703]))

def golden_case(size, flips):
    view = golden_input(1, 3, *size)
    return golden_model(), [view.flip(-1) if flip else view for flip in flips], flips

@pytest.mark.parametrize('case', GOLDEN)
def test_sliding_probabilities_hit_the_golden_digits(case):
    size, flips, out_size, numbers, counts = GOLDEN[case]
    found, votes = digits(sliding_probabilities(*golden_case(size, flips), out_size, 64, 48))
    close_to(found, numbers, 2e-5)
    assert votes == counts

@pytest.mark.parametrize('case', GOLDEN)
def test_sliding_labels_vote_as_the_golden_cases_do(case):
    size, flips, out_size, _, counts = GOLDEN[case]
    labels = sliding_labels(*golden_case(size, flips), out_size, 64, 48)
    assert torch.bincount(labels.flatten(), minlength=5).tolist() == counts

def drawn_case(seed):
    "An odd size, window, stride, answer, set of views and number of classes, from one seed."
    rng = random.Random(seed)
    patch = rng.choice([4, 8, 16])
    window = rng.randint(2*patch, 5*patch)
    stride = rng.randint(max(1, window//3), window)
    size = lambda: (rng.randint(window//2, 4*window), rng.randint(window//2, 4*window))
    n_views = rng.choice([1, 1, 1, 2, 3])
    shapes = [size() for _ in range(n_views)]
    out_size = rng.choice([shapes[0], (rng.randint(30, 260), rng.randint(30, 260))])
    views = [torch.randn(1, 3, *shape, generator=torch.Generator().manual_seed(seed + i)) for i, shape in enumerate(shapes)]
    flips = [rng.random() < .5 for _ in views]
    n_classes = (2, 3, 5, 19, 60, 150)[seed % 6]
    return Patchwork(n_classes, patch, seed), views, flips, out_size, window, stride, rng.randint(1, 7), (rng.randint(8, 90), rng.randint(8, 300))

def compare(seed):
    "Pixels, and how many of them differ although the two best classes are not tied to 1e-5."
    model, views, flips, out_size, window, stride, batch, tile = drawn_case(seed)
    direct = step_by_step(model, views, flips, out_size, window, stride)
    labels = sliding_labels(model, views, flips, out_size, window, stride, batch, tile=tile).long()
    differ = labels != direct.argmax(0)
    chosen = direct.gather(0, labels[None])[0]
    return differ.numel(), int(differ.sum()), int((differ & (direct.amax(0) - chosen > 1e-5)).sum())

def test_sliding_labels_equal_the_step_by_step_argmax_over_sizes_strides_flips_views_and_classes():
    pixels, differing, unexplained = (sum(v) for v in zip(*map(compare, range(96))))
    assert unexplained == 0
    assert pixels > 1_000_000 and differing <= 1e-5*pixels, f'{differing} of {pixels} pixels differ'

def test_the_drawn_cases_cover_what_the_claim_names():
    cases = [drawn_case(seed) for seed in range(96)]
    assert {c[0].filters.shape[0] for c in cases} == {2, 3, 5, 19, 60, 150}
    assert {len(c[1]) for c in cases} == {1, 2, 3}
    assert any(min(v.shape[-2:]) < c[4] for c in cases for v in c[1]) and any(any(c[2]) for c in cases)
    assert any(c[4] % c[0].patch_size for c in cases) and any(c[3] != c[1][0].shape[-2:] for c in cases)

@pytest.mark.parametrize('seed', range(6))
def test_sliding_probabilities_equal_the_step_by_step_ones(seed):
    model, views, flips, out_size, window, stride, batch, _ = drawn_case(seed)
    torch.testing.assert_close(sliding_probabilities(model, views, flips, out_size, window, stride, batch),
                               step_by_step(model, views, flips, out_size, window, stride), rtol=0, atol=2e-6)

TILES = [(1, 1000), (7, 5), (16, 32), (1000, 1000)]

class Whole(Patchwork):
    "Masks that are small whole numbers: with dyadic weights every sum of the merge is then exact, in any order."
    def masks(self, images): return (4*super().masks(images)).round()

@pytest.mark.parametrize('seed', range(4))
@pytest.mark.parametrize('tile', TILES)
def test_the_size_of_a_tile_changes_nothing_where_sums_are_exact(tile, seed):
    view = [torch.randn(1, 3, 72, 88, generator=torch.Generator().manual_seed(seed))]
    args = (Whole(12, 8, seed), view, [False], (72, 88), 32, 24) # no pixel is covered thrice along an axis: counts are 1 and 2
    assert torch.equal(sliding_labels(*args, tile=tile), sliding_labels(*args))

class Tied(Patchwork):
    "Every class is the first, but for the last bit."
    def masks(self, images):
        masks = super().masks(images)
        last_bit = torch.randint(-1, 2, masks.shape, generator=torch.Generator().manual_seed(0))*torch.finfo(masks.dtype).eps
        return masks[:, :1]*(1 + last_bit)

@pytest.mark.parametrize('kind', [Patchwork, Tied])
def test_the_size_of_a_tile_changes_only_ties_in_the_last_bits(kind):
    "BLAS blocks a product of another shape otherwise and rounds its sums in another order, so two classes that agree to the last bits may change places."
    differing = pixels = 0
    for seed in range(8):
        model, view = kind(12, 8, seed), torch.randn(1, 3, 41, 53, generator=torch.Generator().manual_seed(seed))
        args = (model, [view], [False], (61, 47), 24, 17)
        rows, cols = (axis_operator(n, out, 24, 17, 8).double() for n, out in zip((41, 53), (61, 47)))
        exact = rows @ _mosaic(model, view, 24, 17).movedim(1, 0).double() @ cols.T
        usual, tied = sliding_labels(*args).long(), 16*torch.finfo(torch.float32).eps*exact.abs().max()
        for tile in TILES:
            labels = sliding_labels(*args, tile=tile).long()
            at = labels != usual
            gap = (exact.gather(0, labels[None]) - exact.gather(0, usual[None]))[0].abs()
            assert gap[at].le(tied).all()
            differing, pixels = differing + int(at.sum()), pixels + at.numel()
    assert differing <= 1e-4*pixels if kind is Patchwork else differing

class LargestTensor(TorchDispatchMode):
    "The largest number of elements any operation returned."
    def __init__(self): super().__init__(); self.numel = 0
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.numel = max([self.numel] + [t.untyped_storage().nbytes()//t.element_size() for t in tree_leaves(out) if isinstance(t, torch.Tensor)])
        return out

@pytest.mark.parametrize('flips', [(False,), (False, True, False)])
def test_sliding_labels_never_hold_all_classes_at_all_pixels(flips):
    n_classes, size = 60, (300, 400)
    args = (Patchwork(n_classes, 16), [torch.randn(1, 3, *size) for _ in flips], flips, size, 64, 64)
    with LargestTensor() as ours: sliding_labels(*args, tile=(32, 128))
    with LargestTensor() as whole: sliding_probabilities(*args)
    assert whole.numel >= n_classes*size[0]*size[1]
    assert ours.numel < n_classes*size[0]*size[1]/15

def test_memory_follows_the_tile_and_not_the_height_of_the_image():
    largest = []
    for height in (128, 512):
        args = (Patchwork(150, 16), [torch.randn(1, 3, height, 128)], [False], (height, 128), 64, 64)
        with LargestTensor() as used: sliding_labels(*args, tile=(64, 128))
        largest.append(used.numel)
    assert largest[0] == largest[1] == 150*64*128

@pytest.mark.parametrize('kind', ['noise', 'smooth', 'constant', 'tied'])
def test_no_dropped_class_wins_a_pixel(kind):
    torch.manual_seed(0)
    masks = dict(noise=torch.randn(40, 6, 9), smooth=torch.nn.functional.interpolate(torch.randn(1, 40, 2, 2), (6, 9), mode='bilinear')[0],
                 constant=torch.randn(40, 1, 1).expand(40, 6, 9), tied=torch.zeros(40, 6, 9))[kind]
    rows, cols = axis_operator(48, 48, 48, 48, 8), axis_operator(72, 72, 72, 72, 8)
    winners = (rows @ masks @ cols.T).argmax(0).unique()
    survivors = surviving_classes(masks)
    assert torch.isin(winners, survivors).all()
    assert len(survivors) == dict(noise=40, constant=1, tied=40).get(kind, len(survivors))

def test_labels_are_stored_in_the_smallest_type_that_holds_them():
    found = [sliding_labels(Patchwork(k, 8), [torch.randn(1, 3, 16, 16)], [False], (16, 16), 16, 16) for k in (2, 256, 257)]
    assert [f.dtype for f in found] == [torch.uint8, torch.uint8, torch.int16]

def test_an_undefined_logit_does_not_stop_the_merge():
    class Broken(Patchwork):
        def masks(self, images): return super().masks(images)*float('nan')
    assert sliding_labels(Broken(4, 8), [torch.randn(1, 3, 20, 20)], [False], (20, 20), 16, 16).shape == (20, 20)

def test_the_merge_stays_in_float32_under_autocast():
    model, view = Patchwork(19, 8), [torch.randn(1, 3, 60, 70)]
    expected = sliding_labels(model, view, [False], (60, 70), 32, 20)
    class Half(Patchwork):
        def masks(self, images):
            with torch.autocast('cpu', enabled=False): return super().masks(images)
    with torch.autocast('cpu', dtype=torch.bfloat16): found = sliding_labels(Half(19, 8), view, [False], (60, 70), 32, 20)
    assert torch.equal(found, expected)

def test_progress_counts_up_to_its_total_once():
    seen = []
    sliding_labels(Patchwork(3, 8), [torch.randn(1, 3, 50, 60)]*2, [False, True], (50, 60), 24, 24, 4, tile=(16, 64), progress=lambda *a: seen.append(a))
    done, totals = zip(*seen)
    assert set(totals) == {2*9 + 4} and done[-1] == totals[0] and list(done) == sorted(set(done))

def test_progress_counts_rows_of_64_pixels_when_no_tile_is_named():
    seen = []
    labels = sliding_labels(Patchwork(3, 8), [torch.randn(1, 3, 129, 24)], [False], (129, 24), 24, 24, progress=lambda *a: seen.append(a))
    assert seen[-1] == (6 + 3, 6 + 3) and len(seen) == 2 + 3 and labels.shape == (129, 24) # two batches of windows

def test_windows_are_passed_in_the_batches_asked_for():
    model = Patchwork(3, 8)
    sliding_labels(model, [torch.randn(1, 3, 50, 60)], [False], (50, 60), 24, 24, 4)
    assert model.calls == 3

@pytest.mark.parametrize('length, window, stride, expected', [
    (683, 512, 512, [0, 171]), (1025, 512, 512, [0, 512, 513]), (2048, 768, 512, [0, 512, 1024, 1280]),
    (2048, 768, 736, [0, 736, 1280]), (1024, 768, 512, [0, 256]), (512, 512, 512, [0])])
def test_anchors_are_those_of_the_authors(length, window, stride, expected):
    assert window_anchors(length, window, stride) == expected

def test_enlarging_keeps_large_views_and_truncates_the_long_side():
    large = torch.rand(1, 3, 64, 70)
    assert enlarge_to_window(large, 64) is large
    assert enlarge_to_window(torch.rand(1, 3, 40, 51), 64).shape[-2:] == (64, 81)
    assert enlarge_to_window(torch.rand(1, 3, 51, 40), 64).shape[-2:] == (81, 64)

def test_windows_may_move_by_one_pixel(): assert window_anchors(6, 4, 1) == [0, 1, 2]

def test_a_view_with_the_short_side_of_the_window_keeps_its_size():
    lossy = [w for w in range(50, 500) if int(w/49*49) != w] # the truncated product would take a pixel from these
    assert lossy and all(enlarged_size(49, w, 49) == (49, w) and enlarged_size(w, 49, 49) == (w, 49) for w in lossy)

def test_views_are_enlarged_up_to_2_to_the_26_pixels_or_64_times_their_area():
    _check_enlargement(1, 64, 1024) # 2**26 pixels from 64
    _check_enlargement(2**21, 1, 8) # 64 times as many
    for height, width, window in (1, 65, 1024), (31, 40000, 249): # 65 * 2**20 pixels; 64.5 times as many
        with pytest.raises(ValueError, match=f'a view of {width}×{height} pixels would become'): _check_enlargement(height, width, window)
    with pytest.raises(ValueError, match='a view of 1×4 pixels'): enlarge_to_window(torch.zeros(1, 3, 4, 1), 4097)

class Few(Patchwork):
    "Only the first three classes have a chance."
    def masks(self, images):
        masks = super().masks(images)
        masks[:, 3:] -= 1000
        return masks

def enlarged_classes(monkeypatch, model, flips):
    "How many classes were enlarged in each tile and view."
    found, size = [], (40, 50)
    monkeypatch.setattr(windows, '_logits', lambda support, *axes: found.append(support.shape[1]) or _logits(support, *axes))
    views = [torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(i)) for i in range(len(flips))]
    labels = sliding_labels(model, views, flips, size, 24, 20)
    assert torch.equal(labels.long(), step_by_step(model, views, flips, size, 24, 20).argmax(0))
    return set(found)

def test_of_one_view_only_classes_that_may_win_are_enlarged(monkeypatch):
    assert enlarged_classes(monkeypatch, Few(9, 8), [False]) == {3}
    assert enlarged_classes(monkeypatch, Patchwork(3, 8), [False]) == {3}

def test_a_tile_with_a_sure_class_is_not_enlarged_at_all(monkeypatch):
    class Sure(Patchwork):
        def masks(self, images): return super().masks(images) + 1000.*(torch.arange(5) == 3)[:, None, None]
    assert enlarged_classes(monkeypatch, Sure(5, 8), [False]) == enlarged_classes(monkeypatch, Sure(5, 8), [False, True]) == set()
    assert enlarged_classes(monkeypatch, Patchwork(5, 8), [False, True]) == {5}

@pytest.mark.parametrize('rows, height, columns, width', [(3, 40, 4, 9), (3, 9, 4, 40), (12, 3, 5, 30), (5, 30, 12, 3), (6, 6, 6, 6), (2, 50, 30, 31)])
def test_the_cheaper_of_the_two_orders_is_taken(rows, height, columns, width):
    support, a, b = torch.randn(rows, 7, columns), torch.randn(height, rows), torch.randn(width, columns)
    with FlopCounterMode(display=False) as counter: found = _logits(support, (None, a), (None, b))
    torch.testing.assert_close(found, torch.einsum('hr,rkc,wc->hkw', a, support, b))
    columns_first, rows_first = 7*rows*width*(columns + height), 7*height*columns*(rows + width)
    assert counter.get_total_flops() == 2*min(columns_first, rows_first)

def test_the_stand_in_knows_the_colours_of_its_example():
    image, truth = scene(96, 144)
    model = PatchColours(image, truth, [*SCENE_CLASSES, 'never seen'])
    pixels = torch.from_numpy(image.reshape(-1, 3)/127.5 - 1).float()
    for k in np.unique(truth):
        own = pixels[truth.ravel() == k]
        torch.testing.assert_close(model.mean[k], own.mean(0), rtol=0, atol=1e-4)
        torch.testing.assert_close(model.var[k], own.var(0, correction=0) + .01, rtol=0, atol=1e-3)
    assert model.config.palette is None and PatchColours(image, truth, SCENE_CLASSES, np.uint8([[1, 2, 3]]*len(SCENE_CLASSES))).config.palette[0] == [1, 2, 3]
    alone = PatchColours(np.uint8([[[0, 51, 255]]]), np.uint8([[1]]), ['none', 'one']) # a class of one pixel
    torch.testing.assert_close(alone.mean[1], torch.tensor([-1, -.6, 1]))
    config = model.config
    assert (config.im_size, config.window_size, config.window_stride, config.n_classes) == (256, 64, 48, len(SCENE_CLASSES) + 1)
    assert model.patch_size == 8 and not (model.masks(pixels.T.reshape(1, 3, 96, 144)).argmax(1) == len(SCENE_CLASSES)).any()

@pytest.mark.parametrize('change, says', [
    (dict(window_stride=17), 'leave gaps'), (dict(window_stride=0), 'leave gaps'), (dict(flips=[]), 'one flag for each'),
    (dict(views=[torch.zeros(3, 20, 20)]), 'expected one image'), (dict(out_size=(0, 5)), 'at least 1')])
@pytest.mark.parametrize('slide', [sliding_labels, sliding_probabilities])
def test_impossible_requests_are_refused_in_one_line(slide, change, says):
    args = dict(model=Patchwork(3, 8), views=[torch.zeros(1, 3, 20, 20)], flips=[False], out_size=(20, 20), window_size=16, window_stride=16)
    with pytest.raises(ValueError, match=says) as caught: slide(**(args | change))
    assert '\n' not in str(caught.value)

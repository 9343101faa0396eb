import weakref
import pytest
import torch
from hypothesis import given, settings, strategies as st
from step_by_step import Patchwork, step_by_step
from segmenter.merge import Quicker, _label_dtype, _tile_size, slide, sliding_labels
from segmenter.windows import _first_best, _strip, _sure_class, axis_operator, linear_weights, sliding_probabilities

side = st.integers(1, 150)

@st.composite
def requests(draw):
    "A network, views, flips, size of the answer, window, stride, batch and tile."
    patch = draw(st.sampled_from([4, 8, 16]))
    window = draw(st.integers(patch, 4*patch))
    stride = draw(st.integers(max(1, window//3), window))
    sides = st.integers(max(1, window//3), min(120, window + 3*stride))
    shapes = draw(st.lists(st.tuples(sides, sides), min_size=1, max_size=3))
    seed, smooth = draw(st.integers(0, 2**16)), draw(st.booleans())
    rng = torch.Generator().manual_seed(seed)
    views = [torch.randn(1, 3, *shape, generator=rng) for shape in shapes]
    if smooth: views = [torch.nn.functional.interpolate(v[..., ::40, ::40], v.shape[-2:]) for v in views]
    flips = [draw(st.booleans()) for _ in views]
    n_classes = draw(st.sampled_from([1, 2, 3, 7, 19, 60, 150]))
    tile = draw(st.none() | st.tuples(st.integers(1, 90), st.integers(1, 200)))
    return Patchwork(n_classes, patch, seed), views, flips, draw(st.tuples(side, side)), window, stride, draw(st.integers(1, 9)), tile

seen = dict(pixels=0, differing=0)

def compare(request_):
    model, views, flips, out_size, window, stride, batch, tile = request_
    direct = step_by_step(model, views, flips, out_size, window, stride)
    labels = sliding_labels(model, views, flips, out_size, window, stride, batch, tile=tile).long()
    differ = labels != direct.argmax(0)
    gap = direct.amax(0) - direct.gather(0, labels[None])[0]
    assert labels.shape == out_size and not (differ & (gap > 1e-5)).any()
    seen['pixels'] += differ.numel()
    seen['differing'] += int(differ.sum())

@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(requests())
def test_labels_are_those_of_the_step_by_step_way_whatever_is_asked(request_): compare(request_)

@pytest.mark.slow
@settings(max_examples=1000, deadline=None, database=None)
@given(requests())
def test_a_thousand_more_requests_give_the_step_by_step_labels(request_): compare(request_)

def test_summed_over_all_drawn_cases_the_labels_agree():
    if not seen['pixels']: pytest.skip('the drawn cases did not run')
    assert seen['differing'] <= max(1, 1e-5*seen['pixels']), seen

@pytest.mark.parametrize('n_classes', [1, 2, 11, 19, 60, 150, 1000, 9000, 10**6])
@pytest.mark.parametrize('device, numbers', [('cpu', 600_000), ('cuda', 2**25)])
def test_a_tile_is_wide_and_holds_so_many_numbers(device, numbers, n_classes):
    height, width = _tile_size(n_classes, torch.device(device))
    assert height >= 16 and width >= 64 and width % 32 == 0
    if (height, width) == (16, 64): assert 16*64*n_classes > numbers # the least, however many classes
    elif height == 16: assert 15*width*n_classes <= numbers
    else: assert numbers - width*n_classes < height*width*n_classes <= numbers # a row more would be too many
    if width > 64: assert width*width <= 4*numbers//n_classes < (width + 32)**2 # four times as wide as high

def test_each_number_of_classes_has_its_type():
    assert [_label_dtype(k) for k in (1, 256, 257, 2**15, 2**15 + 1)] == [torch.uint8]*2 + [torch.int16]*2 + [torch.int64]

@pytest.mark.parametrize('flips', [[False], [False, True]])
def test_some_rows_of_the_labels_and_the_confidence_are_parts_of_the_whole(flips):
    views = [torch.randn(1, 3, 50, 70, generator=torch.Generator().manual_seed(i)) for i in range(len(flips))]
    [merged] = slide(Patchwork(5, 8), [(views, flips, (61, 45))], 24, 20)
    whole, rows = merged.labels(), []
    assert torch.equal(merged.labels((13, 40), tile=(9, 64), advance=rows.append), whole[13:40]) and rows == [1]*3
    torch.testing.assert_close(merged.confidence(), step_by_step(Patchwork(5, 8), views, flips, (61, 45), 24, 20).amax(0), rtol=0, atol=2e-6)

@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(requests(), st.data())
def test_probabilities_of_any_rows_and_classes_are_those_of_the_whole(request_, data):
    model, views, flips, out_size, window, stride, batch, _ = request_
    direct = step_by_step(model, views, flips, out_size, window, stride)
    [merged] = slide(model, [(views, flips, out_size)], window, stride, batch)
    first = data.draw(st.integers(0, out_size[0] - 1))
    last = data.draw(st.integers(first + 1, out_size[0]))
    classes = data.draw(st.none() | st.lists(st.integers(0, len(direct) - 1), min_size=1, max_size=4))
    found = merged.probabilities((first, last), classes)
    torch.testing.assert_close(found, direct[list(range(len(direct))) if classes is None else classes, first:last], rtol=0, atol=1e-5)
    torch.testing.assert_close(merged.confidence(), direct.amax(0), rtol=0, atol=1e-5)

@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(st.integers(1, 400), side, st.integers(1, 64), st.data())
def test_a_strip_is_that_part_of_the_operator(length, out_length, window, data):
    window = min(window, length)
    axis = length, out_length, window, data.draw(st.integers(1, window)), data.draw(st.sampled_from([1, 4, 16])), data.draw(st.booleans())
    first = data.draw(st.integers(0, out_length - 1))
    last = data.draw(st.integers(first + 1, out_length))
    inputs, weights = _strip(first, last, *axis)
    whole = axis_operator(*axis)[first:last]
    found = torch.zeros_like(whole)
    found[:, inputs] = weights
    torch.testing.assert_close(found, whole, rtol=0, atol=1e-4)

def test_strips_of_a_long_axis_need_no_large_matrix():
    inputs, weights = _strip(150_000, 150_032, 200_000, 200_000, 512, 512, 16)
    assert weights.shape[1] < 80
    torch.testing.assert_close(weights.sum(1), torch.ones(32))

@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(st.integers(1, 9), st.integers(1, 200), st.integers(1, 9), st.integers(0, 2**16), st.booleans())
def test_the_argmax_by_comparison_is_the_first_of_the_best(h, k, w, seed, ties):
    x = torch.randn(h, k, w, generator=torch.Generator().manual_seed(seed))
    if ties: x = x.round()
    assert torch.equal(_first_best(x.clone()).long(), x.argmax(1))

def test_infinite_logits_have_an_argmax_too():
    x = torch.tensor([[[-torch.inf], [2.], [torch.inf]], [[-torch.inf]]*3])
    assert _first_best(x.clone()).long().flatten().tolist() == [2, 0]

def test_a_sure_class_is_the_winner_everywhere():
    torch.manual_seed(0)
    sure = 0
    for i in range(200):
        supports = [torch.randn(3, 6, 4)*.3 + 3*torch.randn(6)[:, None]*torch.rand(1) for _ in range(1 + i % 4)]
        for s in supports[1:]: s += 3*torch.eye(6)[i % 6][:, None]
        a, b = linear_weights(3, 20), linear_weights(4, 30)
        total = sum((a @ s.movedim(1, 0) @ b.T).softmax(0) for s in supports)
        if (winner := _sure_class(supports)) is not None:
            sure += 1
            assert (total.argmax(0) == winner).all()
    assert 10 < sure < 200

def test_windows_of_views_flips_and_images_share_batches():
    class Counting(Patchwork):
        sizes = []
        def masks(self, images): self.sizes.append(len(images)); return super().masks(images)
    model = Counting(5, 8)
    jobs = [([torch.randn(1, 3, 40, 50 + i)]*2, [False, True], (40, 50 + i)) for i in range(5)]
    found = [m.labels() for m in slide(model, jobs, 32, 20, 7)]
    assert Counting.sizes[:-1] == [7]*(len(Counting.sizes) - 1) and [tuple(f.shape) for f in found] == [(40, 50 + i) for i in range(5)]
    for labels, job in zip(found, jobs): assert torch.equal(labels.long(), sliding_probabilities(model, *job, 32, 20).argmax(0))

def test_images_are_taken_when_needed_and_forgotten_when_done():
    taken = []
    def images():
        for i in range(50): taken.append(i); yield [torch.randn(1, 3, 32, 32)], [False], (32, 32)
    stream = slide(Patchwork(3, 8), images(), 32, 32, 4)
    kept = [weakref.ref(next(stream)), weakref.ref(next(stream))]
    assert len(taken) == 4
    for merged in stream: kept.append(weakref.ref(merged))
    del merged
    assert len(kept) == 50 and not any(ref() for ref in kept)

def test_labels_may_be_changed_in_place_and_carry_no_gradient():
    labels = sliding_labels(Patchwork(3, 8), [torch.randn(1, 3, 20, 20)], [False], (20, 20), 16, 16)
    labels += 1
    assert not labels.is_inference() and not labels.requires_grad

def test_half_precision_is_off_unless_asked_for_and_comes_back_as_float32():
    model, images = torch.nn.Conv2d(3, 5, 8, 8), torch.randn(1, 3, 32, 32)
    model.masks, model.patch_size = model.forward, 8
    assert torch.equal(Quicker(model).masks(images), model(images))
    half = Quicker(model, 'bf16').masks(images)
    assert half.dtype == torch.float32 and not torch.equal(half, model(images))
    with pytest.raises(KeyError, match="unknown precision 'half'"): Quicker(model, 'half')

@pytest.mark.gpu
def test_the_merge_on_a_gpu_gives_the_labels_of_the_cpu():
    if not torch.cuda.is_available(): pytest.skip('no GPU')
    view = torch.randn(1, 3, 90, 130)
    model = Patchwork(150, 8)
    expected = sliding_labels(model, [view, view.flip(-1)], [False, True], (80, 140), 48, 32)
    model.filters, model.pattern = model.filters.cuda(), model.pattern.cuda()
    found = sliding_labels(model, [view.cuda(), view.flip(-1).cuda()], [False, True], (80, 140), 48, 32)
    assert (found.cpu() == expected).float().mean() > .9999

"Counts of each image, and resampling, against counting again from nothing."
import numpy as np
import pytest
import torch
from segmenter.intervals import ImageCounts, Interval, bootstrap, difference, resamples, show_bootstrap
from segmenter.metrics import ConfusionMatrix

def images(n=12, k=4, seed=0, quality=.7):
    rng, out = np.random.default_rng(seed), []
    for i in range(n):
        truth = rng.integers(0, k - i % 2, 200)
        guess = np.where(rng.random(200) < quality, truth, rng.integers(0, k, 200))
        truth[:i] = 255
        out.append((guess, truth))
    return out

def counted(pairs, k=4):
    counts = ImageCounts(k)
    for i, (guess, truth) in enumerate(pairs): counts.add(i, ConfusionMatrix(k).update(guess, truth))
    return counts

def test_scores_of_an_image_are_those_of_its_own_confusion_matrix():
    pairs = images()
    found = counted(pairs).per_image()
    for i, (guess, truth) in enumerate(pairs):
        scores = ConfusionMatrix(4).update(guess, truth).compute()
        assert found['mIoU'][i] == pytest.approx(scores.mIoU) and found['aAcc'][i] == pytest.approx(scores.aAcc)
        assert found['pixels'][i] == (truth != 255).sum()

@pytest.mark.parametrize('block', [1, 5])
@pytest.mark.parametrize('metric', ['mIoU', 'mAcc', 'aAcc'])
def test_every_resample_is_what_counting_its_images_again_gives(block, metric):
    pairs = images()
    found = bootstrap(counted(pairs), metric=metric, n_resamples=5, block=block, seed=3)
    for sample, row in zip(found.samples, resamples(12, 5, block, 3)):
        again = ConfusionMatrix(4)
        for i, times in enumerate(row):
            for _ in range(times): again.update(*pairs[i])
        assert sample == pytest.approx(getattr(again.compute(), metric))
    whole = ConfusionMatrix(4)
    for pair in pairs: whole.update(*pair)
    assert found.score == pytest.approx(getattr(whole.compute(), metric))

def test_draws_are_blocks_that_wrap_around_and_are_the_same_for_a_seed():
    rows = resamples(10, 200, block=4, seed=1)
    assert (rows.sum(1) == 10).all() and np.array_equal(rows, resamples(10, 200, block=4, seed=1))
    assert not np.array_equal(rows, resamples(10, 200, block=4, seed=2))
    whole = resamples(6, 50, block=6)
    assert (whole == 1).all() # one block is the film itself, begun somewhere
    assert abs(rows.mean(0) - 1).max() < .25

def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng, inside = np.random.default_rng(0), 0
    for trial in range(60):
        counts = ImageCounts(2)
        for i in range(40):
            p = np.clip(.8 + .1*rng.standard_normal(), 0, 1)
            n = rng.binomial(100, p)
            counts.add(i, ConfusionMatrix(2).update(np.zeros(100, int), np.r_[np.zeros(n, int), np.ones(100 - n, int)]))
        found = bootstrap(counts, metric='aAcc', n_resamples=300, seed=trial)
        inside += found.low <= 79.6 <= found.high
    assert 50 <= inside <= 60

def test_a_film_is_less_certain_than_as_many_photographs():
    drifting = [(np.r_[np.zeros(50 + i//20*10, int), np.ones(150 - i//20*10, int)], np.zeros(200, int)) for i in range(100)]
    alone, blocks = (bootstrap(counted(drifting, 2), metric='aAcc', block=b) for b in (1, 20))
    assert blocks.high - blocks.low > 2*(alone.high - alone.low)

def test_a_difference_is_sharper_than_two_intervals_and_zero_for_a_model_and_itself():
    a, b = counted(images(60)), counted(images(60, quality=.75))
    nothing = difference(a, a)
    assert (nothing.low, nothing.score, nothing.high) == (0, 0, 0)
    assert difference(a, b).score == pytest.approx(bootstrap(b).score - bootstrap(a).score)

def test_counts_come_back_from_disk_as_they_were(tmp_path):
    for n in (0, 1, 7):
        counts = counted(images(n)) if n else ImageCounts(4)
        counts.save(tmp_path/'c.npz')
        again = ImageCounts.load(tmp_path/'c.npz')
        assert again.indices == counts.indices and again.n_classes == 4 and np.array_equal(again.parts(), counts.parts())
    assert not [f for f in tmp_path.iterdir() if f.name != 'c.npz']

def test_an_image_costs_what_it_shows_and_not_what_there_is():
    counts, labels = ImageCounts(150), np.random.default_rng(0).integers(0, 12, (2, 100000))
    counts.add(0, ConfusionMatrix(150).update(*labels))
    assert sum(a.nbytes for a in (*counts._cells, *counts._counts)) <= 12*144

def test_large_counts_are_exact_in_the_scores():
    one = ConfusionMatrix(2)
    one.matrix += torch.tensor([[2**40, 1], [0, 2**40]])
    counts = ImageCounts(2)
    counts.add(0, one)
    assert counts.parts()[0].tolist() == [[2**40, 2**40]] and counts.parts()[2].tolist() == [[2**40, 2**40 + 1]]

@pytest.mark.parametrize('how, says', [(dict(metric='IoU'), 'metric'), (dict(block=0), 'blocks of 0'), (dict(block=13), 'give 1 to 12'), (dict(level=1.), 'level'), (dict(n_resamples=0), 'at least 1')])
def test_what_means_nothing_is_refused(how, says):
    with pytest.raises(ValueError, match=says): bootstrap(counted(images()), **how)

def test_one_image_has_no_interval():
    with pytest.raises(ValueError, match='at least 2'): bootstrap(counted(images(1)))
    with pytest.raises(ValueError, match='not the same'): difference(counted(images(3)), counted(images(4)))

def test_the_picture_is_drawn_without_a_screen():
    import matplotlib
    matplotlib.use('Agg')
    found = bootstrap(counted(images()), n_resamples=50)
    assert isinstance(found, Interval) and show_bootstrap(dict(a=found)).patches and '%' in str(found)

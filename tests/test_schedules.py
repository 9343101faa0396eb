"Schedules against torch's own and at their ends."
import pytest, torch
from segmenter.schedules import SCHEDULES, Schedule, polynomial

@pytest.mark.parametrize('kind', SCHEDULES)
@pytest.mark.parametrize('warmup', [0, 3])
def test_rates_are_positive_and_never_above_the_first(kind, warmup):
    schedule = Schedule(1e-2, 20, kind, warmup)
    rates = [schedule(t) for t in range(25)]
    assert min(rates) > 0 and max(rates) <= 1e-2

def test_polynomial_without_a_floor_is_that_of_torch():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=.1)
    theirs = torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=30, power=.9)
    for t in range(31):
        assert polynomial(t, 30, .1, min_lr=0) == pytest.approx(optimizer.param_groups[0]['lr'], abs=1e-12)
        optimizer.step()
        theirs.step()

def test_longer_runs_and_other_rates_are_honoured_from_the_middle():
    assert Schedule(1e-3, 100)(50) < Schedule(1e-3, 200)(50) < Schedule(2e-3, 200)(50)

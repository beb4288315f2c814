"""The bound of the self-check in low precision: rounding stays within it, mistakes do not."""

import pytest
import torch
from engine_cases import build, collate, pair
from engine_oracle import upstream_logps
from rounding_rates import PRECISIONS, trial

from llamafactory.train.uni_dpo.training.rounding import rounded_again
from llamafactory.train.uni_dpo.training.self_check import BOUND, bounds


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_sample_of_models(precision):
    """The whole of it is a command, `python tests/support/rounding_rates.py`."""
    trials = [trial(precision, seed) for seed in range(6)]
    assert not any(each.alarm for each in trials) and max(each.reach for each in trials) < 3
    caught = [caught for each in trials for caught in each.caught.values()]
    assert len(caught) >= 8 and sum(caught) >= 0.75 * len(caught)


def test_one_more_rounding_leaves_everything_as_it_was():
    """Neither the model, nor the batch, nor the random numbers of training notice."""
    model = build("qwen2_vl", torch.bfloat16).eval()
    batch = collate(model, [pair(5, 9, 4, (1, 4, 4))])
    kept, state = {name: value.clone() for name, value in batch.items()}, torch.get_rng_state()
    with torch.no_grad():
        before, _ = upstream_logps(model, batch)
        with rounded_again(model, None):
            moved, _ = upstream_logps(model, batch)
        after, _ = upstream_logps(model, batch)
    assert torch.equal(before, after) and 0 < (moved - before).abs().max() < 1
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(batch[name], value) for name, value in kept.items())


def test_the_bound_by_hand():
    """Two sums of -100 nats over 4 and 16 tokens, moved by 0.2 and 0.4: 0.1 a token and its root, six times over."""
    theirs, lengths = torch.tensor([-100.0, -100.0]), torch.tensor([4, 16])
    moved = theirs + torch.tensor([0.2, -0.4])
    expected = [BOUND[0] + BOUND[1] * 100 + 6 * 0.1 * root for root in (2, 4)]
    assert bounds(theirs, moved, lengths).tolist() == pytest.approx(expected, rel=1e-4)
    assert bounds(theirs, theirs, lengths).tolist() == pytest.approx([0.02, 0.02])

"""How often the self-check's bound in low precision is a false alarm, and what it still catches.

`python tests/support/rounding_rates.py [MODELS]`: random models in bfloat16, in float16 and under autocast, each with
a random pair, which upstream's forward takes once and the engine twice, as in the self-check. For each precision
a line with the false alarms, the greatest difference in units of one more rounding, and the share of each mistake of
`engine_mistakes.py` that is caught.
"""

import random
import sys
from collections import defaultdict
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from engine_cases import collate, media_of, pair
from engine_mistakes import MISTAKES, PAIRS, VISIBLE
from engine_models import VISION_KINDS, build
from engine_oracle import MEDIA_IDS, ROUTES, upstream_logps

from llamafactory.train.uni_dpo.engine import Choice, attach, lay_out, pair_logps
from llamafactory.train.uni_dpo.training.rounding import rounded_again
from llamafactory.train.uni_dpo.training.self_check import BOUND, KEPT_WHERE_ROUNDED, ROUNDINGS, bounds


PRECISIONS = ("bfloat16", "float16", "autocast")


@dataclass
class Trial:
    """Of one model and a pair.

    Attributes:
        alarm: whether the engine, which is right, was taken for wrong.
        reach: its greatest difference to upstream's, in what one more rounding does.
        caught: mistakes by name, and whether they were taken for such; only those that would show in float32.
    """

    alarm: bool
    reach: float
    caught: dict[str, bool]


def trial(precision: str, seed: int) -> Trial:
    """Try a random model; every other one with a pair of the controls, and with their mistakes."""
    rng = random.Random(seed)
    tampered = seed % 2 == 0
    kind = "qwen2_vl" if tampered else rng.choice(["qwen2_vl", "qwen2_5_vl", "qwen2", "qwen3", "llama"])
    layout = rng.choice(["packed", "masked"] if tampered else list(ROUTES))
    given = PAIRS[1] if tampered else _pair(rng, kind)
    dtype = torch.float32 if precision == "autocast" else getattr(torch, precision)
    attention = "eager" if layout == "masked" else "sdpa"
    model = build(kind, dtype, attention, seed, num_hidden_layers=rng.choice([2, 4, 12])).requires_grad_(False).eval()
    alone = collate(model, [given])
    batch = _both_ways(alone)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16) if precision == "autocast" else nullcontext():
        theirs, lengths = _once(model, alone)
        with rounded_again(model):
            moved, _ = _once(model, alone)
        bound = bounds(theirs, moved, lengths)
        attach(model, Choice(ROUTES[layout], layout))
        ours = _ours(model, batch, layout)
        off = (ours - theirs).abs()
        caught = {}
        for mistake in MISTAKES if tampered else ():
            wrong = _ours(model, batch, layout, mistake)
            if (wrong - ours).abs().max() > VISIBLE:
                caught[mistake.__name__] = bool(((wrong - theirs).abs() > bound).any())
    one = (bound - BOUND[0] - BOUND[1] * theirs.abs()) / ROUNDINGS
    return Trial(bool((off > bound).any()), float((off / one).max()), caught)


def _pair(rng: random.Random, kind: str) -> Any:
    answers = [rng.choice([1, 2, 4, 8, KEPT_WHERE_ROUNDED]) for _ in range(2)]
    return pair(rng.randint(3, 40), *answers, *[(1, 4, 4)] * (kind in VISION_KINDS))


def _ours(model: Any, batch: dict[str, Any], layout: str, tamper: Any = None) -> torch.Tensor:
    laid_out = lay_out(batch, layout, MEDIA_IDS)
    if tamper is not None:
        tamper(laid_out)
    return pair_logps(model, laid_out, media_of(batch)).logps


def _both_ways(alone: dict[str, Any]) -> dict[str, Any]:
    """Make a batch of a pair and the same pair with its answers exchanged."""
    batch = {name: alone[name][[0, 1, 1, 0]] for name in ("input_ids", "attention_mask", "labels")}
    if "position_ids" in alone:
        batch["position_ids"] = alone["position_ids"][:, [0, 1, 1, 0]]
    return batch | {name: torch.cat([value, value]) for name, value in media_of(alone).items()}


def _once(model: Any, alone: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute sums and lengths of a pair by upstream's forward, and repeat them for the exchanged one."""
    return tuple(values[[0, 1, 1, 0]] for values in upstream_logps(model, alone))


def main(models: int) -> None:
    """Print the table."""
    for precision in PRECISIONS:
        trials = [trial(precision, seed) for seed in range(models)]
        found = defaultdict(list)
        for each in trials:
            for name, caught in each.caught.items():
                found[name].append(caught)
        shares = ", ".join(f"{name} {sum(seen)} of {len(seen)}" for name, seen in found.items())
        alarms, reach = sum(each.alarm for each in trials), max(each.reach for each in trials)
        print(f"{precision}: {alarms} false alarms in {models}, differences up to {reach:.2f}; caught: {shares}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)

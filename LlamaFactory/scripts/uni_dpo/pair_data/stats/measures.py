"""From the numbers of the rows to the numbers of the report."""

from collections import Counter
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator
from scipy.special import expit
from scipy.stats import rankdata, spearmanr

from ..images import MAX_PIXELS, ImageError, vision_tokens
from .gather import OTHERS, SIDES, Gathered
from .images import Size
from .wording import clean


MOST_SHOWN = 6  # subsets with lines of their own; the smallest are put together
DECILES = np.linspace(0, 1, 11)
BINS = 16  # of a histogram at most
EDGE = 0.005  # share of values at either end that a histogram may leave out if they lie far out,
ROOM = 0.2  # by this many widths of the others


def measure(found: Gathered, eta: float, tau_good: float) -> dict[str, Any]:
    """Return everything about scores and lengths, ready for JSON; what cannot be known is None.

    Args:
        found: the numbers of the rows.
        eta: steepness of w_qual.
        tau_good: score from which, inclusive, a chosen answer may get the NLL term.
    """
    pairs, counts = found.pairs, found.counts
    scored, lacking = with_scores(pairs), {side: np.isnan(pairs[side]) for side in SIDES}
    edges = bins_for(np.concatenate([scored[side] for side in SIDES])), bins_for(scored["margin"])
    subsets = _subsets(found)
    return {
        "data": clean(found.name),
        "rows": len(pairs) + counts["unusable"],
        "unusable": counts["unusable"],
        "first_unusable": found.first_unusable,
        "pairs": len(pairs),
        "scored": len(scored),
        "unscored": {side: int(none.sum()) for side, none in lacking.items()} | {"either": len(pairs) - len(scored)},
        "eta": eta,
        "tau_good": tau_good,
        "by": found.by,
        "all": _part(scored, edges, eta, tau_good),
        "subsets": {
            name: _part(with_scores(part), edges, eta, tau_good) | {"pairs": len(part)}
            for name, part in subsets.items()
        },
        "lengths": lengths_and_scores(pairs, found.unit, eta)
        | {"chosen_longer_by_subset": {name: float(np.mean(_difference(part) > 0)) for name, part in subsets.items()}},
        "images": {"rows_without": counts["without"], "rows_with_several": counts["several"]},
    }


def with_scores(pairs: np.ndarray) -> np.ndarray:
    """Return the pairs that have both scores."""
    return pairs[np.isfinite(pairs["margin"])]


def measure_images(references: int, answers: list[Size | ImageError]) -> dict[str, Any]:
    """Return how many images were referred to, looked at, missing and unreadable; of the others sizes and tokens."""
    failures = Counter(str(answer) for answer in answers if isinstance(answer, ImageError))
    found: dict[str, Any] = {"references": references, "looked_at": len(answers)}
    found["missing"] = failures.pop("there is no such file", 0)
    found["unreadable"] = failures.total()
    sizes = np.array([answer for answer in answers if not isinstance(answer, ImageError)]).reshape(-1, 2)
    if len(sizes):
        tokens = np.array([vision_tokens(int(width), int(height)) for width, height in sizes])
        counts, edges = np.histogram(tokens, bins=30)
        found |= {"width": summary(sizes[:, 0]), "height": summary(sizes[:, 1]), "tokens": summary(tokens)}
        found["scaled_down"] = float(np.mean(sizes.prod(axis=1) > MAX_PIXELS))
        found["histogram"] = {"edges": edges.tolist(), "counts": counts.tolist()}
    return found


def quality_weights(margins: np.ndarray, eta: float) -> dict[str, Any] | None:
    """Return what w_qual = sigmoid(eta * margin) is over all pairs; None without pairs.

    "effective" is the effective sample size, (sum w)^2 / sum w^2, as a share of the pairs.
    """
    if not len(margins):
        return None
    weights = expit(eta * margins)
    return summary(weights) | {
        "eta": eta,
        "at_deciles": expit(eta * np.quantile(margins, DECILES)).tolist(),
        "effective": effective_share(weights),
        "about_half": float(np.mean(np.abs(weights - 0.5) <= 0.01)),
        "saturated": float(np.mean((weights > 0.99) | (weights < 0.01))),
    }


def effective_share(weights: np.ndarray) -> float:
    """Return (sum w)^2 / sum w^2 as a share of the pairs: 1 if all weigh alike, 1 / pairs if only one counts."""
    largest = weights.max()
    if largest == 0:
        return 0.0
    relative = weights / largest  # squares of tiny weights would vanish
    return float(relative.sum() ** 2 / np.square(relative).sum() / len(relative))


def share_good(chosen: np.ndarray, tau_good: float) -> float | None:
    """Return the share of scores at or above tau_good, compared in float32 as in training; None without scores."""
    with np.errstate(over="ignore"):
        return float(np.mean(chosen.astype(np.float32) >= np.float32(tau_good))) if len(chosen) else None


def summary(values: np.ndarray) -> dict[str, float] | None:
    """Return mean, standard deviation and quantiles; None without values."""
    if not len(values):
        return None
    names = ("least", "p10", "p25", "median", "p75", "p90", "most")
    quantiles = np.quantile(values, [0, 0.1, 0.25, 0.5, 0.75, 0.9, 1]).tolist()
    return {"mean": float(values.mean()), "std": float(values.std()), **dict(zip(names, quantiles, strict=True))}


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float | None:
    """Return Spearman's correlation; None where one of the two never changes."""
    if len(first) < 2 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    return float(spearmanr(first, second).statistic)


def bins_for(values: np.ndarray) -> list[float]:
    """Return edges that hold all values, or all but `EDGE` at either end where those lie far out.

    Edges are round numbers, 0 among them if it is within. Values on a scale of a few steps, such as 1 to 5, have a
    bin around each instead, so that none falls on an edge.
    """
    if not len(values):
        return [0.0, 1.0]
    low, high = np.quantile(values, [EDGE, 1 - EDGE])
    room = ROOM * (high - low) or np.inf
    different = np.unique(values[(values >= low - room) & (values <= high + room)])
    low, high = different[[0, -1]]
    step = np.diff(different).min() if len(different) > 1 else max(abs(low) * 0.1, 1)
    steps = (different - low) / step
    if steps[-1] < BINS and np.abs(steps - np.round(steps)).max() <= 1e-6:
        return (low + step * (np.arange(round(steps[-1]) + 2) - 0.5)).tolist()
    edges = MaxNLocator(BINS - 2, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    return [min(edges[0], low), *edges[1:-1], max(edges[-1], high)]  # ticks may be off by the last digit


def histogram(values: np.ndarray, edges: list[float]) -> dict[str, Any]:
    """Return counts, shape (bins,), and how many values lie below the first edge and above the last."""
    counts, _ = np.histogram(values, bins=edges)
    below, above = int((values < edges[0]).sum()), int((values > edges[-1]).sum())
    return {"edges": list(edges), "counts": counts.tolist(), "below": below, "above": above}


def lengths_and_scores(pairs: np.ndarray, unit: str, eta: float) -> dict[str, Any]:
    """Return how the lengths of answers, counted in some unit, go with their scores (NaN where there is none).

    "pull" is which lengths the pairs prefer, weighted by w_qual if there are scores.
    """
    scored, difference = with_scores(pairs), _difference(pairs)
    weights = np.nan_to_num(expit(eta * pairs["margin"])) if len(scored) else np.full(len(pairs), 0.5)
    whole = weights.sum() or 1.0
    pull = {side: float((weights * pairs[f"{side}_length"]).sum() / whole) for side in SIDES}
    pull |= {
        "longer": float(weights[difference > 0].sum() / whole),
        "shorter": float(weights[difference < 0].sum() / whole),
        "pairs": effective_share(weights) * len(weights),
        "weighted": bool(len(scored)),
    }
    of_answers = [np.concatenate([scored[side + what] for side in SIDES]) for what in ("_length", "")]
    return {
        "unit": unit,
        "chosen": summary(pairs["chosen_length"]),
        "rejected": summary(pairs["rejected_length"]),
        "chosen_longer": float(np.mean(difference > 0)),
        "same_length": float(np.mean(difference == 0)),
        "scored": len(scored),
        "pull": pull,
        "difference_and_margin": rank_correlation(_difference(scored), scored["margin"]),
        "length_and_score": rank_correlation(*of_answers),
        "tenths": _tenths(scored),
    }


def _difference(pairs: np.ndarray) -> np.ndarray:
    return pairs["chosen_length"] - pairs["rejected_length"]


def _tenths(scored: np.ndarray) -> list[dict[str, float]]:
    """Return ten groups of pairs by the difference in length: their margins. Equal differences stay together."""
    groups, difference = [], _difference(scored)
    tenth = np.ceil(10 * rankdata(difference) / len(scored)) if len(scored) else difference
    for inside in (tenth == number for number in np.unique(tenth)):
        found = summary(scored["margin"][inside])
        middle = {"difference": float(np.median(difference[inside])), "pairs": int(inside.sum())}
        groups.append(middle | {name: found[name] for name in ("p25", "median", "p75")})
    return groups


def _part(scored: np.ndarray, edges: tuple[list[float], list[float]], eta: float, tau_good: float) -> dict[str, Any]:
    """Return the numbers of the scored rows of a subset, or of all."""
    chosen, rejected, margins = (scored[name] for name in (*SIDES, "margin"))
    return {
        "scored": len(scored),
        "chosen": summary(chosen),
        "rejected": summary(rejected),
        "margin": summary(margins),
        "ties": int((margins == 0).sum()),
        "reversed": int((margins < 0).sum()),
        "median_positive_margin": float(np.median(margins[margins > 0])) if (margins > 0).any() else None,
        "margin_deciles": np.quantile(margins, DECILES).tolist() if len(margins) else None,
        "values": {side: _values(scored[side]) for side in SIDES} if len(margins) else None,
        "good": share_good(chosen, tau_good),
        "w_qual": quality_weights(margins, eta),
        "histograms": {
            "chosen": histogram(chosen, edges[0]),
            "rejected": histogram(rejected, edges[0]),
            "margin": histogram(margins, edges[1]),
        },
    }


def _values(scores: np.ndarray) -> dict[str, float]:
    """Return how many scores differ, which is found most often, its share of all, and the share of the next one."""
    different, counts = np.unique(scores, return_counts=True)
    share, share_of_next = ([*np.sort(counts)[::-1], 0][:2] / np.float64(len(scores))).tolist()
    commonest = float(different[counts.argmax()])
    return {"different": len(different), "commonest": commonest, "share": share, "share_of_next": share_of_next}


def _subsets(found: Gathered) -> dict[str, np.ndarray]:
    """Return the rows of each of the largest subsets; the rest become one."""
    names, subset = found.subsets, found.pairs["subset"]
    counts = np.bincount(subset, minlength=len(names))
    order = sorted(range(len(names)), key=lambda number: (-counts[number], names[number]))
    if len(order) > MOST_SHOWN:
        order = [number for number in order if names[number] != OTHERS][: MOST_SHOWN - 1]
    parts = {names[number]: found.pairs[subset == number] for number in order}
    return parts if len(parts) == len(names) else parts | {OTHERS: found.pairs[~np.isin(subset, order)]}

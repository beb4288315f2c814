"""From the numbers of the rows to the numbers of the report."""

from typing import Any

import numpy as np
from scipy.special import expit
from scipy.stats import spearmanr

from .gather import OTHERS, SIDES, Gathered
from .histograms import bins_for, histogram
from .wording import clean


MOST_SHOWN = 6  # subsets with lines of their own; the smallest are put together
DECILES = np.linspace(0, 1, 11)

Sides = dict[str, np.ndarray]  # "chosen" and "rejected" to something of shape (rows,)


def measure(found: Gathered, eta: float, tau_good: float) -> dict[str, Any]:
    """Return everything about scores and lengths, ready for JSON; what cannot be known is None.

    Args:
        found: the numbers of the rows.
        eta: steepness of w_qual.
        tau_good: score from which, inclusive, a chosen answer may get the NLL term.
    """
    scores, lengths, counts = found.scores, found.lengths, found.counts
    scored = np.isfinite(scores["chosen"] - scores["rejected"])
    bins = {
        "scores": bins_for(np.concatenate([scores[side][scored] for side in SIDES])),
        "margins": bins_for((scores["chosen"] - scores["rejected"])[scored]),
    }
    parts = _subsets(found)
    longer = lengths["chosen"] > lengths["rejected"]
    return {
        "data": clean(found.name),
        "rows": len(found.subset) + counts["unusable"],
        "unusable": counts["unusable"],
        "first_unusable": found.first_unusable,
        "pairs": len(found.subset),
        "scored": int(scored.sum()),
        "unscored": {side: counts[side] for side in (*SIDES, "either")},
        "eta": eta,
        "tau_good": tau_good,
        "by": found.by,
        "all": _part(scores, scored, bins, eta, tau_good),
        "subsets": {
            name: _part(scores, scored & inside, bins, eta, tau_good) | {"pairs": int(inside.sum())}
            for name, inside in parts.items()
        },
        "lengths": lengths_and_scores(lengths, scores, found.unit, eta)
        | {"chosen_longer_by_subset": {name: float(np.mean(longer[inside])) for name, inside in parts.items()}},
        "images": {"rows_without": counts["without"], "rows_with_several": counts["several"]},
    }


def quality_weights(margins: np.ndarray, eta: float) -> dict[str, Any] | None:
    """Return what w_qual = sigmoid(eta * margin) is over all pairs; None without pairs.

    "effective" is the effective sample size, (sum w)^2 / sum w^2, as a share of the pairs.
    """
    if not len(margins):
        return None
    weights = expit(eta * margins)
    low, median, high = np.quantile(weights, [0.1, 0.5, 0.9]).tolist()
    return {
        "eta": eta,
        "mean": float(weights.mean()),
        "std": float(weights.std()),
        "p10": low,
        "median": median,
        "p90": high,
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


def lengths_and_scores(lengths: Sides, scores: Sides, unit: str, eta: float) -> dict[str, Any]:
    """Return how the lengths of answers, counted in some unit, go with their scores (NaN where there is none).

    "pull" is which lengths the pairs prefer, weighted by w_qual if there are scores. Its "balance" is the sum of all
    differences in length as a share of the sum of their sizes: 1 where every chosen answer is longer, -1 where every
    one is shorter. Its "errors" is the mean difference in standard errors, if its sign were a coin's.
    """
    difference = lengths["chosen"].astype(float) - lengths["rejected"]
    margins = scores["chosen"] - scores["rejected"]
    scored = np.isfinite(margins)
    weights = np.where(scored, expit(eta * np.where(scored, margins, 0.0)), 0.0) if scored.any() else scored + 0.5
    whole, pulled = weights.sum() or 1.0, weights * difference
    pull = {side: float((weights * lengths[side]).sum() / whole) for side in SIDES}
    pull |= {
        "longer": float(weights[difference > 0].sum() / whole),
        "shorter": float(weights[difference < 0].sum() / whole),
        "balance": float(pulled.sum() / (abs(pulled).sum() or 1.0)),
        "errors": float(pulled.sum() / (np.sqrt(np.square(pulled).sum()) or 1.0)),
        "pairs": effective_share(weights) * len(weights),
        "weighted": bool(scored.any()),
    }
    of_answers = [np.concatenate([kind[side][scored] for side in SIDES]) for kind in (lengths, scores)]
    return {
        "unit": unit,
        "chosen": summary(lengths["chosen"]),
        "rejected": summary(lengths["rejected"]),
        "chosen_longer": float(np.mean(difference > 0)),
        "same_length": float(np.mean(difference == 0)),
        "scored": int(scored.sum()),
        "pull": pull,
        "difference_and_margin": rank_correlation(difference[scored], margins[scored]),
        "length_and_score": rank_correlation(*of_answers),
        "tenths": _tenths(difference[scored], margins[scored]),
    }


def _part(scores: Sides, rows: np.ndarray, bins: dict[str, Any], eta: float, tau_good: float) -> dict[str, Any]:
    """Return the numbers of the scored rows of a subset, or of all."""
    chosen, rejected = (scores[side][rows] for side in SIDES)
    margins = chosen - rejected
    return {
        "scored": len(margins),
        "chosen": summary(chosen),
        "rejected": summary(rejected),
        "margin": summary(margins),
        "ties": int((margins == 0).sum()),
        "reversed": int((margins < 0).sum()),
        "median_positive_margin": float(np.median(margins[margins > 0])) if (margins > 0).any() else None,
        "margin_deciles": np.quantile(margins, DECILES).tolist() if len(margins) else None,
        "values": {"chosen": _values(chosen), "rejected": _values(rejected)} if len(margins) else None,
        "good": share_good(chosen, tau_good),
        "w_qual": quality_weights(margins, eta),
        "histograms": {
            "chosen": histogram(chosen, bins["scores"]),
            "rejected": histogram(rejected, bins["scores"]),
            "margin": histogram(margins, bins["margins"]),
        },
    }


def _values(scores: np.ndarray) -> dict[str, float]:
    """Return how many scores differ, which is found most often, its share of all, and the share of the next one."""
    different, counts = np.unique(scores, return_counts=True)
    share, share_of_next = ([*np.sort(counts)[::-1], 0][:2] / np.float64(len(scores))).tolist()
    commonest = float(different[counts.argmax()])
    return {"different": len(different), "commonest": commonest, "share": share, "share_of_next": share_of_next}


def _subsets(found: Gathered) -> dict[str, np.ndarray]:
    """Return which rows are in each of the largest subsets, shape (rows,); the rest become one."""
    counts = np.bincount(found.subset, minlength=len(found.names))
    order = sorted(range(len(counts)), key=lambda number: (-counts[number], found.names[number]))
    if len(order) <= MOST_SHOWN:
        return {found.names[number]: found.subset == number for number in order}
    shown = [number for number in order if found.names[number] != OTHERS][: MOST_SHOWN - 1]
    parts = {found.names[number]: found.subset == number for number in shown}
    return parts | {OTHERS: ~np.isin(found.subset, shown)}


def _tenths(difference: np.ndarray, margins: np.ndarray) -> list[dict[str, float]]:
    """Return ten groups of pairs, alike in number, by the difference in length: their margins.

    Pairs of one length difference stay together, so that there may be fewer groups.
    """
    if not len(difference):
        return []
    borders = np.unique(np.quantile(difference, DECILES))
    group = np.clip(np.searchsorted(borders, difference, side="right") - 1, 0, max(0, len(borders) - 2))
    groups = []
    for inside in (group == number for number in np.unique(group)):
        low, median, high = np.quantile(margins[inside], [0.25, 0.5, 0.75]).tolist()
        middle = float(np.median(difference[inside]))
        groups.append({"difference": middle, "p25": low, "median": median, "p75": high, "pairs": int(inside.sum())})
    return groups

"""From the numbers of the rows to the numbers of the report."""

from typing import Any

import numpy as np
from scipy.special import expit
from scipy.stats import rankdata

from .gather import OTHERS, SIDES, Gathered
from .histograms import bins_for, histogram
from .wording import clean


PUBLISHED = {"eta": 0.7, "tau_good": 2.5}  # of the published multimodal runs
MOST_SHOWN = 6  # subsets with lines of their own; the smallest are put together
DECILES = np.linspace(0, 1, 11)


def measure(found: Gathered, eta: float, tau_good: float) -> dict[str, Any]:
    """Return everything about scores and lengths, ready for JSON; what cannot be known is None.

    Args:
        found: the numbers of the rows.
        eta: steepness of w_qual.
        tau_good: score from which, inclusive, a chosen answer may get the NLL term.
    """
    scores, lengths = found.numbers("scores"), found.numbers("lengths")
    margins = scores["chosen"] - scores["rejected"]
    scored = np.isfinite(margins)
    names, subset = _shown_subsets(found)
    bins = {
        "scores": bins_for(np.concatenate([scores[side][scored] for side in SIDES])),
        "margins": bins_for(margins[scored]),
    }
    parts = {name: subset == number for number, name in enumerate(names)}
    return {
        "data": clean(found.source.name),
        "rows": len(subset) + found.unusable,
        "unusable": found.unusable,
        "first_unusable": found.first_unusable,
        "pairs": len(subset),
        "scored": int(scored.sum()),
        "unscored": {side: found.unscored[side] for side in (*SIDES, "either")},
        "eta": eta,
        "tau_good": tau_good,
        "by": found.by,
        "all": _part(scores, margins, scored, bins, eta, tau_good),
        "subsets": {
            name: _part(scores, margins, scored & inside, bins, eta, tau_good) | {"pairs": int(inside.sum())}
            for name, inside in parts.items()
        },
        "lengths": lengths_and_scores(lengths, scores, found.unit, eta)
        | {"chosen_longer_by_subset": {name: _longer(lengths, inside) for name, inside in parts.items()}},
        "images": {"rows_without": found.without, "rows_with_several": found.several},
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
    """Return Spearman's correlation, shared ranks for ties; None where one of the two never changes."""
    if len(first) < 2 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return None
    return float(np.corrcoef(rankdata(first), rankdata(second))[0, 1])


def lengths_and_scores(
    lengths: dict[str, np.ndarray], scores: dict[str, np.ndarray], unit: str, eta: float
) -> dict[str, Any]:
    """Return how the lengths of answers go with their scores.

    Args:
        lengths: "chosen" and "rejected" to lengths, shape (rows,).
        scores: the same for scores, NaN where there is none.
        unit: what lengths count.
        eta: steepness of w_qual.
    """
    difference = (lengths["chosen"] - lengths["rejected"]).astype(float)
    margins = scores["chosen"] - scores["rejected"]
    scored = np.isfinite(margins)
    of_answers = [np.concatenate([kind[side][scored] for side in SIDES]) for kind in (lengths, scores)]
    return {
        "unit": unit,
        "chosen": summary(lengths["chosen"]),
        "rejected": summary(lengths["rejected"]),
        "chosen_longer": float(np.mean(difference > 0)),
        "same_length": float(np.mean(difference == 0)),
        "scored": int(scored.sum()),
        "pull": _pull(lengths, expit(eta * np.where(scored, margins, 0.0)) * (scored | ~scored.any()))
        | {"weighted": bool(scored.any())},
        "difference_and_margin": rank_correlation(difference[scored], margins[scored]),
        "length_and_score": rank_correlation(*of_answers),
        "tenths": _tenths(difference[scored], margins[scored]),
    }


def _pull(lengths: dict[str, np.ndarray], weights: np.ndarray) -> dict[str, float]:
    """Return which lengths pairs of some weights, shape (rows,), prefer.

    "balance" is the sum of all differences in length as a share of the sum of their sizes: 1 where every chosen answer
    is longer, -1 where every one is shorter. "errors" is the mean difference in standard errors, if its sign were a
    coin's.
    """
    difference = (lengths["chosen"] - lengths["rejected"]).astype(float)
    whole, sizes = weights.sum() or 1.0, (weights * abs(difference)).sum() or 1.0
    pulled = float((weights * difference).sum())
    means = {side: float((weights * lengths[side]).sum() / whole) for side in SIDES}
    return means | {
        "longer": float(weights[difference > 0].sum() / whole),
        "shorter": float(weights[difference < 0].sum() / whole),
        "balance": pulled / float(sizes),
        "errors": pulled / (float(np.sqrt(np.square(weights * difference).sum())) or 1.0),
        "pairs": effective_share(weights) * len(weights),
    }


def _part(
    scores: dict[str, np.ndarray],
    margins: np.ndarray,
    rows: np.ndarray,
    bins: dict[str, dict[str, Any]],
    eta: float,
    tau_good: float,
) -> dict[str, Any]:
    """Return the numbers of the scored rows of a subset, or of all."""
    chosen, rejected = (scores[side][rows] for side in SIDES)
    part = margins[rows]
    return {
        "scored": len(part),
        "chosen": summary(chosen),
        "rejected": summary(rejected),
        "margin": summary(part),
        "ties": int((part == 0).sum()),
        "reversed": int((part < 0).sum()),
        "median_positive_margin": float(np.median(part[part > 0])) if (part > 0).any() else None,
        "margin_deciles": np.quantile(part, DECILES).tolist() if len(part) else None,
        "values": {"chosen": _values(chosen), "rejected": _values(rejected)} if len(part) else None,
        "good": share_good(chosen, tau_good),
        "w_qual": quality_weights(part, eta),
        "histograms": {
            "chosen": histogram(chosen, bins["scores"]),
            "rejected": histogram(rejected, bins["scores"]),
            "margin": histogram(part, bins["margins"]),
        },
    }


def _values(scores: np.ndarray) -> dict[str, float]:
    """Return how many scores differ, which is found most often, its share of all, and the share of the next one."""
    different, counts = np.unique(scores, return_counts=True)
    shares = [*np.sort(counts)[:-3:-1] / len(scores), 0.0]
    commonest = float(different[counts.argmax()])
    return {
        "different": len(different),
        "commonest": commonest,
        "share": float(shares[0]),
        "share_of_next": float(shares[1]),
    }


def _shown_subsets(found: Gathered) -> tuple[list[str], np.ndarray]:
    """Return the names of the largest subsets and each row's number among them; the rest become one."""
    subset = np.frombuffer(found.subset, dtype=found.subset.typecode)
    counts = np.bincount(subset, minlength=len(found.names))
    order = sorted(range(len(found.names)), key=lambda number: (-counts[number], found.names[number]))
    if len(order) > MOST_SHOWN:
        order = [number for number in order if found.names[number] != OTHERS][: MOST_SHOWN - 1]
    places = np.full(len(found.names), len(order))
    places[order] = np.arange(len(order))
    names = [found.names[number] for number in order]
    return (names + [OTHERS] if len(order) < len(found.names) else names), places[subset]


def _longer(lengths: dict[str, np.ndarray], rows: np.ndarray) -> float:
    return float(np.mean(lengths["chosen"][rows] > lengths["rejected"][rows]))


def _tenths(difference: np.ndarray, margins: np.ndarray) -> list[dict[str, float]]:
    """Return ten groups of pairs, alike in number, by the difference in length: their margins.

    Pairs of one length difference stay together, so that there may be fewer groups.
    """
    if not len(difference):
        return []
    borders = np.unique(np.quantile(difference, DECILES))
    group = np.clip(np.searchsorted(borders, difference, side="right") - 1, 0, max(0, len(borders) - 2))
    groups = []
    for number in np.unique(group):
        inside = group == number
        low, median, high = np.quantile(margins[inside], [0.25, 0.5, 0.75]).tolist()
        middle = float(np.median(difference[inside]))
        groups.append({"difference": middle, "p25": low, "median": median, "p75": high, "pairs": int(inside.sum())})
    return groups

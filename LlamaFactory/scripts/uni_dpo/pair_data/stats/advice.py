"""What the numbers mean for eta and tau_good, in sentences."""

import math
from typing import Any

import numpy as np

from .gather import Gathered
from .length_advice import meaning_of_lengths
from .measures import PUBLISHED, quality_weights, share_good
from .wording import percent


MEDIAN_WEIGHT = 0.75  # of w_qual at the median positive margin, which the suggested eta leads to
FLAT, SATURATED = 0.95, 0.5  # shares of pairs from which w_qual is said to do nothing, or to be a switch
ALIKE = 0.02  # difference between weights that makes none
FEW = 30  # pairs from which nothing should be concluded


def add_advice(report: dict[str, Any], found: Gathered) -> None:
    """Add to a report what is suggested, why, what other settings would do, and what to look at first."""
    scores = found.numbers("scores")
    margins = scores["chosen"] - scores["rejected"]
    scored = np.isfinite(margins)
    margins, chosen = margins[scored], scores["chosen"][scored]
    eta, tau_good = suggest_eta(report["all"]["median_positive_margin"]), suggest_tau_good(chosen)
    report["suggested"] = {"eta": eta, "tau_good": tau_good}
    etas = {value for value in (eta, PUBLISHED["eta"], *(report["eta"] * factor for factor in (0.5, 1, 2)))}
    report["etas"] = [quality_weights(margins, value) for value in sorted(etas - {None})] if len(margins) else []
    report["notes"] = notes(report)
    report["lengths"]["meaning"] = meaning_of_lengths(report["lengths"])
    report["advice"] = _about_eta(report, margins) + _about_tau_good(report, chosen) if len(margins) else []


def suggest_eta(median_positive_margin: float | None) -> float | None:
    """Return the eta that gives the median positive margin a w_qual of `MEDIAN_WEIGHT`, to two digits.

    sigmoid(eta * m) = 3/4 where eta * m = log 3. None where no margin is positive.
    """
    if not median_positive_margin:
        return None
    eta = math.log(MEDIAN_WEIGHT / (1 - MEDIAN_WEIGHT)) / median_positive_margin
    return float(f"{eta:.2g}") if math.isfinite(eta) and eta > 0 else None


def suggest_tau_good(chosen: np.ndarray) -> float | None:
    """Return the score that comes nearest to splitting chosen answers in half; None where all scores are equal.

    Scores on steps cannot be split anywhere. A score between many is shortened, downwards, so that it stays in the
    upper part itself.
    """
    ordered = np.sort(chosen.astype(np.float32))  # as training compares them
    if not len(ordered) or ordered[0] == ordered[-1]:
        return None
    middle = ordered[(len(ordered) - 1) // 2]
    higher = ordered[np.searchsorted(ordered, middle, side="right") :]
    candidates = [middle, *higher[:1]]
    best = min(candidates, key=lambda score: abs(share_good(chosen, score) - 0.5))
    short = _shortened(float(best), float(np.subtract(*np.quantile(chosen, [0.75, 0.25]))))
    return short if abs(share_good(chosen, short) - share_good(chosen, best)) < 0.005 else float(str(best))


def verdict_on_eta(weights: dict[str, Any]) -> str:
    """Say in words what an eta does, given its `quality_weights`."""
    if weights["about_half"] >= FLAT:
        return f"does almost nothing: w_qual is between .49 and .51 for {percent(weights['about_half'])} of the pairs"
    if weights["saturated"] >= SATURATED:
        return (
            f"saturates: w_qual is above .99 or below .01 for {percent(weights['saturated'])} of the pairs, of which "
            "it sees the sign of the margin and no more"
        )
    if weights["about_half"] >= 0.5:
        return f"does nothing for most pairs: w_qual is between .49 and .51 for {percent(weights['about_half'])}"
    if weights["p90"] - weights["p10"] < ALIKE:
        return (
            f"weighs the pairs alike: w_qual from {weights['p10']:.2f} to {weights['p90']:.2f} for the middle 80 % of "
            "them"
        )
    return f"is in its range: w_qual from {weights['p10']:.2f} to {weights['p90']:.2f} for the middle 80 % of pairs"


def verdict_on_tau_good(share: float) -> str:
    """Say in words what a tau_good does, given the share of chosen scores at or above it."""
    if share == 0:
        return "is above every chosen score: the NLL term is never on, and lambda has no effect"
    if share == 1:
        return "is not above any chosen score: the NLL term makes no difference between good and bad answers"
    return f"lets {percent(share)} of the chosen answers have the NLL term"


def notes(report: dict[str, Any]) -> list[str]:
    """Return what should be looked at before training."""
    whole, said = report["all"], []
    if report["unusable"]:
        said.append(f"{report['unusable']:,} rows hold no pair and are left out ({report['first_unusable']}).")
    if not whole["scored"]:
        return said + ["No row has both scores: run `data.py score` first. Lengths and images are still shown."]
    if missing := report["unscored"]["either"]:
        sides = (f"{report['unscored'][side]:,} of {side}" for side in ("chosen", "rejected"))
        said.append(
            f"{missing:,} pairs lack a finite score ({', '.join(sides)} answers) and are left out of everything about "
            "scores; training would stop at the first."
        )
    said += _about_scale(whole)
    if whole["ties"] > 0.2 * whole["scored"]:
        said.append(
            f"{percent(whole['ties'] / whole['scored'])} of the pairs are ties: w_qual is one half whatever eta."
        )
    if whole["reversed"] > 0.5 * whole["scored"]:
        said.append("More than half of the pairs are reversed: are the two score columns swapped?")
    elif whole["reversed"] > 0.1 * whole["scored"]:
        said.append(
            f"{percent(whole['reversed'] / whole['scored'])} of the pairs are reversed: their scores contradict the "
            "preference, and a larger eta silences them sooner."
        )
    return said


def _about_scale(whole: dict[str, Any]) -> list[str]:
    said = []
    for side, found in whole["values"].items() if whole["scored"] > 1 else ():
        score, share = found["commonest"], found["share"]
        if found["different"] == 1:
            said.append(f"All {side} answers have the score {score:g}: was it measured?")
        elif found["different"] <= 20 and whole["scored"] > 20:
            said.append(f"Only {found['different']} different scores of {side} answers: thresholds move in steps.")
        if 1 > share > max(0.05, 3 * found["share_of_next"]) and whole["scored"] > 20:
            said.append(
                f"{percent(share)} of the {side} scores are exactly {score:g}: is that a score, or what was written "
                "where there was none?"
            )
    return said


def _about_eta(report: dict[str, Any], margins: np.ndarray) -> list[str]:
    suggested, said = report["suggested"]["eta"], []
    if suggested is None:
        said.append("eta: no margin is positive, so none can be suggested.")
    else:
        weights, positive = quality_weights(margins, suggested), int((margins > 0).sum())
        said.append(
            f"eta {suggested:g} is suggested: it gives the median of the {positive:,} positive margins, "
            f"{report['all']['median_positive_margin']:.3g}, a w_qual of about .75, half as much again as a tie has "
            f"(eta = log 3 / margin). With it, w_qual goes from {weights['p10']:.2f} to {weights['p90']:.2f} for the "
            f"middle 80 % of pairs, and the pairs count like {percent(weights['effective'])} of as many that weigh "
            "alike." + _caution(positive, len(margins))
        )
    for value, whose in _others(report["eta"], PUBLISHED["eta"], suggested):
        said.append(f"eta {value:g}{whose} {verdict_on_eta(quality_weights(margins, value))}.")
    return said


def _about_tau_good(report: dict[str, Any], chosen: np.ndarray) -> list[str]:
    suggested, said = report["suggested"]["tau_good"], []
    if suggested is None:
        said.append("tau_good: all chosen scores are equal, so it can only be all of them or none.")
    else:
        share = share_good(chosen, suggested)
        near = abs(share - 0.5) <= 0.1
        half = "about the upper half" if near else "as near to half as the steps of the scores allow"
        higher = "; set it higher to imitate only the best" if chosen.max() > suggested else ""
        said.append(
            f"tau_good {suggested:g} is suggested: {percent(share)} of the chosen answers score at least that, {half}"
            f". These are imitated (the NLL term) whenever the policy falls behind the reference on them{higher}."
        )
    for value, whose in _others(report["tau_good"], PUBLISHED["tau_good"], suggested):
        said.append(f"tau_good {value:g}{whose} {verdict_on_tau_good(share_good(chosen, value))}.")
    return said


def _caution(positive: int, pairs: int) -> str:
    """Return what to hold against an eta that goes by so many positive margins."""
    if positive <= pairs / 2:
        return f" But only {percent(positive / pairs)} of the margins are positive: settle that first."
    return " So few pairs make it no more than a guess." if positive < FEW else ""


def _others(given: float, published: float, suggested: float | None) -> list[tuple[float, str]]:
    """Return the given and the published value, unless they say nothing new, with whose they are."""
    if given == published:
        return [(given, " (as published)")] if given != suggested else [(given, " is also the published one: it")]
    return [(value, whose) for value, whose in ((given, ""), (published, " (as published)")) if value != suggested]


def _shortened(value: float, spread: float) -> float:
    """Return a value rounded down to a hundredth of the spread, at most, in decimal digits."""
    if not spread > 0:
        return value
    digits = 2 - math.floor(math.log10(spread))
    if abs(digits) > 40:  # scores are float32
        return value
    return float(f"{math.floor(value * 10.0**digits) / 10.0**digits:.15g}")

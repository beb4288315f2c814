"""What the numbers mean for eta, tau_good and lengths, in sentences that go by sign, size and number of pairs."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from .measures import quality_weights, share_good
from .wording import number, percent


PUBLISHED = {"eta": 0.7, "tau_good": 2.5}  # of the published multimodal runs
MEDIAN_WEIGHT = 0.75  # of w_qual at the median positive margin, which the suggested eta leads to
FLAT, SATURATED = 0.95, 0.5  # shares of pairs from which w_qual is said to do nothing, or to be a switch
ALIKE = 0.02  # difference between weights that makes none
FEW = 30  # pairs from which nothing should be concluded
STRENGTHS = ((0.1, "no"), (0.3, "weak"), (0.5, "moderate"), (math.inf, "strong"))  # of a correlation or a balance
SMALL = 0.05  # difference in length, as a share of the length, that makes none
SURE = 2.0  # standard errors


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
    upper part itself, as far as that changes less than half a per cent.
    """
    ordered = np.sort(chosen.astype(np.float32))  # as training compares them
    if not len(ordered) or ordered[0] == ordered[-1]:
        return None
    middle = ordered[(len(ordered) - 1) // 2]
    higher = ordered[np.searchsorted(ordered, middle, side="right") :]
    best = min([middle, *higher[:1]], key=lambda score: abs(share_good(chosen, score) - 0.5))
    short = (math.floor(float(best) * 10**digits) / 10**digits for digits in range(8))
    alike = (score for score in short if abs(share_good(chosen, score) - share_good(chosen, best)) < 0.005)
    return next(alike, float(str(best)))


def verdict_on_eta(weights: dict[str, Any]) -> str:
    """Say in words what an eta does, given its `quality_weights`."""
    half, saturated, low, high = (weights[key] for key in ("about_half", "saturated", "p10", "p90"))
    spread = f"w_qual from {low:.2f} to {high:.2f} for the middle 80 % of pairs"
    between = f"w_qual is between .49 and .51 for {percent(half)} of the pairs"
    beyond = f"w_qual is above .99 or below .01 for {percent(saturated)} of the pairs"
    return _first(
        (half >= FLAT, f"does almost nothing: {between}"),
        (saturated >= SATURATED, f"saturates: {beyond}, of which it sees the sign of the margin and no more"),
        (half >= 0.5, f"does nothing for most pairs: {between}"),
        (high - low < ALIKE, f"weighs the pairs alike: {spread}"),
        (True, f"is in its range: {spread}"),
    )


def verdict_on_tau_good(share: float) -> str:
    """Say in words what a tau_good does, given the share of chosen scores at or above it."""
    return _first(
        (share == 0, "is above every chosen score: the NLL term is never on, and lambda has no effect"),
        (share == 1, "is not above any chosen score: the NLL term makes no difference between good and bad answers"),
        (True, f"lets {percent(share)} of the chosen answers have the NLL term"),
    )


def notes(report: dict[str, Any]) -> list[str]:
    """Return what should be looked at before training."""
    whole, unscored, pairs = report["all"], report["unscored"], report["all"]["scored"]
    said = [f"{report['unusable']:,} rows hold no pair and are left out ({report['first_unusable']})."]
    said = said if report["unusable"] else []
    if not pairs:
        return said + ["No row has both scores: run `data.py score` first. Lengths and images are still shown."]
    if unscored["either"]:
        said.append(
            f"{unscored['either']:,} pairs lack a finite score ({unscored['chosen']:,} of chosen, "
            f"{unscored['rejected']:,} of rejected answers) and are left out of everything about scores; training "
            "would stop at the first."
        )
    for side, found in whole["values"].items() if pairs > 1 else ():
        score, share, different = found["commonest"], found["share"], found["different"]
        missing = "is that a score, or what was written where there was none?"
        if different == 1:
            said.append(f"All {side} answers have the score {score:g}: was it measured?")
        elif different <= 20 < pairs:
            said.append(f"Only {different} different scores of {side} answers: thresholds move in steps.")
        if 1 > share > max(0.05, 3 * found["share_of_next"]) and pairs > 20:
            said.append(f"{percent(share)} of the {side} scores are exactly {score:g}: {missing}")
    ties, turned = (whole[kind] / pairs for kind in ("ties", "reversed"))
    if ties > 0.2:
        said.append(f"{percent(ties)} of the pairs are ties: w_qual is one half whatever eta.")
    if turned > 0.5:
        said.append("More than half of the pairs are reversed: are the two score columns swapped?")
    elif turned > 0.1:
        said.append(
            f"{percent(turned)} of the pairs are reversed: their scores contradict the preference, and a larger eta "
            "silences them sooner."
        )
    return said


def _first(*verdicts: tuple[bool, str]) -> str:
    """Return the first of some sentences that holds."""
    return next(said for holds, said in verdicts if holds)


def about_eta(report: dict[str, Any], margins: np.ndarray) -> Iterator[str]:
    """Say which eta is suggested, why, and what others do."""
    suggested = report["suggested"]["eta"]
    if suggested is None:
        yield "eta: no margin is positive, so none can be suggested."
    else:
        weights, positive = quality_weights(margins, suggested), int((margins > 0).sum())
        few = f" But only {percent(positive / len(margins))} of the margins are positive: settle that first."
        caution = _first(
            (positive <= len(margins) / 2, few),
            (positive < FEW, " So few pairs make it no more than a guess."),
            (True, ""),
        )
        yield (
            f"eta {suggested:g} is suggested: it gives the median of the {positive:,} positive margins, "
            f"{report['all']['median_positive_margin']:.3g}, a w_qual of about .75, half as much again as a tie has "
            f"(eta = log 3 / margin). With it, w_qual goes from {weights['p10']:.2f} to {weights['p90']:.2f} for the "
            f"middle 80 % of pairs, and the pairs count like {percent(weights['effective'])} of as many that weigh "
            f"alike.{caution}"
        )
    for value, whose in _others(report, "eta"):
        yield f"eta {value:g}{whose} {verdict_on_eta(quality_weights(margins, value))}."


def about_tau_good(report: dict[str, Any], chosen: np.ndarray) -> Iterator[str]:
    """Say which tau_good is suggested, why, and what others do."""
    suggested = report["suggested"]["tau_good"]
    if suggested is None:
        yield "tau_good: all chosen scores are equal, so it can only be all of them or none."
    else:
        share = share_good(chosen, suggested)
        near = abs(share - 0.5) <= 0.1
        half = "about the upper half" if near else "as near to half as the steps of the scores allow"
        higher = "; set it higher to imitate only the best" if chosen.max() > suggested else ""
        yield (
            f"tau_good {suggested:g} is suggested: {percent(share)} of the chosen answers score at least that, {half}"
            f". These are imitated (the NLL term) whenever the policy falls behind the reference on them{higher}."
        )
    for value, whose in _others(report, "tau_good"):
        yield f"tau_good {value:g}{whose} {verdict_on_tau_good(share_good(chosen, value))}."


def _others(report: dict[str, Any], name: str) -> list[tuple[float, str]]:
    """Return the given and the published value, unless they say nothing new, with whose they are."""
    given, published, suggested = report[name], PUBLISHED[name], report["suggested"][name]
    if given == published == suggested:
        return [(given, " is also the published one: it")]
    whose = {given: "", published: " (as published)"}
    return [(value, words) for value, words in whose.items() if value != suggested]


def meaning_of_lengths(lengths: dict[str, Any]) -> str:
    """Say in words what `lengths_and_scores` mean for training."""
    said = [_of_the_choice(lengths["pull"], lengths["unit"])]
    if (rank := lengths["length_and_score"]) is not None:
        word, direction = _strength_of(rank, lengths["scored"]), "higher" if rank > 0 else "lower"
        weak = "How long an answer is says little about its score."
        said.append(weak if word == "no" else f"Longer answers score {direction} ({word} correlation).")
    if (rank := lengths["difference_and_margin"]) is None:
        said.append("Without margins and lengths that differ, nothing can be said about weights and length.")
    elif (word := _strength_of(rank, lengths["scored"])) == "no":
        said.append(
            "How much longer the chosen answer is than the rejected says little about the margin, and so about w_qual."
        )
    else:
        more = "longer" if rank > 0 else "shorter"
        said.append(
            f"The {more} the chosen answer is against the rejected, the larger the margin and w_qual ({word})."
        )
    return " ".join(said)


def _strength_of(value: float, pairs: float) -> str:
    """Return a word for a correlation; "no" also where chance gives as large a one for so many pairs."""
    word = next(word for limit, word in STRENGTHS if abs(value) < limit)
    return word if abs(value) * math.sqrt(max(0.0, pairs - 1)) > SURE else "no"


def _of_the_choice(pull: dict[str, Any], unit: str) -> str:
    """Say whether longer or shorter answers are preferred: what training imitates, whatever the scores say."""
    chosen, rejected, net = pull["chosen"], pull["rejected"], pull["longer"] - pull["shorter"]
    weighted = "weighted by w_qual, " if pull["weighted"] else ""
    figures = (
        f"{weighted}the chosen answer has {number(chosen)} {unit} on average and the rejected {number(rejected)}; it "
        f"is the longer one in {percent(pull['longer'])}, the shorter one in {percent(pull['shorter'])}"
    )
    word, direction = _strength_of(net, pull["pairs"] + 1), "longer" if net > 0 else "shorter"
    chance = abs(net) * math.sqrt(pull["pairs"]) < SURE
    small = abs(chosen - rejected) <= SMALL * (chosen + rejected) / 2
    expect = f"Expect the model's answers to get {direction}, and compare them with the same prompts before and after."
    return _first(
        (chance, f"No bias for length can be told from chance in {pull['pairs']:.0f} pairs: {figures}."),
        (small or word == "no", f"There is no bias for length to speak of in which answer is chosen: {figures}."),
        (
            net * (chosen - rejected) < 0,
            f"Which lengths are preferred depends on whether one counts pairs or {unit}: {figures}.",
        ),
        (True, f"There is a {word} bias for {direction} answers: {figures}. {expect}"),
    )

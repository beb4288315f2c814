"""What lengths mean for training, in sentences that go by the sign, the size and the number of pairs."""

import math
from typing import Any

from .wording import number, percent


STRENGTHS = ((0.1, "no"), (0.3, "weak"), (0.5, "moderate"), (math.inf, "strong"))  # of a correlation or a balance
SMALL = 0.05  # difference in length, as a share of the length, that nobody will notice
SURE = 2.0  # standard errors


def meaning_of_lengths(lengths: dict[str, Any]) -> str:
    """Say in words what `lengths_and_scores` mean for training."""
    said = [_of_the_choice(lengths["pull"], lengths["unit"])]
    said += _of_scores(lengths["length_and_score"], lengths["scored"])
    said += _of_margins(lengths["difference_and_margin"], lengths["scored"])
    return " ".join(said)


def strength_of(value: float, pairs: float) -> str:
    """Return a word for a correlation; "no" also where chance gives as large a one for so many pairs."""
    word = next(word for limit, word in STRENGTHS if abs(value) < limit)
    return word if abs(value) * math.sqrt(max(0.0, pairs - 1)) > SURE else "no"


def _of_the_choice(pull: dict[str, Any], unit: str) -> str:
    """Say whether longer or shorter answers are preferred: what training imitates, whatever the scores say."""
    chosen, rejected = pull["chosen"], pull["rejected"]
    weighted = "weighted by w_qual, " if pull["weighted"] else ""
    figures = (
        f"{weighted}the chosen answer has {number(chosen)} {unit} on average and the rejected {number(rejected)}; it "
        f"is the longer one in {percent(pull['longer'])}, the shorter one in {percent(pull['shorter'])}"
    )
    net, balance = pull["longer"] - pull["shorter"], pull["balance"]
    if abs(pull["errors"]) < SURE:
        return f"No bias for length can be told from chance in {pull['pairs']:.0f} pairs: {figures}."
    if abs(chosen - rejected) <= SMALL * (chosen + rejected) / 2 or abs(balance) < STRENGTHS[0][0]:
        return f"There is no bias for length to speak of in which answer is chosen: {figures}."
    if abs(net) >= STRENGTHS[0][0] and net * balance < 0:
        return f"Which lengths are preferred depends on whether one counts pairs or {unit}: {figures}."
    direction = "longer" if balance > 0 else "shorter"
    word = next(word for limit, word in STRENGTHS if abs(balance) < limit)
    return (
        f"There is a {word} bias for {direction} answers: {figures}. Expect the model's answers to get {direction}, "
        "and compare them with the same prompts before and after."
    )


def _of_scores(rank: float | None, pairs: int) -> list[str]:
    if rank is None:
        return []
    word = strength_of(rank, pairs)
    if word == "no":
        return ["How long an answer is says little about its score."]
    return [f"Longer answers score {'higher' if rank > 0 else 'lower'} ({word} correlation)."]


def _of_margins(rank: float | None, pairs: int) -> list[str]:
    if rank is None:
        return ["Without margins and lengths that differ, nothing can be said about weights and length."]
    word = strength_of(rank, pairs)
    if word == "no":
        return [
            "How much longer the chosen answer is than the rejected says little about the margin, and so about w_qual."
        ]
    more = "longer" if rank > 0 else "shorter"
    return [f"The {more} the chosen answer is against the rejected, the larger the margin and w_qual ({word})."]

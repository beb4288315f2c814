"""Choosing pairs from the answers to a question."""

import hashlib
from collections import Counter
from dataclasses import dataclass
from itertools import combinations, pairwise

from .question import MEDIA, Answer, Question, Unusable


STRATEGIES = ("best-worst", "all", "adjacent")
Pair = tuple[Answer, Answer]


@dataclass(frozen=True)
class Pairing:
    """How pairs are chosen."""

    strategy: str = "best-worst"  # one of `STRATEGIES`
    min_margin: float | None = None  # the least margin of a pair, None for any
    most: int | None = None  # pairs of a question, None for any number
    seed: int = 0  # of the choice where there are more
    by: str = "rank"  # or "score": what decides where a question has both


def choose(question: Question, pairing: Pairing, counts: Counter[str]) -> list[Pair]:
    """Return pairs of answers, the preferred one first; answers that tie or say the same are never paired.

    `all` takes every two answers, `adjacent` those of neighbouring ranks (or, if scores decide, of neighbouring
    scores), `best-worst` the two furthest apart, one pair a question. Of more than `pairing.most`, a sample is taken
    that depends on the seed and on question and answers, not on where they are in the data.

    A question that says itself which answer is preferred has that one pair. Answers that are left out are added to
    `counts`, by reason.

    Raises:
        Unusable: there is no such pair; the reason says why.
    """
    answers = _usable(question, counts)
    if len(answers) < 2:
        raise Unusable("less than two answers that can be used")
    if question.given:
        candidates, by = [question.answers[:2]], ""
    else:
        answers = _decided(answers, counts)
        other = {"rank": "score", "score": "rank"}[pairing.by]
        by = pairing.by if sum(getattr(answer, pairing.by) is not None for answer in answers) > 1 else other
        candidates = _candidates(answers, by, pairing.strategy, counts)
    different = [pair for pair in dict.fromkeys(candidates) if pair[0].text.strip() != pair[1].text.strip()]
    if not different:
        raise Unusable("the answers are the same", understood=True)
    if pairing.min_margin is not None:
        margins = {pair: margin(pair) for pair in different}
        different = [pair for pair, apart in margins.items() if apart is not None and apart >= pairing.min_margin]
    if not different:
        raise Unusable("the margin is less than --min-margin, or unknown", understood=True)
    if pairing.strategy == "best-worst" and not question.given:
        return [max(different, key=lambda pair: _value(pair[0], by) - _value(pair[1], by))]
    if pairing.most is None or len(different) <= pairing.most:
        return different
    drawn = sorted(different, key=lambda pair: _lot(question, pair, pairing.seed))[: pairing.most]
    return [pair for pair in different if pair in drawn]


def margin(pair: Pair) -> float | None:
    """Return how far two answers are apart: in scores if both have one, in ranks if both have one, else None."""
    better, worse = pair
    if better.score is not None and worse.score is not None:
        return better.score - worse.score
    return None if better.rank is None or worse.rank is None else worse.rank - better.rank


def contradicts(pair: Pair) -> bool:
    """Tell whether the scores of a pair say the opposite of what made it a pair."""
    scores = [answer.score for answer in pair]
    return None not in scores and scores[0] < scores[1]


def _usable(question: Question, counts: Counter[str]) -> list[Answer]:
    """Return the answers that training can take; a pair that is given needs both of its answers."""
    usable = []
    for answer in question.answers:
        marked = any(mark in answer.text for mark in MEDIA)
        problem = "with <image>, <video> or <audio>" if marked else "empty" if not answer.text.strip() else ""
        problem = answer.problem or problem
        if problem and question.given:
            raise Unusable(answer.problem or f"an answer is {problem}", understood=marked)
        if problem:
            counts[problem] += 1
        else:
            usable.append(answer)
    return usable


def _decided(answers: list[Answer], counts: Counter[str]) -> list[Answer]:
    """Return one answer of each text, the one of which most is known; none of a text that is valued in several ways.

    That would be chosen in one pair and rejected in another, or weigh twice.
    """
    groups: dict[str, list[Answer]] = {}
    for answer in answers:
        groups.setdefault(answer.text.strip(), []).append(answer)
    decided = []
    for group in groups.values():
        if any(len({getattr(answer, what) for answer in group} - {None}) > 1 for what in ("score", "rank")):
            counts["the same text with several scores or ranks"] += len(group)
        else:
            decided.append(max(group, key=lambda answer: (answer.score is not None) + (answer.rank is not None)))
    if len(decided) < 2 <= len(groups):
        raise Unusable("a text has several scores or ranks, and nothing is left to pair", understood=True)
    return decided


def _candidates(answers: list[Answer], by: str, strategy: str, counts: Counter[str]) -> list[Pair]:
    """Pair answers of different preference: all of them, or only those of neighbouring levels of preference."""
    known = [answer for answer in answers if getattr(answer, by) is not None]
    if len(known) < len(answers):
        counts[f"without a {by}"] += len(answers) - len(known)
    if len(known) < 2:
        raise Unusable("less than two answers with a number for score or rank (are --score and --rank right?)")
    levels: dict[float, list[Answer]] = {}
    for answer in sorted(known, key=lambda answer: -_value(answer, by)):
        levels.setdefault(_value(answer, by), []).append(answer)
    if len(levels) < 2:
        raise Unusable("all answers tie", understood=True)
    steps = pairwise(levels.values()) if strategy == "adjacent" else combinations(levels.values(), 2)
    return [(better, worse) for above, below in steps for better in above for worse in below]


def _value(answer: Answer, by: str) -> float:
    return answer.score if by == "score" else -answer.rank


def _lot(question: Question, pair: Pair, seed: int) -> bytes:
    drawn = "\0".join((str(seed), question.turns[-1].text, pair[0].text, pair[1].text))
    return hashlib.blake2b(drawn.encode("utf-8", "surrogatepass"), digest_size=8).digest()

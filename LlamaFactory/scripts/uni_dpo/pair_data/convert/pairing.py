"""Choosing pairs from the answers to a question."""

import hashlib
from collections import Counter
from dataclasses import dataclass
from itertools import combinations, pairwise

from .question import MEDIA, Question
from .ratings import Answer, TooFew, Unusable


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
    min_answers: int = 2  # a question with fewer different answers has no pair


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
        raise TooFew("less than two answers that can be used")
    decided = answers if question.given else _decided(answers, counts)
    if not question.given and len(decided) < pairing.min_answers:
        raise Unusable(f"less than {pairing.min_answers} different answers (--min-answers)", understood=True)
    values = {} if question.given else _values(decided, pairing.by, counts)
    pairs = [question.answers[:2]] if question.given else _candidates(values, pairing.strategy)
    pairs = [pair for pair in pairs if pair[0].text.strip() != pair[1].text.strip()]
    if not pairs:
        raise Unusable("the answers are the same", understood=True)
    if pairing.min_margin is not None:
        margins = {pair: margin(pair) for pair in pairs}
        pairs = [pair for pair, apart in margins.items() if apart is not None and apart >= pairing.min_margin]
    if not pairs:
        raise Unusable("the margin is less than --min-margin, or unknown", understood=True)
    if pairing.strategy == "best-worst" and not question.given:
        return [max(pairs, key=lambda pair: values[pair[0]] - values[pair[1]])]
    drawn = sorted(pairs, key=lambda pair: _lot(question, pair, pairing.seed))[: pairing.most]
    return [pair for pair in pairs if pair in drawn]


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


def _values(answers: list[Answer], by: str, counts: Counter[str]) -> dict[Answer, float]:
    """Return the numbers that decide, higher for better: `by`, or the other kind where only that is known."""
    ranks = {answer: -answer.rank for answer in answers if answer.rank is not None}
    scores = {answer: answer.score for answer in answers if answer.score is not None}
    first, other = (ranks, scores) if by == "rank" else (scores, ranks)
    values = first if len(first) > 1 else other
    if len(values) < len(answers):
        counts[f"without a {'rank' if values is ranks else 'score'}"] += len(answers) - len(values)
    if len(values) < 2:
        raise Unusable("less than two answers with a number for score or rank (are --score and --rank right?)")
    return values


def _candidates(values: dict[Answer, float], strategy: str) -> list[Pair]:
    """Pair answers of different values, or only of neighbouring ones."""
    levels = sorted(set(values.values()), reverse=True)
    if len(levels) < 2:
        raise Unusable("all answers tie", understood=True)
    steps = set(pairwise(levels) if strategy == "adjacent" else combinations(levels, 2))
    ordered = sorted(values, key=values.get, reverse=True)
    return [pair for pair in combinations(ordered, 2) if (values[pair[0]], values[pair[1]]) in steps]


def _lot(question: Question, pair: Pair, seed: int) -> bytes:
    drawn = "\0".join((str(seed), question.turns[-1].text, pair[0].text, pair[1].text))
    return hashlib.blake2b(drawn.encode("utf-8", "surrogatepass"), digest_size=8).digest()

"""Pairs of many answers: properties that hold for whatever answers."""

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pair_data.convert.pairing import STRATEGIES, Pairing, choose, margin
from pair_data.convert.question import Question, Turn
from pair_data.convert.ratings import Answer, Unusable, score_of


ASKED = (Turn("user", "Why?"),)
NUMBERS = st.one_of(st.none(), st.integers(0, 4).map(float), st.floats(-10, 10))
TEXTS = st.one_of(st.sampled_from(["a", "b", "c", " a ", "", "see <image>"]), st.text(max_size=5))
ANSWERS = st.lists(st.builds(Answer, TEXTS, NUMBERS, NUMBERS), min_size=2, max_size=7)
PAIRINGS = st.builds(
    Pairing,
    st.sampled_from(STRATEGIES),
    st.sampled_from([None, 0.0, 0.5, 1.5]),
    st.one_of(st.none(), st.integers(1, 4)),
    st.integers(0, 3),
    st.sampled_from(["rank", "score"]),
)


def pairs_of(answers, pairing):
    try:
        return choose(Question(ASKED, tuple(answers)), pairing, Counter())
    except Unusable as error:
        assert error.reason
        return []


def order_of(answers, pairing):
    """What decides, worked out anew: the numbers of the usable answers, higher is better."""
    texts = [a.text.strip() for a in answers if a.text.strip() and "<image>" not in a.text]
    usable = []
    for text in dict.fromkeys(texts):
        alike = [a for a in answers if a.text.strip() == text]
        if len({a.score for a in alike} - {None}) < 2 and len({a.rank for a in alike} - {None}) < 2:
            usable.append(min(alike, key=lambda a: [a.score, a.rank].count(None)))
    ranked = [a for a in usable if a.rank is not None]
    scored = [a for a in usable if a.score is not None]
    if len(ranked) > 1 and (pairing.by == "rank" or len(scored) < 2):
        return {a: -a.rank for a in ranked}
    return {a: a.score for a in scored}


@settings(max_examples=100, deadline=None, derandomize=True)
@given(ANSWERS, PAIRINGS)
def test_pairs_are_those_that_the_help_promises(answers, pairing):
    """A tie, a text twice, an unusable answer, too small a margin; `all` without one, `adjacent` with a gap."""
    order, found = order_of(answers, pairing), pairs_of(answers, pairing)
    for better, worse in found:
        assert order[better] > order[worse] and better.text.strip() != worse.text.strip()
        assert pairing.min_margin is None or margin((better, worse)) >= pairing.min_margin
    assert len(found) == len(set(found)) <= (pairing.most or 99)
    assert pairing.strategy != "best-worst" or len(found) <= 1
    free = replace(pairing, min_margin=None, most=None)
    everything, adjacent, widest = (
        pairs_of(answers, replace(free, strategy=strategy)) for strategy in ("all", "adjacent", "best-worst")
    )
    assert set(everything) == {(a, b) for a in order for b in order if order[a] > order[b]}
    assert adjacent == [
        (a, b) for a, b in everything if not any(order[a] > level > order[b] for level in order.values())
    ]
    assert bool(widest) == bool(everything)
    assert all(order[a] - order[b] <= order[widest[0][0]] - order[widest[0][1]] for a, b in everything)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(ANSWERS, st.integers(0, 5), st.permutations(range(7)))
def test_samples_depend_on_seed_and_content_only(answers, seed, places):
    """Another order of rows or answers, or another cut into files, would give other data."""
    answers = [replace(answer, text=f"{n} {answer.text}") for n, answer in enumerate(answers)]
    moved = [answers[place] for place in places if place < len(answers)]
    pairing = Pairing("all", most=2, seed=seed)
    assert set(pairs_of(answers, pairing)) == set(pairs_of(moved, pairing))
    plain = [Answer(str(n), float(n)) for n in range(6)]
    assert len({tuple(pairs_of(plain, Pairing("all", most=2, seed=seed + more))) for more in range(9)}) > 4


@pytest.mark.parametrize(
    ("value", "score"),
    [
        ("4", 4),
        (True, None),
        ("nan", None),
        ({"Helpfulness": {"Rating": "4", "Rationale": "2 faults"}, "Ethics": {"Rating": "N/A"}, "rank": 9}, 4),
        ({"accuracy": 3, "detail": {"score": 5}}, 4),
        ({"overall_score": 2, "detail": 5}, 2),
        ([1, "2", "N/A"], 1.5),
        ({"Rating": "N/A"}, None),
    ],
)
def test_scores(value, score):
    """Ratings of several aspects would be averaged wrongly, or "N/A" taken for a number."""
    assert score_of(value) == score

"""The numbers of `data.py stats`, against plain numpy, scipy and the loss that training uses."""

import json

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import stats

from llamafactory.train.uni_dpo.objective.loss import uni_dpo_loss
from pair_data.images import vision_tokens
from pair_data.sources import open_source
from pair_data.stats.advice import (
    meaning_of_lengths,
    suggest_eta,
    suggest_tau_good,
    verdict_on_eta,
    verdict_on_tau_good,
)
from pair_data.stats.gather import as_records, image_folder
from pair_data.stats.measures import (
    bins_for,
    histogram,
    lengths_and_scores,
    quality_weights,
    rank_correlation,
    share_good,
)
from pair_data.stats.report import describe


ETA, TAU_GOOD = 0.3, 2.5
SUBSETS = {"long": 0.5, "short": 0.3, "mcq": 0.2}
LOSS = {"beta": 2.0, "tau_ref": 2.0, "perf_gamma": 3.0, "nll_lambda": 1.0, "tau_good": 2.5}
floats = st.floats(-1e30, 1e30, allow_subnormal=False)
few = settings(deadline=None, max_examples=60)


@pytest.fixture(scope="module")
def rows():
    """Pairs with ties, reversed ones, scores exactly at tau_good, and some that are missing."""
    rng = np.random.default_rng(3)
    rows = []
    for row, subset in enumerate(rng.choice(list(SUBSETS), 2000, p=list(SUBSETS.values()))):
        chosen, rejected = (round(float(score), 1) for score in rng.normal((2.5, 1), 1.2))
        rows.append(
            {
                "instruction": f"<image>Number {row}?",
                "chosen": "y" * int(rng.integers(1, 90) + 9 * max(0, chosen - rejected)),
                "rejected": "n" * int(rng.integers(1, 90)),
                "score_chosen": [None, float("nan"), "soon"][row % 3] if row % 17 == 0 else chosen,
                "score_rejected": None if row % 51 == 3 else rejected,
                "images": [f"/elsewhere/MM-RLHF/{subset}/{row}.png"],
            }
        )
    return rows


def described(folder, rows, **options):
    (folder / "pairs.json").write_text(json.dumps(rows))
    return describe(open_source(str(folder / "pairs.json")), **options)


@pytest.fixture(scope="module")
def report(tmp_path_factory, rows):
    return described(tmp_path_factory.mktemp("stats"), rows, eta=ETA, tau_good=TAU_GOOD, with_images=False)


def plain(rows, subset=""):
    """Return chosen scores, rejected scores and lengths of the rows that have both scores, by nothing but Python."""
    good = [
        row
        for row in rows
        if isinstance(row["score_chosen"], float)
        and row["score_chosen"] == row["score_chosen"]
        and row["score_rejected"] is not None
        and f"/{subset}" in row["images"][0]
    ]
    lengths = np.array([(len(row["chosen"]), len(row["rejected"])) for row in good])
    return *(np.array([row[f"score_{side}"] for row in good]) for side in ("chosen", "rejected")), lengths


@pytest.mark.parametrize("subset", ["", *SUBSETS])
def test_scores_and_margins(report, rows, subset):
    """Every share and quantile is of exactly the rows with two scores, of this subset; the others are counted."""
    chosen, rejected, _ = plain(rows, subset)
    margins = chosen - rejected
    part = report["subsets"][subset] if subset else report["all"]
    assert part["scored"] == len(chosen) < report["rows"] == report["pairs"] == 2000
    assert report["unscored"]["chosen"] == sum(row % 17 == 0 for row in range(2000))
    assert report["unscored"]["rejected"] == sum(row % 51 == 3 for row in range(2000))
    assert part["ties"] == sum(chosen == rejected) > 0
    assert part["reversed"] == sum(chosen < rejected) > 0
    assert part["good"] == pytest.approx(np.mean(chosen >= TAU_GOOD)) != np.mean(chosen > TAU_GOOD)
    for name, values in (("chosen", chosen), ("rejected", rejected), ("margin", margins)):
        found = part["histograms"][name]
        expected = [np.percentile(values, 10), np.median(values), np.std(values)]
        assert [part[name][key] for key in ("p10", "median", "std")] == pytest.approx(expected)
        assert found["counts"] == np.histogram(values, found["edges"])[0].tolist()
    assert part["margin_deciles"] == pytest.approx(np.percentile(margins, range(0, 101, 10)))
    assert part["median_positive_margin"] == pytest.approx(np.median(margins[margins > 0]))


@pytest.mark.parametrize("eta", [0.0, 0.7, 40.0])
def test_w_qual_is_that_of_the_loss(rows, eta):
    """The weights shown are those training will use, and the effective share is (sum w)^2 / (n sum w^2) of them."""
    chosen, rejected, _ = plain(rows)
    scores = (torch.tensor(side, dtype=torch.float64) for side in (chosen, rejected))
    weights = uni_dpo_loss(*[torch.zeros(len(chosen)).double()] * 4, *scores, **LOSS, qual_eta=eta).w_qual.numpy()
    found = quality_weights(chosen - rejected, eta)
    assert found["mean"] == pytest.approx(weights.mean())
    assert found["std"] == pytest.approx(weights.std(), abs=1e-12)
    assert found["effective"] == pytest.approx(weights.sum() ** 2 / (weights**2).sum() / len(weights))
    assert found["about_half"] == pytest.approx(np.mean((weights >= 0.49) & (weights <= 0.51)))
    assert found["at_deciles"] == pytest.approx(np.percentile(weights, range(0, 101, 10)), abs=1e-4)


@pytest.mark.parametrize("score", [2.5, np.nextafter(2.5, 0), 2.4999])
def test_tau_good_is_that_of_the_loss(score):
    """At the threshold itself the NLL term is on, and scores are rounded to float32 first, as in training."""
    below, reference = torch.full((1,), -2.0), torch.full((1,), -1.0)
    scores = torch.tensor([score], dtype=torch.float32)
    term = uni_dpo_loss(below, below, reference, reference, scores, scores, **LOSS, qual_eta=0.7).nll_weight
    assert share_good(np.array([score]), 2.5) == term.item()


def test_lengths(report, rows):
    """Length bias is that of the rank correlation scipy finds, and lengths are of all pairs, scored or not."""
    chosen, rejected, lengths = plain(rows)
    found = report["lengths"]
    expected = stats.spearmanr(lengths[:, 0] - lengths[:, 1], chosen - rejected).statistic
    assert found["difference_and_margin"] == pytest.approx(expected) and expected > 0.1
    both = stats.spearmanr(lengths.T.ravel(), np.concatenate([chosen, rejected])).statistic
    assert found["length_and_score"] == pytest.approx(both)
    assert found["chosen_longer"] == np.mean([len(row["chosen"]) > len(row["rejected"]) for row in rows])
    assert found["chosen"]["median"] == np.median([len(row["chosen"]) for row in rows])
    assert sum(group["pairs"] for group in found["tenths"]) == len(chosen)
    assert "bias for longer answers" in found["meaning"]
    assert rank_correlation(np.ones(5), np.arange(5.0)) is None


NOISE = np.random.default_rng(0).normal(0, 0.2, 200)
SHORT, LONG = np.random.default_rng(1).integers(1, 5, 200), np.random.default_rng(2).integers(25, 45, 200)
SHORTER = ("a strong bias for shorter answers", "get shorter")


@pytest.mark.parametrize(
    ("numbers", "says"),
    [
        # All chosen are shorter, and longer answers score lower: "no bias to speak of" it was.
        ((SHORT, LONG, 3 + NOISE, 1 - NOISE), (*SHORTER, "score lower (strong", "says little about the margin")),
        # They are shorter, and the less so the larger the margin: "strong bias for longer answers" it was.
        ((SHORT, LONG, 3 + (SHORT - LONG) / 20, 1), (*SHORTER, "The longer the chosen answer is against the")),
        # Longer and shorter by turns; mostly a little shorter, seldom much longer; a hundredth longer in every pair.
        ((10 + np.sign(NOISE), 10 - np.sign(NOISE), 3 - NOISE, 1), ("No bias for length can be told from chance",)),
        ((np.where(np.arange(200) % 10, 90, 900), 100, 3 + NOISE, 1), ("depends on whether",)),
        (([101] * 200, 100, 3 + NOISE, 1), ("no bias for length to speak of",)),
        # Three pairs tell nothing, and no scores are no weights.
        (([1, 2, 3], [30, 40, 50], [3, 4, 5], 1), ("can be told from chance in 3 pairs",)),
        ((SHORT, LONG, np.nan, np.nan), (*SHORTER, "can be said about weights")),
    ],
)
def test_words_about_lengths_follow_the_figures(numbers, says):
    """Direction, size and number of pairs: what the page shows a line above must not contradict it."""
    names = ("chosen_length", "rejected_length", "chosen", "rejected")
    columns = dict(zip(names, np.broadcast_arrays(*numbers), strict=True))
    pairs = as_records(columns | {"margin": columns["chosen"] - columns["rejected"]})
    said = meaning_of_lengths(lengths_and_scores(pairs, "characters", 0.7))
    assert all(words in said for words in says), said
    assert says[:2] != SHORTER or "for longer answers" not in said


def test_images(tmp_path, rows):
    """Sizes and tokens are of images that exist, missing ones are counted, and a large set is sampled twice alike."""
    for number in range(40):
        Image.new("L", (50 + 30 * number, 90)).save(tmp_path / f"{number}.png")
    (tmp_path / "40.png").write_text("no image")
    many = [row | {"images": [f"{number}.png" if number < 42 else "0.png"]} for number, row in enumerate(rows)]
    many += [row | {"images": ["gone.png"]} for row in rows[:500]]  # a sample of the first ones would miss these
    few, many, again = (described(tmp_path, many[:count])["images"] for count in (42, 2500, 2500))
    assert (few["references"], few["looked_at"], few["missing"], few["unreadable"]) == (42, 42, 1, 1)
    widths = [50 + 30 * number for number in range(40)]
    assert few["width"]["median"] == np.median(widths) and few["width"]["most"] == max(widths)
    assert few["tokens"]["median"] == np.median([vision_tokens(width, 90) for width in widths])
    assert many == again
    assert (many["references"], many["looked_at"]) == (2500, 2000)
    assert 350 < many["missing"] < 450  # 501 of 2,500 are, so that 401 of 2,000 are to be expected


def test_subsets_by_folder():
    """Published paths, their relative and Windows forms are the same subsets; other folders are not guessed at."""
    assert image_folder(("/x/MM-RLHF/long/a.png",)) == image_folder(("long/a.png",)) == "long"
    assert image_folder(({"path": "D:\\data\\MM-RLHF\\mcq\\b\\a.png"},)) == "mcq"
    assert image_folder(()) == "(no image)"
    others = ("/x/a.png", "a.png", "C:\\a\\b.png", "../a.png", b"bytes")
    assert {image_folder((image,)) for image in others} == {"(other images)"}


@example([0.0, -8.4e-307, -8.4e-307, -8.4e-307, 1e30])
@few
@given(st.lists(st.one_of(floats, st.integers(0, 9).map(float), st.just(1e30)), min_size=1, max_size=60))
def test_histograms_of_anything(scores):
    """No value is lost, bins are in order and few, and next to nothing is left to the overflow bins."""
    values = np.array(scores)
    found = histogram(values, bins_for(values))
    edges = np.array(found["edges"])
    assert (np.diff(edges) >= 0).all() and 2 <= len(edges) <= 18
    assert sum(found["counts"]) + found["below"] + found["above"] == len(values)
    assert found["below"] + found["above"] <= 2 + 0.01 * len(values)


def test_histograms_with_an_outlier_and_of_steps():
    """A wild value must not flatten the rest, and each step of a scale gets a bin of its own."""
    values = np.append(np.random.default_rng(0).normal(0, 1, 5000), 1e9)
    found = histogram(values, bins_for(values))
    assert found["above"] >= 1 and found["edges"][-1] < 10 and 0.0 in found["edges"]
    assert bins_for(np.array([1, 2, 2, 5.0])) == [0.5, 1.5, 2.5, 3.5, 4.5, 5.5]


@few
@given(st.lists(st.one_of(st.floats(-50, 50), st.integers(1, 5).map(float)), min_size=2, max_size=60))
def test_suggested_tau_good_halves_the_answers(scores):
    """No other threshold comes nearer to half of the chosen answers, but for half a per cent given up for digits."""
    chosen = np.array(scores)
    suggested = suggest_tau_good(chosen)
    if suggested is None:
        assert len(set(chosen.astype(np.float32))) == 1
        return
    nearest = min(abs(share_good(chosen, score) - 0.5) for score in scores)
    assert abs(share_good(chosen, suggested) - 0.5) <= nearest + 0.005


@few
@given(st.floats(1e-20, 1e20))
def test_suggested_eta_gives_three_quarters(margin):
    """The median positive margin gets w_qual .75; log 3 by another base, or a sign, would not."""
    assert quality_weights(np.array([margin]), suggest_eta(margin))["mean"] == pytest.approx(0.75, abs=0.01)
    assert suggest_eta(None) is None
    # 2.7 for two and two thirds would leave out the very answers that were meant.
    assert suggest_tau_good(np.arange(17) / 3) == 2.6


@pytest.mark.parametrize(
    ("margins", "says"),
    [
        (np.linspace(0.001, 0.02, 100), "almost nothing"),
        (np.linspace(10, 200, 100), "saturates"),
        (np.linspace(0.1, 2, 100), "in its range"),
        (np.full(100, 1.0), "alike"),  # .67 to .67 is no range
        (np.repeat([0.0, 3.0], [60, 40]), "for most pairs"),
    ],
)
def test_verdicts(margins, says):
    """Settings that do nothing, or everything, are called that; others are not."""
    assert says in verdict_on_eta(quality_weights(margins, 0.7))
    shares = {0.0: "above every", 1.0: "not above any", 0.4: "lets 40.0 %"}
    assert all(words in verdict_on_tau_good(share) for share, words in shares.items())


@pytest.mark.parametrize(
    ("chosen", "rejected", "says", "never"),
    [
        ([1.0] * 90 + [2.0] * 10, 0.0, "as near to half as the steps", "about the upper half"),
        ([1.0, 2.0] * 50, 0.0, "about the upper half", "set it higher"),
        (list(range(100)), 40.0, "50.0 % of the chosen", "guess"),
        ([2.0, 3.0], 1.0, "no more than a guess", "But only"),
        ([1.0] * 10 + [0.0] * 30, 0.5, "But only 25.0 % of the margins are positive", "guess"),
    ],
)
def test_suggestions_do_not_contradict_their_figures(tmp_path, chosen, rejected, says, never):
    """Half that is no half, a guess from two pairs, an eta that goes by a few."""
    pair = {"instruction": "?", "chosen": "a", "rejected": "b", "score_rejected": rejected}
    advice = " ".join(described(tmp_path, [pair | {"score_chosen": score} for score in chosen], eta=ETA)["advice"])
    assert says in advice and never not in advice

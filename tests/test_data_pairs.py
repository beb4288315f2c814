"""`data.py pairs`: pairs of scored answers, old pairs among them, and what training will make of both."""

import json

import pytest
from data_cli import data
from PIL import Image
from score_runs import read, write

from pair_data.sources import open_source
from pair_data.stats.report import describe


def answered(folder, *groups, name="scored.jsonl", first=0):
    """Write questions with scored answers, (text, score) or (text, score, cut), and return the file."""
    rows = []
    for number, group in enumerate(groups, first):
        Image.new("RGB", (56, 56), (number % 256, 0, 0)).save(folder / f"{number}.png")
        answers = [
            {"text": text, "times": 1, "tokens": 3, "cut": bool(cut), "by": {"model": "m"}, "score": value}
            for text, value, *cut in group
        ]
        question = {"instruction": f"<image>Question {number}?", "reference": ["x"], "images": [f"{number}.png"]}
        rows.append(question | {"answers": answers})
    return write(folder / name, rows)


def pairs(*arguments):
    status, said, wrong = data("pairs", *arguments)
    return status, said + wrong


def told(path):
    return [(row["instruction"][-2], row["chosen"], row["rejected"]) for row in read(path)]


GROUPS = [
    [("good", 9), ("fair", 5), ("bad", 1)],
    [("yes", 7), ("no", 2)],
    [("one", 4)],
    [("left", 3), ("right", 3)],
    [("whole", 2), ("cut off", 9, True)],
]


@pytest.mark.parametrize(
    "options, wanted",
    [
        ((), [("0", "good", "bad"), ("1", "yes", "no")]),
        (("--min-answers", 3), [("0", "good", "bad")]),
        (("--pairs", "all"), [("0", "good", "fair"), ("0", "good", "bad"), ("0", "fair", "bad"), ("1", "yes", "no")]),
        (("--pairs", "adjacent", "--min-margin", 5), [("1", "yes", "no")]),
    ],
)
def test_which_answers_make_pairs(tmp_path, options, wanted):
    """Also where most questions give none: that is how things are when a model gets good, and no mistake."""
    out = tmp_path / "pairs.json"
    status, said = pairs(answered(tmp_path, *GROUPS), "-o", out, *options)
    assert status == 0 and told(out) == wanted, said
    assert "1 answers left out: cut at the limit of its length (row 4)" in said
    assert "all answers tie (row 3)" in said or "--min-answers" in options
    row = read(out)[0]
    assert row["images"] == [f"{row['instruction'][-2]}.png"] and row["score_chosen"] - row["score_rejected"] > 0


def test_answers_of_ones_own_about_text_alone(tmp_path):
    """Rows that nobody sampled: without images, and without what `sample` says of an answer."""
    rows = [{"instruction": "Which?", "answers": [{"text": "red", "score": 2}, {"text": "blue", "score": 1}]}]
    status, said = pairs(write(tmp_path / "own.jsonl", rows), "-o", tmp_path / "pairs.json")
    assert status == 0, said
    assert [(row["chosen"], row["images"]) for row in read(tmp_path / "pairs.json")] == [("red", [])]


def test_what_is_shown_is_what_stats_shows(tmp_path):
    out, report = tmp_path / "pairs.json", tmp_path / "report.json"
    file = answered(tmp_path, *[[("good", n % 7), ("bad", n % 3 - 3)] for n in range(40)])
    given = ("--eta", 0.4, "--tau-good", 3)
    status, said = pairs(file, "-o", out, *given, "--report", report)
    assert status == 0, said
    wanted = describe(open_source(str(out)), None, 0.4, 3, None, False)
    found = json.loads(report.read_text())
    assert {name: found[name] for name in wanted} == json.loads(json.dumps(wanted))
    assert found["questions"] == 40 and found["old_pairs"] == 0
    assert "W_QUAL = sigmoid(eta * margin)" in said and "eta 0.4 *" in said
    assert all(" ".join(line.split()) in " ".join(said.split()) for line in wanted["advice"])


@pytest.fixture
def old(tmp_path):
    """A file of fifty old pairs in a folder of its own, with images beside it."""
    folder = tmp_path / "last"
    folder.mkdir()
    status, said = pairs(
        answered(folder, *[[("old good", 8), ("old bad", 2)] for _ in range(50)], first=100), "-o", folder / "old.json"
    )
    assert status == 0, said
    return folder / "old.json"


def mixed(file, out, *options):
    status, said = pairs(file, "-o", out, *options)
    assert status == 0, said
    return read(out), said


def test_old_pairs_have_their_share_and_come_evenly(tmp_path, old):
    """The share is of the new ones, the old ones come last, or their images are looked for in the wrong folder."""
    file = answered(tmp_path, *[[("new good", 9), ("new bad", 1)] for _ in range(28)])
    rows, said = mixed(file, tmp_path / "pairs.json", "--mix", old, "--mix-share", 0.3)
    origins = [row["origin"] for row in rows]
    assert (origins.count("new"), origins.count("old")) == (28, 12) and "12 of them from 50 old ones, 30.0%" in said
    assert all(2 <= origins[start : start + 10].count("old") <= 4 for start in range(0, 40, 10))
    taken = [row for row in rows if row["origin"] == "old"]
    assert all(Image.open(tmp_path / row["images"][0]).size == (56, 56) for row in rows)
    assert all(row["images"][0] == str(old.parent / f"{row['instruction'][-4:-1]}.png") for row in taken)
    assert all((row["score_chosen"], row["chosen"]) == (8, "old good") for row in taken)
    assert 'SUBSETS, by column "origin"' in said


def test_which_old_pairs_depends_on_seed_and_content(tmp_path, old):
    """Runs cannot be repeated, or every round takes the same old pairs."""
    file, out = answered(tmp_path, *[[("new good", 9), ("new bad", 1)] for _ in range(10)]), tmp_path / "pairs.json"

    def taken(*options):
        rows, _ = mixed(file, out, "--mix", old, "--mix-share", 0.5, *options)
        return {row["instruction"] for row in rows if row["origin"] == "old"}

    first = taken()
    assert first == taken() and len(first) == 10 and taken("--seed", 1) != first
    rows = read(old)
    write(old, rows[::-1])
    assert taken() == first


def test_too_few_old_pairs_and_such_as_are_new_too(tmp_path, old):
    file = answered(tmp_path, *[[("new good", 9), ("new bad", 1)] for _ in range(300)])
    again = [row | {"images": [str(old.parent / row["images"][0])]} for row in read(old)][:3]
    fresh, said = mixed(file, tmp_path / "fresh.json")
    also = [row | {"images": [str(tmp_path / row["images"][0])]} for row in fresh[:2]]
    twice = write(old.parent / "twice.jsonl", [*again, *also])
    rows, said = mixed(file, tmp_path / "pairs.json", "--mix", old, "--mix", twice, "--mix-share", 0.3)
    assert "50 of them from 55 old ones, 14.3%; 129 are wanted for the share, and no more there" in said, said
    assert len(rows) == len({(row["instruction"], row["chosen"]) for row in rows}) == 350


@pytest.mark.parametrize(
    "options, told",
    [
        (("--mix", "old.json"), "--mix and --mix-share go together"),
        (("--mix-share", "0.3"), "--mix and --mix-share go together"),
        (("--mix", "old.json", "--mix-share", "1"), "--mix-share 1: a share of all pairs, above 0 and below 1"),
        (("--mix", "gone.json", "--mix-share", "0.3"), "gone.json"),
        (("--mix", "scored.jsonl", "--mix-share", "0.3", "-o", "scored.jsonl"), "scored.jsonl is also read"),
        (("--eta", "inf"), "--eta and --tau-good must be finite"),
    ],
)
def test_mistakes_are_one_message(tmp_path, monkeypatch, options, told):
    monkeypatch.chdir(tmp_path)
    answered(tmp_path, *GROUPS)
    status, said = pairs("scored.jsonl", "-o", "pairs.json", *options)
    assert status == 2 and told in said and "Traceback" not in said and not (tmp_path / "pairs.json").exists()


def test_old_pairs_without_scores_are_refused(tmp_path, old):
    """Training would stop at the first of them."""
    rows = [{name: value for name, value in row.items() if "score" not in name} for row in read(old)]
    write(old.with_name("plain.jsonl"), rows)
    given = ("--mix", old.with_name("plain.jsonl"), "--mix-share", 0.5)
    status, said = pairs(answered(tmp_path, *GROUPS), "-o", tmp_path / "pairs.json", *given)
    assert status == 2 and "2 of 4 pairs have scores, and training wants them for all" in said

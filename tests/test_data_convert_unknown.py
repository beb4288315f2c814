"""Data of an unknown shape, whose fields options name: nothing is passed over without a word."""

import copy
import json

import pytest
from raw_shapes import convert

from pair_data.rows import read_rows
from pair_data.writing import write_rows


NAMES = ["--question", "sample.ask", "--answers", "candidates", "--text", "txt"]
OPTIONS = [*NAMES, "--image", "sample.media.uri", "--score", "marks"]


def row(number):
    """Return a question with one picture, three answers and two marks for each."""
    media = [{"kind": "img", "uri": f"pics/{number}.jpg"}]
    marks = [{"helpful": 1 + n, "faithful": 2 + n} for n in range(3)]
    answers = [{"txt": f"Answer {n}.", "by": f"model-{n}", "marks": mark} for n, mark in enumerate(marks)]
    return {"id": f"q-{number}", "sample": {"media": media, "ask": "What?"}, "candidates": answers}


@pytest.fixture
def run(tmp_path):
    """Convert rows; return the report and the pairs, or the error."""

    def run(rows, *options, fails=False):
        output = tmp_path / "out.json"
        write_rows(tmp_path / "in.jsonl", rows)
        report = convert(tmp_path / "in.jsonl", "-o", output, *(options or OPTIONS), fails=fails)
        return report if fails else (report, list(read_rows(output)))

    return run


def changed(change, count=4):
    """Return rows, after something was done to each answer."""
    rows = [row(number) for number in range(count)]
    for one in rows:
        for number, answer in enumerate(one["candidates"]):
            change(number, answer)
    return rows


def test_images_in_a_list_of_objects_are_taken(run):
    """All pictures would be lost without a word."""
    rows = [row(number) for number in range(4)]
    rows[1]["sample"]["media"].append({"kind": "img", "uri": "pics/more.jpg"})
    rows[2]["sample"]["media"] = []
    rows[3]["sample"]["media"] = None
    report, pairs = run(rows)
    assert [pair["images"] for pair in pairs] == [["pics/0.jpg"], ["pics/1.jpg", "pics/more.jpg"], [], []]
    assert pairs[1]["instruction"] == "<image><image>What?"
    assert "2 of them with images, 2 without" in report


@pytest.mark.parametrize(
    ("option", "typed", "there"),
    [
        ("--image", "sample.media.url", "sample.media[].uri, sample.ask, candidates[].txt"),
        ("--question", "sample.question", "sample.ask"),
        ("--answers", "answers", "candidates[].txt"),
        ("--text", "text", "Within an answer: txt, by, marks.helpful"),
        ("--score", "mark", "Within an answer: txt, by, marks.helpful"),
        ("--rank", "rank", "Within an answer: txt, by, marks.helpful"),
    ],
)
def test_a_name_that_is_nowhere_is_an_error(run, option, typed, there):
    """A typing error would give other data: pictures, scores or ranks are missing, and nothing says so."""
    message = run([row(0), row(1)], *OPTIONS, option, typed, fails=True)
    assert f"{option} {typed}: no row has anything there" in message and there in message


def test_a_name_has_to_be_in_some_row_only(run):
    """A set whose pictures come late would be refused."""
    rows = [row(number) for number in range(70)]
    for one in rows[:69]:
        del one["sample"]["media"]
    assert "1 of them with images, 69 without" in run(rows)[0]


def test_marks_of_several_kinds_are_named_and_have_to_be_whole(run):
    """A mean of other marks than those of the other answers would be compared with theirs."""
    report, pairs = run(changed(lambda n, answer: answer["marks"].update(why="so")))
    assert "score = mean of marks.helpful, marks.faithful" in report and pairs[0]["score_chosen"] == 3.5
    for odd in (None, "3,5", "4/5", "", float("nan")):
        report, pairs = run(changed(lambda n, answer, odd=odd: n == 2 and answer["marks"].update(helpful=odd)))
        assert "4 answers left out: no number in marks.helpful, of which the score is a mean" in report
        assert ("(3,5 or 4/5 is none)" in report) == (bool(odd))
        assert {pair["chosen"] for pair in pairs} == {"Answer 1."}
    as_lists = changed(lambda n, answer: answer.update(marks=[n, 2][: n + 1 or 1]))
    assert "4 answers left out: no number in marks.1" in run(as_lists)[0]
    report, pairs = run(
        changed(lambda n, answer: n == 2 and answer["marks"].pop("faithful")), *OPTIONS, "--score", "marks.helpful"
    )
    assert pairs[0]["score_chosen"] == 3 and "mean" not in report
    both = [*OPTIONS, "--score", "marks.helpful,marks.faithful"]
    assert "score = mean of marks.helpful, marks.faithful" in run([row(0)], *both)[0]
    text = run(changed(lambda n, answer: answer["marks"].update(helpful=f"{n}/5")), fails=True)
    assert "12 answers left out: no number in marks.helpful" in text


def test_marks_that_become_several_later_are_no_score(run):
    """What the first rows do not have would be averaged without a word."""
    rows = changed(lambda n, answer: answer.update(marks=n), 65)
    rows.append(row(65))
    report, pairs = run(rows)
    assert len(pairs) == 65 and "3 answers left out: no number in marks (row 65)" in report and "mean" not in report


@pytest.mark.parametrize(("text", "kind"), [(None, "missing or null"), (["a"], "a list"), (3, "a number")])
def test_answers_that_are_no_text_are_counted(run, text, kind):
    """Answers would be missing without a word."""
    report, _ = run(changed(lambda n, answer: answer.update(txt=text if n == 1 else answer["txt"])))
    assert f"4 answers left out: the text is {kind} (row 0, row 1, row 2)" in report
    message = run(changed(lambda n, answer: answer.update(txt=text)), fails=True)
    said = f"no row has text there, the first has {json.dumps(text)}" if text else "no row has anything there"
    assert f"--text txt: {said}" in message


def test_a_rank_that_is_no_number_is_an_error(run):
    """The option would have no effect, and scores decide instead."""
    message = run([row(0), row(1)], *OPTIONS, "--rank", "by", fails=True)
    assert '--rank by: no row has a number there, the first has "model-0"' in message


def test_a_video_is_no_image(run):
    """Training would open a video as a picture."""
    rows = [row(number) for number in range(3)]
    rows[1]["sample"]["media"][0]["uri"] = "v/1.MP4"
    report, pairs = run(rows)
    assert len(pairs) == 2 and "1 left out: a video or sound file where an image should be (row 1)" in report


def test_unknown_shapes_list_nested_names(run):
    """Nothing would say what to type."""
    message = run([row(0)], "--limit", "5", fails=True)
    assert "id, sample.media[].kind, sample.media[].uri, sample.ask, candidates[].txt" in message


GIVEN = {"instruction": "What?", "chosen": "a cat", "rejected": "a dog"}


@pytest.mark.parametrize(
    ("odd", "reason"),
    [
        ({"chosen": None}, "there is no chosen answer"),
        ({"rejected": None}, "there is no rejected answer"),
        ({"chosen": ["a"]}, "neither text nor messages"),
        ({"instruction": None}, "there is no question"),
        ({"instruction": None, "prompt": "What?", "score_chosen": 2, "score_rejected": 1}, "there is no question"),
    ],
)
def test_an_odd_row_does_not_decide_the_shape(run, odd, reason):
    """One bad row would end it all, or the beginning of its answers be taken for the question."""
    for rows in ([GIVEN, GIVEN | odd, GIVEN], [GIVEN | odd, GIVEN, GIVEN]):
        report, pairs = run(rows, "--limit", "9")
        assert "recognised as alpaca" in report and f"1 not understood: {reason}" in report and len(pairs) == 2


def test_a_line_that_is_a_list_is_one_bad_line(run, tmp_path):
    """The end of the file would be called broken, and nothing read."""
    lines = tmp_path / "lines.jsonl"
    lines.write_text("\n".join(map(json.dumps, [[1, 2], *(row(number) for number in range(3))])))
    report = convert(lines, "-o", tmp_path / "out.json", *OPTIONS)
    assert "1 not understood: not an object with columns (row 0)" in report
    lines.write_text(json.dumps([copy.deepcopy(row(0))]) + "\n\n")
    assert "1 pairs in" in convert(lines, "-o", tmp_path / "out.json", *OPTIONS)

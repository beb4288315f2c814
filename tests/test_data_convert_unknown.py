"""Data of an unknown shape, whose fields options name: nothing is passed over without a word."""

import json

import pytest
from raw_shapes import convert_rows


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
    return lambda rows, *options, **fails: convert_rows(tmp_path, rows, *(options or OPTIONS), **fails)


def changed(change, count=4):
    """Return rows, after something was done to each answer."""
    rows = [row(number) for number in range(count)]
    for one in rows:
        for number, answer in enumerate(one["candidates"]):
            change(number, answer)
    return rows


def test_images_in_a_list_of_objects_are_taken(run):
    """All pictures would be lost without a word, or a video be opened as a picture."""
    rows = [row(number) for number in range(5)]
    rows[1]["sample"]["media"].append({"kind": "img", "uri": "pics/more.jpg"})
    rows[2]["sample"]["media"] = []
    rows[3]["sample"]["media"] = None
    rows[4]["sample"]["media"][0]["uri"] = "v/1.MP4"
    report, pairs = run(rows)
    assert [pair["images"] for pair in pairs] == [["pics/0.jpg"], ["pics/1.jpg", "pics/more.jpg"], [], []]
    assert pairs[1]["instruction"] == "<image><image>What?" and "2 of them with images, 2 without" in report
    assert "1 left out: a video or sound file where an image should be (row 4)" in report


WITHIN = "Within an answer: txt, by, marks.helpful"


@pytest.mark.parametrize(
    ("option", "typed", "said"),
    [
        ("--image", "sample.media.url", "anything there. There are: id, sample.media[].kind, sample.media[].uri"),
        ("--question", "sample.question", "anything there. There are: id, sample.media[].kind"),
        ("--answers", "answers", "anything there. There are: id, sample.media[].kind"),
        ("--text", "text", f"anything there. {WITHIN}"),
        ("--score", "mark", f"anything there. {WITHIN}"),
        ("--rank", "rank", f"anything there. {WITHIN}"),
        ("--rank", "by", f'a number there, the first has "model-0". {WITHIN}'),
    ],
)
def test_a_name_that_is_nowhere_is_an_error(run, option, typed, said):
    """A typing error would give other data: pictures, scores or ranks are missing, and nothing says so."""
    assert f"{option} {typed}: no row has {said}" in run([row(0), row(1)], *OPTIONS, option, typed, fails=True)


def test_a_name_has_to_be_in_some_row_only(run):
    """A set whose pictures come late would be refused."""
    rows = [row(number) for number in range(70)]
    for one in rows[:69]:
        del one["sample"]["media"]
    assert "1 of them with images, 69 without" in run(rows)[0]


HELPFUL = "4 answers left out: no number in marks.helpful, of which the score is a mean"


@pytest.mark.parametrize(
    ("change", "options", "said", "score"),
    [
        (lambda n, answer: answer["marks"].update(why="so"), (), "score = mean of marks.helpful, marks.faithful", 3.5),
        *(
            (lambda n, answer, odd=odd: n == 2 and answer["marks"].update(helpful=odd), (), HELPFUL + more, 2.5)
            for odd, more in ((None, " ("), ("", " ("), ("3,5", " (3,5 or 4/5 is none)"), (float("nan"), " (3,5 or"))
        ),
        (lambda n, answer: answer.update(marks=[n, 2][: n + 1]), (), "4 answers left out: no number in marks.1", 2),
        (lambda n, answer: n == 2 and answer["marks"].pop("faithful"), ("--score", "marks.helpful"), "4 pairs", 3),
        (
            lambda n, answer: None,
            ("--score", "marks.helpful,marks.faithful"),
            "score = mean of marks.helpful, marks.faithful",
            3.5,
        ),
    ],
)
def test_marks_of_several_kinds_are_named_and_have_to_be_whole(run, change, options, said, score):
    """A mean of other marks than those of the other answers would be compared with theirs."""
    report, pairs = run(changed(change), *OPTIONS, *options)
    assert said in report and pairs[0]["score_chosen"] == score
    assert ("mean" in report) is ("mean" in said or "marks.1" in said)


def test_marks_that_become_several_later_are_no_score(run):
    """What the first rows do not have would be averaged without a word; so much of so much is no number at all."""
    report, pairs = run([*changed(lambda n, answer: answer.update(marks=n), 65), row(65)])
    assert len(pairs) == 65 and "3 answers left out: no number in marks (row 65)" in report and "mean" not in report
    text = run(changed(lambda n, answer: answer["marks"].update(helpful=f"{n}/5")), fails=True)
    assert "12 answers left out: no number in marks.helpful" in text


@pytest.mark.parametrize(("text", "kind"), [(None, "missing or null"), (["a"], "a list"), (3, "a number")])
def test_answers_that_are_no_text_are_counted(run, text, kind):
    """Answers would be missing without a word."""
    report, _ = run(changed(lambda n, answer: answer.update(txt=text if n == 1 else answer["txt"])))
    assert f"4 answers left out: the text is {kind} (row 0, row 1, row 2)" in report
    message = run(changed(lambda n, answer: answer.update(txt=text)), fails=True)
    said = f"no row has text there, the first has {json.dumps(text)}" if text else "no row has anything there"
    assert f"--text txt: {said}" in message


def test_unknown_shapes_list_nested_names(run):
    """Nothing would say what to type."""
    message = run([row(0)], "--limit", "5", fails=True)
    assert "id, sample.media[].kind, sample.media[].uri, sample.ask, candidates[].txt" in message


GIVEN = {"instruction": "What?", "chosen": "a cat", "rejected": "a dog"}


@pytest.mark.parametrize(
    ("odd", "reason"),
    [
        ({"chosen": None}, "there is no chosen answer"),
        ({"chosen": ["a"]}, "neither text nor messages"),
        ({"instruction": None, "prompt": "What?", "score_chosen": 2, "score_rejected": 1}, "there is no question"),
    ],
)
def test_an_odd_row_does_not_decide_the_shape(run, odd, reason):
    """One bad row would end it all, or the beginning of its answers be taken for the question."""
    for rows in ([GIVEN, GIVEN | odd, GIVEN], [GIVEN | odd, GIVEN, GIVEN]):
        report, pairs = run(rows, "--limit", "9")
        assert "recognised as alpaca" in report and f"1 not understood: {reason}" in report and len(pairs) == 2


def test_a_line_that_is_a_list_is_one_bad_line(run):
    """The end of the file would be called broken, and nothing read."""
    assert "1 not understood: not an object with columns (row 0)" in run([[1, 2], *(row(n) for n in range(3))])[0]

"""Rows that give no pair and images inside of rows: counted, refused, or written once."""

import base64
import io
import json
import os
import tempfile
from functools import partial
from pathlib import Path

import pytest
from PIL import Image
from raw_shapes import convert, convert_rows, draw, say

from pair_data.convert.pictures import Pictures
from pair_data.convert.ratings import Unusable
from pair_data.rows import read_rows
from pair_data.writing import write_rows


PAIR = {"prompt": "Why?", "chosen": "So.", "rejected": "No."}
ANSWERS = [{"text": f"Because of {n}.", "score": n} for n in (1, 2, 4)]


@pytest.fixture
def run(tmp_path):
    return partial(convert_rows, tmp_path)


def swift(**columns):
    """Return a row of ms-swift with further columns."""
    turns = [say("user", "<image>Why?"), say("assistant", "So.")]
    return {"messages": turns, "rejected_response": "No.", "images": ["a.png"]} | columns


def implicit(*images):
    """Return a row of whole dialogues, each with an image of its own inside."""
    asked = [[{"type": "image", "image": image}, {"type": "text", "text": "Why?"}] for image in images]
    texts = ("So.", "No.")
    sides = ([say("user", parts), say("assistant", text)] for parts, text in zip(asked, texts, strict=True))
    return dict(zip(("chosen", "rejected"), sides, strict=True))


TURNS = [[say("user", asked), say("assistant", "Yes.")] for asked in ("Is it?", "Is it not?")]
LOST = "left out: something else to look at"
ROWS = [  # and why there is no pair, if there is none
    (PAIR | {"prompt": " "}, "not understood: there is no question"),
    (PAIR | {"rejected": "So."}, "left out: the answers are the same"),
    (PAIR | {"images": ["a", "b"], "prompt": "<image>?"}, "not understood: another number of <image> than of images"),
    (PAIR | {"chosen": "An <image>"}, "left out: an answer is with <image>"),
    (PAIR | {"rejected": ""}, "not understood: an answer is empty"),
    (PAIR | {"image": "https://example.org/a.png"}, "not understood: an image on the web"),
    (PAIR | {"chosen": [say("tool", "x")]}, "not understood: a message that is neither from"),
    ({"chosen": TURNS[0], "rejected": TURNS[1]}, "not understood: the two dialogues differ"),
    (PAIR | {"image": "a.png", "image_rejected": "b.png"}, LOST),
    (PAIR | {"chosen_score": "8/10", "rejected_score": "3/10"}, "not understood: a score such as 8/10"),
    ({"prompt": "?", "responses": [{"text": "a", "score": "80 %"}, {"text": "b", "score": "5"}]}, "8/10"),
    (implicit("a.png", "a.png"), ""),
    (implicit("a.png", "a.png") | {"rejected": "No."}, ""),  # to the dialogue of the other
    (implicit("a.png", "b.png"), LOST),
    (implicit("a.png", "a.png") | {"images": ["b.png"]}, "other images in its column"),
    (swift(rejected_images=["a.png"]), ""),
    (swift(rejected_images=["a.png", "b.png"]), LOST),
    (swift(images=[], rejected_images=["b.png"]), LOST),
    (swift(images=[], chosen_images=["a.png"], rejected_images=["a.png"]), ""),
    (swift(images=[], chosen_images=["a.png"]), LOST),
    (swift(rejected_tools="[]"), LOST),
    (swift(tools="[]", rejected_tools="[]"), ""),
    (swift(system="A.", rejected_system="B."), LOST),
    (swift(audios=["a.wav"]), "left out: a sound"),
    (swift(videos=["a.mp4"]), "left out: a video"),
    (swift(messages=[say("user", "<image><bbox>?"), say("assistant", "So.")]), "<bbox>"),
    (swift(rejected_response=["No.", "Never."]), "several rejected answers"),
    (swift(rejected_response=["No."]), ""),
    (swift(system="A.", messages=[say("system", "B."), *swift()["messages"]]), "a system prompt in its"),
]


@pytest.mark.parametrize(("row", "reason"), ROWS)
def test_a_row_gives_its_pair_or_the_reason_why_not(run, row, reason):
    """The rejected answer would be trained on the image, tools or system prompt of the chosen, or the row vanish."""
    if reason:
        assert reason in run([row], fails=True)
        return
    (pair,) = run([row])[1]
    assert (pair["chosen"], pair["rejected"], pair["images"]) == ("So.", "No.", ["a.png"])


def test_rows_that_give_no_pair_are_counted_by_reason(run, tmp_path):
    """Data would vanish without a word, or a bad row would end it all."""
    bad, broken = ROWS[:11], tmp_path / "broken.jsonl"
    write_rows(broken, [*[PAIR] * 12, *(row for row, _ in bad)])
    with broken.open("a") as lines:
        lines.write("{broken\n" + json.dumps(PAIR) + "\n")
    report = convert(broken, "-o", tmp_path / "some.json")
    assert len(list(read_rows(tmp_path / "some.json"))) == 13
    for number, reason in enumerate([*(reason for _, reason in bad[:9]), "a score such as", "", "not valid JSON"]):
        assert any(reason in line and f"row {12 + number}" in line for line in report.splitlines()), reason
    strict = convert(broken, "-o", tmp_path / "strict.json", "--strict", fails=True)
    assert "row 12 (the first is 0)" in strict and not (tmp_path / "strict.json").exists()
    message = run([PAIR, *[PAIR | {"chosen": ""}] * 2], fails=True)
    assert "2 of 3 rows" in message and "an answer is empty" in message and "--from" in message


def test_shapes_that_are_unknown_or_several_are_refused(run):
    """A guess would be trained on."""
    message = run([{"one": 1, "two": "a"}], fails=True)
    assert "one, two" in message and all(f"  {name} " in message for name in ("trl", "alpaca", "answers", "ms-swift"))
    mixed = [PAIR, {"instruction": "q", "chosen": "a", "rejected": "b"}]
    assert "several shapes: alpaca, trl" in run(mixed, fails=True)
    assert "shapes are" in run(mixed, "--from", "nothing", fails=True)
    assert run(mixed, "--from", "trl")[1][0]["chosen"] == "So."


@pytest.mark.parametrize(("kind", "suffix"), [("PNG", ".png"), ("JPEG", ".jpg"), ("WEBP", ".webp"), ("GIF", ".gif")])
def test_images_inside_rows_become_files(tmp_path, kind, suffix):
    """Pictures would be changed, written twice, or named so that training takes them for something else."""
    file, pictures = io.BytesIO(), Pictures(tmp_path / "pairs.json")
    Image.new("RGB", (40, 30), "blue").save(file, kind)
    content = file.getvalue()
    text = base64.b64encode(content).decode()
    forms = [content, {"bytes": content, "path": "x"}, f"data:image/x;base64,{text}", text, text.rstrip("=")]
    forms += [{"bytes": text, "path": "x"}, base64.encodebytes(content).decode()]
    forms += [{"bytes": f"data:image/x;base64,{text}"}]
    (path,) = {pictures.place(form, tmp_path / "elsewhere") for form in forms}
    assert path.startswith("pairs_images/") and Path(path).suffix == suffix and pictures.written == 1
    assert (tmp_path / path).read_bytes() == content
    outside = Pictures(tmp_path / "pairs.json", tmp_path.parent / f"{tmp_path.name}-out").place(content, None)
    assert Path(outside).is_absolute() and Path(outside).read_bytes() == content


@pytest.mark.parametrize("image", [b"no image", {"bytes": None}, 3, "data:image/png;base64,!", "a" * 4100])
def test_what_is_no_image_is_refused(tmp_path, image):
    """A file that training cannot open would be written, or a column that is no path."""
    with pytest.raises(Unusable):
        Pictures(tmp_path / "pairs.json").place(image, None)
    assert not list(tmp_path.iterdir())


def test_paths_start_where_the_source_is(tmp_path):
    """Training looks in the output's folder, and would find nothing there, or another picture of the same name."""
    raw, out, media = (tmp_path / name for name in ("raw", "out", "media"))
    for folder in (raw, out, media):
        draw(folder / "pics" / "0.png")
    draw(out / "pics" / "1.png")
    like_base64 = "/9j/a.png"  # which begins as a JPEG does
    write_rows(raw / "in.jsonl", [PAIR | {"images": ["pics/0.png", like_base64, "pics/1.png"]}])
    for options, home, first in (
        ((), out, str(raw / "pics/0.png")),
        (("--media-dir", media), out, str(media / "pics/0.png")),
        (("--media-dir", out), out, "pics/0.png"),
        (("--image-prefix", "more/"), raw, "more/pics/0.png"),
    ):
        convert(raw / "in.jsonl", "-o", home / "out.json", *options)
        (row,) = read_rows(home / "out.json")
        assert row["images"] == [first, like_base64, first.replace("0", "1") if home == raw else "pics/1.png"]
        assert row["instruction"] == "<image>" * 3 + "Why?"


def test_sources_and_pictures_that_may_not_be_read():
    """A traceback, and for a picture that is not even opened here the end of it all."""
    import datasets  # noqa: F401  # while this user may read where Python is

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o777)
        draw(folder / "closed" / "a.png")
        for file in ("closed/in.jsonl", "in.jsonl"):
            write_rows(folder / file, [PAIR | {"image": "closed/a.png"}])
        (folder / "in.jsonl").chmod(0o644)
        (folder / "closed").chmod(0)
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)  # nothing is closed to root
        try:
            for source in ("closed/in.jsonl", "closed"):
                message = convert(folder / source, "-o", folder / "out.json", fails=True)
                assert source in message and "Traceback" not in message
            convert(folder / "in.jsonl", "-o", folder / "new" / "out.json")
            assert [row["images"] for row in read_rows(folder / "new" / "out.json")] == [["closed/a.png"]]
        finally:
            os.seteuid(user)
            (folder / "closed").chmod(0o700)


def test_advice_on_contradictions_helps(run):
    """Options would be named that change nothing: --by has no say in pairs that are given."""
    rows = [PAIR | {"chosen_score": score, "rejected_score": 1.5} for score in (1, 2)]
    report, _ = run(rows)
    assert "1 pairs whose chosen answer has the lower score: --min-margin 0" in report and "--by" not in report
    assert "lower score" not in run(rows, "--min-margin", "0")[0]
    ranked = [{"question": "?", "answers": [answer | {"rank": answer["score"]} for answer in ANSWERS]}]
    assert "--by score" in run(ranked)[0] and "lower score" not in run(ranked, "--by", "score")[0]


def test_what_is_not_used_is_named(run):
    """Margins, weights and boxes would vanish without a word; tools and history stay."""
    rows = [swift(margin=n, objects={"bbox": [[1]]} if n else None, tools=[{"name": "größe"}]) for n in range(3)]
    report, pairs = run([*rows, swift(rejected_images=["b.png"], margin=1)])
    assert "columns that nothing was taken from: margin (3 rows), objects (2 rows)" in report
    assert "1 left out: something else to look at" in report and "(row 3)" in report
    assert [pair["tools"] for pair in pairs] == ['[{"name": "größe"}]'] * 3
    several = {"question": "And?", "history": [["Why?", "So."]], "responses": ANSWERS, "model": "m"}
    twice = several | {"responses": [*ANSWERS, ANSWERS[0] | {"score": 9}]}
    report, pairs = run([several, twice], "--pairs", "all")
    assert "nothing was taken from: model (2 rows)" in report and pairs[0]["history"] == [["Why?", "So."]]
    assert "2 answers left out: the same text with several scores or ranks (row 1)" in report
    found = [(pair["chosen"][-2], pair["rejected"][-2]) for pair in pairs]
    assert sorted(found) == [("2", "1"), ("4", "1"), ("4", "2"), ("4", "2")]


def test_votes_between_two_answers(tmp_path):
    """Scores go with their answers; ties are left out; a bare number may mean either, and is refused."""
    row = {"question": "Why?", "response_a": "So.", "response_b": "No.", "points_a": 1, "points_b": 2, "choice": "B"}
    named = ["--winner", "choice", "--answers", "response_a,response_b", "--score", "points_a,points_b"]
    votes = ["B", "model_a", "tie (bothbad)", "Response B", "response_a", "2"]
    said, pairs = convert_rows(tmp_path, [row | {"choice": vote} for vote in votes], *named)
    assert [pair["chosen"] for pair in pairs] == ["No.", "So.", "No.", "So."]
    assert [pair["score_chosen"] - pair["score_rejected"] for pair in pairs] == [1, -1, 1, -1]
    assert "a tie" in said and "the winner is none of response_a, response_b, nor a tie" in said
    lists = [{"question": "Why?", "said": ["So.", "No."], "points": [3, 9], "choice": vote} for vote in ("b", "a")]
    rows = [row | {"first": row["said"][0], "then_b": row["said"][1]} for row in lists]
    named_lists = ["--winner", "choice", "--answers", "first,then_b", "--score", "points"]
    swapped = convert_rows(tmp_path, rows[:1], *named_lists)[1][0]
    assert (swapped["chosen"], swapped["score_chosen"], swapped["score_rejected"]) == ("No.", 9, 3)
    inside = ["--winner", "choice", "--answers", "said.0,said.1"]  # places say nothing: some count from 1
    said = convert_rows(tmp_path, [row | {"choice": "response_1"} for row in lists], *inside, fails=True)
    assert "write the column that won" in said
    said = convert_rows(tmp_path, [row | {"choice": 1}] * 3, *named, fails=True)
    assert "write the column that won" in said
    unnamed = [{name: value for name, value in row.items() if not name.startswith("points")}]
    assert "no shape that is known" in convert_rows(tmp_path, unnamed, fails=True)
    assert convert_rows(tmp_path, unnamed, "--winner", "choice")[1][0]["chosen"] == "No."
    preferred = [{"question": "Why?", "chosen": "So.", "rejected": "No.", "won": "rejected"}]  # is not overlooked
    named = ["--winner", "won", "--answers", "chosen,rejected"]
    assert convert_rows(tmp_path, preferred, *named)[1][0]["chosen"] == "No."
    assert "leave one of them out" in convert_rows(tmp_path, preferred, *named, "--from", "trl", fails=True)

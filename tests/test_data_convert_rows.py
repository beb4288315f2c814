"""Rows that give no pair and images inside of rows: counted, refused, or written once."""

import base64
import io
import json
import os
import tempfile
from pathlib import Path

import pytest
from PIL import Image
from raw_shapes import convert, draw, say

from pair_data.convert.fields import Fields
from pair_data.convert.pictures import Pictures
from pair_data.convert.ratings import Unusable
from pair_data.convert.shapes import read, recognise
from pair_data.rows import read_rows
from pair_data.writing import write_rows


PAIR = {"prompt": "Why?", "chosen": "So.", "rejected": "No."}
ANSWERS = [{"text": f"Because of {n}.", "score": n} for n in (1, 2, 4)]


@pytest.fixture
def source(tmp_path):
    def write(*rows):
        write_rows(tmp_path / "in.jsonl", rows)
        return tmp_path / "in.jsonl"

    return write


TURNS = [[say("user", asked), say("assistant", "Yes.")] for asked in ("Is it?", "Is it not?")]
BAD = [
    (PAIR | {"prompt": " "}, "not understood: there is no question"),
    (PAIR | {"rejected": "So."}, "left out: the answers are the same"),
    (PAIR | {"images": ["a", "b"], "prompt": "<image>?"}, "not understood: another number of <image> than of images"),
    (PAIR | {"chosen": "An <image>"}, "left out: an answer is with <image>"),
    (PAIR | {"rejected": ""}, "not understood: an answer is empty"),
    (PAIR | {"image": "https://example.org/a.png"}, "not understood: an image on the web"),
    (PAIR | {"chosen": [say("tool", "x")]}, "not understood: a message that is neither from"),
    ({"chosen": TURNS[0], "rejected": TURNS[1]}, "not understood: the two dialogues differ"),
]


def test_rows_that_give_no_pair_are_counted_by_reason(source, tmp_path):
    """Data would vanish without a word, or a bad row would end it all."""
    file, output = source(*[PAIR] * 9, *(row for row, _ in BAD)), tmp_path / "out.json"
    with file.open("a") as lines:
        lines.write("{broken\n" + json.dumps(PAIR) + "\n")
    report = convert(file, "-o", output)
    assert len(list(read_rows(output))) == 10
    for number, reason in enumerate([*(reason for _, reason in BAD), "not understood: not valid JSON"]):
        (line,) = [line for line in report.splitlines() if reason in line]
        assert line.split()[0] == "1" and f"(row {9 + number})" in line
    output.unlink()
    assert "row 9 (the first is 0)" in convert(file, "-o", output, "--strict", fails=True)
    message = convert(source(PAIR, *[PAIR | {"chosen": ""}] * 2), "-o", output, fails=True)
    assert "2 of 3 rows" in message and "an answer is empty" in message and "--from" in message
    assert "no pair" in convert(source(*[PAIR | {"rejected": "So."}] * 3), "-o", output, fails=True)
    assert not output.exists()


def test_shapes_that_are_unknown_or_several_are_refused(source, tmp_path):
    """A guess would be trained on."""
    output = tmp_path / "out.json"
    message = convert(source({"one": 1, "two": "a"}), "-o", output, fails=True)
    assert "one, two" in message and all(f"  {name} " in message for name in ("trl", "alpaca", "answers", "ms-swift"))
    mixed = source(PAIR, {"instruction": "q", "chosen": "a", "rejected": "b"})
    assert "several shapes: alpaca, trl" in convert(mixed, "-o", output, fails=True)
    convert(mixed, "-o", output, "--from", "trl")
    assert "shapes are" in convert(mixed, "-o", output, "--from", "nothing", fails=True)


def as_bytes(kind):
    file = io.BytesIO()
    Image.new("RGB", (40, 30), "blue").save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize(("kind", "suffix"), [("PNG", ".png"), ("JPEG", ".jpg"), ("WEBP", ".webp"), ("GIF", ".gif")])
def test_images_inside_rows_become_files(tmp_path, kind, suffix):
    """Pictures would be changed, written twice, or named so that training takes them for something else."""
    content, pictures = as_bytes(kind), Pictures(tmp_path / "pairs.json")
    text = base64.b64encode(content).decode()
    forms = [content, {"bytes": content, "path": "x"}, f"data:image/x;base64,{text}", text, text.rstrip("=")]
    forms += [{"bytes": text, "path": "x"}, base64.encodebytes(content).decode()]
    forms += [{"bytes": f"data:image/x;base64,{text}"}]
    (path,) = {pictures.place(form, tmp_path / "elsewhere") for form in forms}
    assert path.startswith("pairs_images/") and Path(path).suffix == suffix and pictures.written == 1
    assert (tmp_path / path).read_bytes() == content
    outside = Pictures(tmp_path / "pairs.json", tmp_path.parent / f"{tmp_path.name}-out").place(content, None)
    assert Path(outside).is_absolute() and Path(outside).read_bytes() == content


@pytest.mark.parametrize(
    "image",
    [b"no image", {"bytes": None}, 3, "data:image/png;base64,!", "http://a/b.png", "a" * 4100, {"bytes": "no image"}],
)
def test_what_is_no_image_is_refused(tmp_path, image):
    """A file that training cannot open would be written, or a column that is no path."""
    with pytest.raises(Unusable):
        Pictures(tmp_path / "pairs.json").place(image, None)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", ["/9j/a.png", "iVBORw0KGgo.png", "n" * 300, "a\0b"])
def test_a_path_stays_a_path(tmp_path, path):
    """A path that begins like base64, or that no system can look up, would end the conversion or be lost."""
    assert Pictures(tmp_path / "pairs.json").place(path, tmp_path / "elsewhere") == path


def test_paths_start_where_the_source_is(tmp_path):
    """Training looks in the output's folder, and would find nothing there, or another picture of the same name."""
    raw, out, media = (tmp_path / name for name in ("raw", "out", "media"))
    for folder in (raw, out, media):
        draw(folder / "pics" / "0.png")
    draw(out / "pics" / "1.png")
    write_rows(raw / "in.jsonl", [PAIR | {"images": ["pics/0.png", "/away/b.png", "pics/1.png"]}])
    for options, first in (((), str(raw / "pics/0.png")), (("--media-dir", media), str(media / "pics/0.png"))):
        convert(raw / "in.jsonl", "-o", out / "out.json", *options)
        (row,) = read_rows(out / "out.json")
        assert row["images"] == [first, "/away/b.png", "pics/1.png"] and row["instruction"] == "<image>" * 3 + "Why?"
    convert(raw / "in.jsonl", "-o", out / "out.json", "--media-dir", out)
    assert next(read_rows(out / "out.json"))["images"] == ["pics/0.png", "/away/b.png", "pics/1.png"]
    convert(raw / "in.jsonl", "-o", raw / "out.json", "--image-prefix", "more/")
    assert next(read_rows(raw / "out.json"))["images"] == ["more/pics/0.png", "/away/b.png", "more/pics/1.png"]


def test_an_output_that_cannot_be_written_is_refused_first(source, tmp_path):
    """Hours of reading, and images written, before the name of the output turns out to be wrong."""
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "file.txt").write_text("")
    file = source(PAIR | {"image": f"data:image/png;base64,{base64.b64encode(as_bytes('PNG')).decode()}"})
    before = sorted(tmp_path.rglob("*"))
    for name in ("out", "folder.json", "file.txt/out.json"):
        assert name in convert(file, "-o", tmp_path / name, fails=True)
        assert sorted(tmp_path.rglob("*")) == before


def test_sources_and_pictures_that_may_not_be_read():
    """A traceback, and for a picture that is not even opened here the end of it all."""
    import datasets  # noqa: F401  # while this user may read where Python is

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o777)
        draw(folder / "closed" / "a.png")
        write_rows(folder / "closed" / "in.jsonl", [PAIR])
        write_rows(folder / "in.jsonl", [PAIR | {"image": "closed/a.png"}])
        write_rows(folder / "no.jsonl", [PAIR])
        (folder / "in.jsonl").chmod(0o644)
        for path in (folder / "closed", folder / "no.jsonl"):
            path.chmod(0)
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)  # nothing is closed to root
        try:
            for source in ("closed/in.jsonl", "closed/in.csv", "no.jsonl", "closed"):
                message = convert(folder / source, "-o", folder / "out.json", fails=True)
                assert source in message and "Traceback" not in message
            convert(folder / "in.jsonl", "-o", folder / "new" / "out.json")
            assert [row["images"] for row in read_rows(folder / "new" / "out.json")] == [["closed/a.png"]]
        finally:
            os.seteuid(user)
            (folder / "closed").chmod(0o700)


def test_advice_on_contradictions_helps(source, tmp_path):
    """Options would be named that change nothing: --by has no say in pairs that are given."""
    rows = [PAIR | {"chosen_score": score, "rejected_score": 1.5} for score in (1, 2)]
    file, output = source(*rows), tmp_path / "out.json"
    report = convert(file, "-o", output)
    assert "1 pairs whose chosen answer has the lower score: --min-margin 0" in report and "--by" not in report
    assert "lower score" not in convert(file, "-o", output, "--min-margin", "0")
    ranked = {"question": "?", "answers": [answer | {"rank": answer["score"]} for answer in ANSWERS]}
    assert "--by score" in convert(source(ranked), "-o", output)
    assert "lower score" not in convert(source(ranked), "-o", output, "--by", "score")


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


LOST = "something else to look at"
SIDED = [
    (swift(rejected_images=["a.png"]), ""),
    (swift(rejected_images=["b.png"]), LOST),
    (swift(rejected_images=["a.png", "b.png"]), LOST),
    (swift(images=[], rejected_images=["b.png"]), LOST),
    (swift(images=[], chosen_images=["a.png"], rejected_images=["a.png"]), ""),
    (swift(images=[], chosen_images=["a.png"]), LOST),
    (swift(rejected_tools="[]"), LOST),
    (swift(tools="[]", rejected_tools="[]"), ""),
    (swift(system="A.", rejected_system="B."), LOST),
    (PAIR | {"image": "a.png", "image_rejected": "b.png"}, LOST),
    (implicit("a.png", "a.png"), ""),
    (implicit("a.png", "b.png"), LOST),
    (implicit("a.png", "a.png") | {"images": ["b.png"]}, "other images in its column"),
    (swift(audios=["a.wav"]), "a sound"),
    (swift(videos=["a.mp4"]), "a video"),
    (swift(messages=[say("user", "<image><bbox>?"), say("assistant", "So.")]), "<bbox>"),
    (swift(rejected_response=["No.", "Never."]), "several rejected answers"),
    (swift(rejected_response=["No."]), ""),
    (PAIR | {"chosen_score": "8/10", "rejected_score": "3/10"}, "a score such as 8/10"),
    ({"prompt": "?", "responses": [{"text": "a", "score": "80 %"}, {"text": "b", "score": "5"}]}, "8/10"),
    (swift(system="A.", messages=[say("system", "B."), *swift()["messages"]]), "a system prompt in its"),
]


@pytest.mark.parametrize(("row", "reason"), SIDED)
def test_a_pair_about_two_things_is_none(row, reason):
    """The rejected answer would be trained on the image, tools or system prompt of the chosen."""
    shape, fields = recognise([row], "here", Fields())
    if not reason:
        question = read(row, shape, fields)
        assert [answer.text for answer in question.answers] == ["So.", "No."] and question.images == ("a.png",)
        return
    with pytest.raises(Unusable, match=reason):
        read(row, shape, fields)


def test_what_is_not_used_is_named(source, tmp_path):
    """Margins, weights and boxes would vanish without a word; tools and history stay."""
    output = tmp_path / "out.json"
    rows = [swift(margin=n, objects={"bbox": [[1]]} if n else None, tools=[{"name": "größe"}]) for n in range(3)]
    report = convert(source(*rows, swift(rejected_images=["b.png"], margin=1)), "-o", output)
    assert "columns that nothing was taken from: margin (3 rows), objects (2 rows)" in report
    assert "1 left out: something else to look at" in report and "(row 3)" in report
    assert [row["tools"] for row in read_rows(output)] == ['[{"name": "größe"}]'] * 3
    one_text = {"question": "?", "responses": [{"text": "a", "score": n} for n in (1, 2)] + ANSWERS[:1]}
    assert "a text has several scores" in convert(source(one_text), "-o", tmp_path / "no.json", fails=True)
    several = {"question": "And?", "history": [["Why?", "So."]], "responses": ANSWERS, "model": "m"}
    twice = several | {"responses": [*ANSWERS, ANSWERS[0] | {"score": 9}]}
    report = convert(source(several, twice), "-o", output, "--pairs", "all")
    assert "nothing was taken from: model (2 rows)" in report
    assert next(read_rows(output))["history"] == [["Why?", "So."]]
    assert "2 answers left out: the same text with several scores or ranks (row 1)" in report
    found = [(row["chosen"][-2], row["rejected"][-2]) for row in read_rows(output)]
    assert sorted(found) == [("2", "1"), ("4", "1"), ("4", "2"), ("4", "2")]

"""Rows that give no pair, scores that only some have, images inside of rows: counted, refused, or written once."""

import base64
import io
import json
import os
import subprocess
import tempfile
from pathlib import Path

import pytest
import raw_shapes
from PIL import Image
from test_data_convert import PROGRAM, convert

from pair_data.convert.fields import Fields
from pair_data.convert.pictures import Pictures
from pair_data.convert.question import Unusable
from pair_data.convert.shapes import recognise
from pair_data.rows import read_rows
from pair_data.writing import write_rows


PAIR = {"prompt": "Why?", "chosen": "So.", "rejected": "No."}
SCORED = PAIR | {"chosen_score": 2, "rejected_score": "1"}
ANSWERS = [{"text": f"Because of {n}.", "score": n} for n in (1, 2, 4)]


@pytest.fixture
def source(tmp_path):
    def write(*rows):
        write_rows(tmp_path / "in.jsonl", rows)
        return tmp_path / "in.jsonl"

    return write


def test_rows_that_give_no_pair_are_counted_by_reason(source, tmp_path):
    """Data would vanish without a word, or a bad row would end it all."""
    bad = [PAIR | {"prompt": " "}, PAIR | {"rejected": "So."}, PAIR | {"images": ["a", "b"], "prompt": "<image>?"}]
    bad += [PAIR | {"chosen": "An <image>"}, PAIR | {"rejected": ""}, PAIR | {"image": "https://example.org/a.png"}]
    bad += [PAIR | {"chosen": [{"role": "tool", "content": "x"}]}]
    turns = [[raw_shapes.say("user", ask), raw_shapes.say("assistant", "Yes.")] for ask in ("Is it?", "Is it not?")]
    bad += [{"chosen": turns[0], "rejected": turns[1]}]
    file = source(*[PAIR] * 9, *bad)
    with file.open("a") as lines:
        lines.write("{broken\n" + json.dumps(PAIR) + "\n")
    report = convert(file, "-o", tmp_path / "out.json")
    assert len(list(read_rows(tmp_path / "out.json"))) == 10
    for number, reason in enumerate(
        [
            "not understood: there is no question",
            "left out: the answers are the same",
            "not understood: another number of <image> than of images",
            "left out: an answer is with <image>",
            "not understood: an answer is empty",
            "not understood: an image on the web",
            "not understood: a message that is neither from",
            "not understood: the two dialogues differ",
            "not understood: not valid JSON",
        ]
    ):
        (line,) = [line for line in report.splitlines() if reason in line]
        assert line.split()[0] == "1" and f"(row {9 + number})" in line
    assert "row 9 (the first is 0)" in convert(file, "-o", tmp_path / "no.json", "--strict", fails=True)
    assert not (tmp_path / "no.json").exists()


def test_more_than_half_not_understood_is_an_error(source, tmp_path):
    """A few rows that happen to fit would be taken for the data set."""
    file = source(PAIR, *[PAIR | {"chosen": ""}] * 2)
    message = convert(file, "-o", tmp_path / "out.json", fails=True)
    assert "2 of 3 rows" in message and "an answer is empty" in message and "--from" in message
    file = source(*[PAIR | {"rejected": "So."}] * 3)
    assert "no pair" in convert(file, "-o", tmp_path / "out.json", fails=True)
    assert not (tmp_path / "out.json").exists()


def test_shapes_that_are_unknown_or_several_are_told(source, tmp_path):
    """A guess would be trained on."""
    message = convert(source({"one": 1, "two": "a"}), "-o", tmp_path / "out.json", fails=True)
    assert "one, two" in message and all(f"  {name} " in message for name in ("trl", "alpaca", "answers", "ms-swift"))
    mixed = source(PAIR, {"instruction": "q", "chosen": "a", "rejected": "b"})
    assert "trl" in convert(mixed, "-o", tmp_path / "out.json", fails=True)
    convert(mixed, "-o", tmp_path / "out.json", "--from", "trl")
    assert "shapes are" in convert(mixed, "-o", tmp_path / "out.json", "--from", "nothing", fails=True)


def test_a_cut_file_is_not_taken_for_a_whole_one(source, tmp_path):
    """Half a download would become half a data set, without a word."""
    for name in ("cut.json", "cut.jsonl"):
        write_rows(tmp_path / name, [PAIR] * 50)
        text = (tmp_path / name).read_text()
        (tmp_path / name).write_text(text[: len(text) * 2 // 3])
        assert "Download it again" in convert(tmp_path / name, "-o", tmp_path / "out.json", fails=True)
    assert not (tmp_path / "out.json").exists()


def test_scores_are_for_all_or_for_none(source, tmp_path):
    """A column that some rows lack ends training, or scores would be made up."""
    file, output = source(SCORED, PAIR, SCORED), tmp_path / "out.json"
    message = convert(file, "-o", output, fails=True)
    assert "2 of 3 pairs" in message and "--only-scored" in message and not output.exists()
    assert "1 pairs left out: no scores" in convert(file, "-o", output, "--only-scored")
    assert [(row["score_chosen"], row["score_rejected"]) for row in read_rows(output)] == [(2.0, 1.0)] * 2
    convert(file, "-o", output, "--no-scores")
    assert [set(row) & {"score_chosen", "score_rejected"} for row in read_rows(output)] == [set()] * 3
    assert "contradict" in convert(file, "-o", output, "--no-scores", "--only-scored", fails=True)


def test_ranks_that_only_some_have_are_left_out(source, tmp_path):
    """The column's type would depend on where the first rank is."""
    ranked = [answer | {"rank": 5 - answer["score"]} for answer in ANSWERS]
    convert(
        source(*({"question": "?", "answers": answers} for answers in (ANSWERS, ranked))), "-o", tmp_path / "out.json"
    )
    assert [sorted(row) for row in read_rows(tmp_path / "out.json")] == [
        ["chosen", "images", "instruction", "rejected", "score_chosen", "score_rejected"]
    ] * 2


def test_lists_that_come_late_do_not_go_into_jsonl(source, tmp_path):
    """LlamaFactory would fail hours later: the type of the column is taken from the first 10 MB."""
    long = PAIR | {"prompt": "q" * 100_000}
    file = source(*[long] * 60, PAIR | {"history": [["a", "b"]]})
    assert "10 MB" in convert(file, "-o", tmp_path / "out.jsonl", fails=True)
    convert(file, "-o", tmp_path / "out.parquet")
    convert(source(PAIR | {"history": [["a", "b"]]}, *[long] * 60), "-o", tmp_path / "out.jsonl")
    convert(source(*[long] * 60, PAIR | {"image": "a.png"}), "-o", tmp_path / "out.jsonl")
    assert [len(row["images"]) for row in read_rows(tmp_path / "out.jsonl")] == [1] + [0] * 60


@pytest.mark.parametrize(("before", "moved"), [(999, False), (1000, True), (1700, True)])
def test_images_do_not_come_late(source, tmp_path, before, moved):
    """Training's loader would take the column for empty, and refuse the first image after 1,000 rows without."""
    rows = [PAIR | {"id": n} for n in range(before + 30)]
    for n in (before, before + 7):
        rows[n]["image"] = raw_shapes.draw(tmp_path / f"{n}.png")
    report = convert(source(*rows), "-o", tmp_path / "out.json")
    ids = [int(row["id"]) for row in read_rows(tmp_path / "out.json")]
    assert ids == ([before] if moved else []) + [n for n in range(before + 30) if n != before or not moved]
    assert ("comes first" in report) == moved
    checked = subprocess.run([*PROGRAM[:-1], "check", tmp_path / "out.json"], capture_output=True, text=True)
    assert "images-late" not in checked.stdout


def test_the_cut_into_files_does_not_matter(tmp_path):
    """The same data in shards would give other pairs."""
    rows = [{"question": f"{n}?", "answers": ANSWERS, "id": n} for n in range(60)]
    options = ["--pairs", "all", "--max-per-question", "1", "--seed", "3"]
    write_rows(tmp_path / "whole.parquet", rows)
    shards = [tmp_path / f"{n}.jsonl" for n in range(3)]
    for n, shard in enumerate(shards):
        write_rows(shard, rows[20 * n : 20 * n + 20])
    convert(tmp_path / "whole.parquet", "-o", tmp_path / "whole.json", *options)
    convert(*shards, "-o", tmp_path / "parts.json", *options)
    assert (tmp_path / "whole.json").read_bytes() == (tmp_path / "parts.json").read_bytes()
    assert len({row["chosen"] + row["rejected"] for row in read_rows(tmp_path / "whole.json")}) == 3
    convert(*shards, "-o", tmp_path / "few.json", *options, "--limit", "30")
    assert [row["id"] for row in read_rows(tmp_path / "few.json")] == [str(n) for n in range(30)]


def as_bytes(kind):
    file = io.BytesIO()
    Image.new("RGB", (40, 30), "blue").save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize(("kind", "suffix"), [("PNG", ".png"), ("JPEG", ".jpg"), ("WEBP", ".webp"), ("GIF", ".gif")])
def test_images_inside_rows_become_files(tmp_path, kind, suffix):
    """Pictures would be changed, written twice, or named so that training takes them for something else."""
    data, pictures = as_bytes(kind), Pictures(tmp_path / "pairs.json")
    text = base64.b64encode(data).decode()
    ways = [data, {"bytes": data, "path": "x"}, f"data:image/x;base64,{text}", text, {"bytes": text, "path": "x"}]
    ways += [text.rstrip("="), base64.encodebytes(data).decode(), {"bytes": f"data:image/x;base64,{text}"}]
    paths = {pictures.place(way, tmp_path / "elsewhere") for way in ways}
    (path,) = paths
    assert path.startswith("pairs_images/") and Path(path).suffix == suffix and pictures.written == 1
    assert (tmp_path / path).read_bytes() == data
    outside = Pictures(tmp_path / "pairs.json", tmp_path.parent / f"{tmp_path.name}-out").place(data, None)
    assert Path(outside).is_absolute() and Path(outside).read_bytes() == data


NO_IMAGES = [
    b"no image",
    {"bytes": None},
    3,
    "data:image/png;base64,!",
    "http://a/b.png",
    "a" * 4100,
    "some text " * 500,
]


@pytest.mark.parametrize("image", [*NO_IMAGES, {"bytes": "no image"}])
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
    """Training looks in the output's folder, and would not find pictures that are beside the source."""
    raw_shapes.draw(tmp_path / "raw" / "a.png")
    (tmp_path / "raw" / "MM-RLHF").mkdir()
    write_rows(tmp_path / "raw" / "in.jsonl", [PAIR | {"images": ["a.png", "/away/b.png", "c.png"]}])
    convert(tmp_path / "raw" / "in.jsonl", "-o", tmp_path / "new" / "out.json")
    (row,) = read_rows(tmp_path / "new" / "out.json")
    assert row["images"] == [str(tmp_path / "raw" / "a.png"), "/away/b.png", "c.png"]
    assert row["instruction"] == "<image>" * 3 + "Why?"
    convert(tmp_path / "raw" / "in.jsonl", "-o", tmp_path / "raw" / "out.json", "--image-prefix", "pictures/")
    (row,) = read_rows(tmp_path / "raw" / "out.json")
    assert row["images"] == ["pictures/a.png", "/away/b.png", "pictures/c.png"]


def test_a_picture_beside_the_source_wins(source, tmp_path):
    """Another data set's picture of the same name, in the output's folder, would be trained on without a word."""
    out = tmp_path / "out"
    for folder in (tmp_path, tmp_path / "media", out):
        raw_shapes.draw(folder / "pics" / "0.png")
    raw_shapes.draw(out / "pics" / "1.png")
    file = source(PAIR | {"image": "pics/0.png"}, PAIR | {"image": "pics/1.png"})
    for options, folder in (((), tmp_path), (("--media-dir", tmp_path / "media"), tmp_path / "media")):
        convert(file, "-o", out / "out.json", *options)
        found = [row["images"] for row in read_rows(out / "out.json")]
        assert found == [[str(folder / "pics" / "0.png")], ["pics/1.png"]]
    convert(file, "-o", out / "out.json", "--media-dir", out)
    assert [row["images"] for row in read_rows(out / "out.json")] == [["pics/0.png"], ["pics/1.png"]]


@pytest.mark.parametrize("name", ["out", "folder.json", "file.txt/out.json"])
def test_an_output_that_cannot_be_written_is_told_first(source, tmp_path, name):
    """Hours of reading, and images written, before the name of the output turns out to be wrong."""
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "file.txt").write_text("")
    file = source(PAIR | {"image": f"data:image/png;base64,{base64.b64encode(as_bytes('PNG')).decode()}"})
    before = sorted(tmp_path.rglob("*"))
    assert name in convert(file, "-o", tmp_path / name, fails=True)
    assert sorted(tmp_path.rglob("*")) == before


def test_files_of_other_kinds(tmp_path):
    """A file that is there would be looked for on the hub, and not found."""
    (tmp_path / "a.csv").write_text('prompt,chosen,rejected,score_chosen,score_rejected\n"Why, so?",So.,No.,2,0.5\n')
    convert(tmp_path / "a.csv", "-o", tmp_path / "out.json")
    (row,) = read_rows(tmp_path / "out.json")
    assert (row["instruction"], row["chosen"], row["score_chosen"]) == ("Why, so?", "So.", 2.0)
    (tmp_path / "a.txt").write_text("prompt")
    message = convert(tmp_path / "a.txt", "-o", tmp_path / "out.json", fails=True)
    assert "a.txt: the name must end in .json" in message and "Hub" not in message


def test_sources_and_pictures_that_may_not_be_read():
    """A traceback, and for a picture that is not even opened here the end of it all."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o777)
        raw_shapes.draw(folder / "closed" / "a.png")
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
    worse = PAIR | {"chosen_score": 1, "rejected_score": 2}
    file, output = source(SCORED, worse), tmp_path / "out.json"
    report = convert(file, "-o", output)
    assert "1 pairs whose chosen answer has the lower score: --min-margin 0" in report and "--by" not in report
    assert "lower score" not in convert(file, "-o", output, "--min-margin", "0")
    ranked = {"question": "?", "answers": [answer | {"rank": answer["score"]} for answer in ANSWERS]}
    assert "--by score" in convert(source(ranked), "-o", output)
    assert "lower score" not in convert(source(ranked), "-o", output, "--by", "score")


@pytest.mark.parametrize("name", ["empty.json", "empty.jsonl", "empty.parquet", "list.json"])
def test_a_source_without_rows_is_called_so(tmp_path, name):
    """The message would speak of reasons, and name none."""
    (tmp_path / name).write_text("")
    if name != "empty.json":
        write_rows(tmp_path / name, [])
    assert convert(tmp_path / name, "-o", tmp_path / "out.json", fails=True).endswith(
        "there are no rows to convert.\n"
    )


def swift(**columns):
    """Return a row of ms-swift with further columns."""
    turns = [raw_shapes.say("user", "<image>Why?"), raw_shapes.say("assistant", "So.")]
    return {"messages": turns, "rejected_response": "No.", "images": ["a.png"]} | columns


def implicit(*images):
    """Return a row of whole dialogues, each with an image of its own inside."""
    sides = zip(("chosen", "rejected"), ("So.", "No."), images, strict=True)
    asked = {"type": "text", "text": "Why?"}
    return {
        side: [
            {"role": "user", "content": [{"type": "image", "image": image}, asked]},
            raw_shapes.say("assistant", text),
        ]
        for side, text, image in sides
    }


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
    (swift(objects={"bbox": [[1, 2]]}, messages=[raw_shapes.say("user", "<image><bbox>?"), *swift()["messages"][1:]]),
     "<bbox>"),
    (swift(rejected_response=["No.", "Never."]), "several rejected answers"),
    (swift(rejected_response=["No."]), ""),
    (PAIR | {"chosen_score": "8/10", "rejected_score": "3/10"}, "a score such as 8/10"),
    (PAIR | {"responses": [{"text": "a", "score": "80 %"}, {"text": "b", "score": "5"}], "chosen": None}, "8/10"),
    (swift(system="A.", messages=[raw_shapes.say("system", "B."), *swift()["messages"]]), "a system prompt in its"),
]  # fmt: skip


@pytest.mark.parametrize(("row", "reason"), SIDED)
def test_a_pair_about_two_things_is_none(row, reason):
    """The rejected answer would be trained on the image, tools or system prompt of the chosen."""
    shape, fields = recognise([row], "here", Fields())
    if not reason:
        question = shape.read(row, fields)
        assert [answer.text for answer in question.answers] == ["So.", "No."] and question.images == ("a.png",)
        return
    with pytest.raises(Unusable, match=reason):
        shape.read(row, fields)


def test_what_is_not_used_is_named(source, tmp_path):
    """Margins, weights and boxes would vanish without a word; tools and history go along."""
    rows = [swift(margin=n, objects={"bbox": [[1]]} if n else None, tools=[{"name": "größe"}]) for n in range(3)]
    rows += [swift(rejected_images=["b.png"], margin=1)]
    report = convert(source(*rows), "-o", tmp_path / "out.json")
    assert "columns that nothing was taken from: margin (3 rows), objects (2 rows)" in report
    assert "1 left out: something else to look at" in report and "(row 3)" in report
    assert [row["tools"] for row in read_rows(tmp_path / "out.json")] == ['[{"name": "größe"}]'] * 3
    several = {"question": "And?", "history": [["Why?", "So."]], "responses": ANSWERS, "model": "m"}
    report = convert(source(several), "-o", tmp_path / "out.json")
    assert "nothing was taken from: model (1 row)" in report
    assert next(read_rows(tmp_path / "out.json"))["history"] == [["Why?", "So."]]


def test_a_text_with_two_scores_is_left_out_by_row(source, tmp_path):
    """It would be chosen in one pair and rejected in another."""
    twice = {"question": "Why?", "responses": [*ANSWERS, ANSWERS[0] | {"score": 9}]}
    report = convert(source(twice | {"responses": ANSWERS}, twice), "-o", tmp_path / "out.json", "--pairs", "all")
    assert "2 answers left out: the same text with several scores or ranks (row 1)" in report
    found = [(row["chosen"][-2], row["rejected"][-2]) for row in read_rows(tmp_path / "out.json")]
    assert sorted(found) == [("2", "1"), ("4", "1"), ("4", "2"), ("4", "2")]

"""What `--fix` repairs, in which formats, and what it keeps as it is."""

import json

import pyarrow
import pyarrow.parquet
import pytest
from bad_data import oriented
from checking import SCORED, check, good_rows, write
from data_cli import data
from datasets import load_dataset
from pairs import as_sharegpt
from PIL import Image

from pair_data.rows import read_rows


@pytest.fixture
def rows(tmp_path):
    return good_rows(tmp_path, 6)


def fix(source, output, *arguments):
    """Run check --fix; return the output of the command, the rows, and what a further check finds in them."""
    images = ["--workers", 1] if arguments else ["--no-images"]
    status, said = check(source, "--fix", output, *images, *arguments)
    assert status == 0, said
    findings = output.with_name("again.jsonl")
    status, again = check(output, "--findings", findings, *images)
    assert status == 0, again
    kinds = [json.loads(line)["kind"] for line in findings.read_text().splitlines()]
    return said, list(read_rows(output)), kinds


def test_types_are_made_alike_where_that_is_no_guess(rows, tmp_path):
    rows[1] |= {"score_chosen": " 7.25 ", "score_rejected": 1}
    rows[2]["images"] = rows[2]["images"][0]
    rows[3]["note"], rows[4]["note"] = "text", 5
    (tmp_path / "elsewhere").mkdir()
    clean = tmp_path / "clean.jsonl"
    output, fixed, kinds = fix(write(tmp_path / "x.jsonl", rows), clean)
    assert len(fixed) == 6 and not kinds
    assert fixed[1]["score_chosen"] == 7.25 and fixed[2]["images"] == [rows[2]["images"]]
    assert all("note" not in row for row in fixed) and 'column "note" left out' in output
    assert "training needs media_dir" not in output
    load_dataset("json", data_files=[str(clean)], split="train")
    _, said = check(clean, "--fix", tmp_path / "elsewhere" / "copy.json", "--no-images")
    assert f"training needs media_dir: {tmp_path}" in said


def test_scores_that_are_whole_numbers_at_first_load_afterwards(rows, tmp_path):
    """The loader takes a column of the first 10 MB for whole numbers, and stops at the first that is not."""
    long = [rows[0] | {"instruction": f"<image>{i} " + "x" * 50_000, "score_chosen": 9} for i in range(220)]
    for row in long[215:]:
        row["score_chosen"] = 9.5
    path = write(tmp_path / "x.jsonl", long)
    with pytest.raises(Exception, match="An error occurred while generating the dataset"):
        load_dataset("json", data_files=[str(path)], split="train", cache_dir=str(tmp_path / "cache"))
    for name, kind in {"clean.jsonl": "json", "clean.parquet": "parquet"}.items():
        status, said = check(path, "--no-images", "--fix", tmp_path / name)
        assert status == 0 and "column-late: 1 x" in said
        loaded = load_dataset(kind, data_files=[str(tmp_path / name)], split="train", cache_dir=str(tmp_path / "c"))
        assert len(loaded) == 220


def test_a_row_with_an_image_comes_first_where_many_have_none(rows, tmp_path):
    texts = [rows[0] | {"instruction": f"What is {i}?", "images": []} for i in range(1000)]
    _, fixed, kinds = fix(write(tmp_path / "x.json", texts + rows), tmp_path / "clean.json")
    assert fixed == [rows[0], *texts, *rows[1:]] and "images-late" not in kinds


def test_of_duplicates_the_first_stays_unless_it_has_errors(rows, tmp_path):
    bad, other = rows[0] | {"score_chosen": None}, rows[0] | {"images": rows[1]["images"]}
    output, fixed, _ = fix(write(tmp_path / "x.json", [bad, *rows, rows[0], rows[3], other]), tmp_path / "clean.json")
    assert fixed == [*rows, other]  # the same words about another image are another question
    assert "duplicate: 2" in output and "score-missing: 1" in output


def test_images_inside_a_parquet_file_are_seen_and_corrected(rows, tmp_path):
    Image.new("RGB", (60, 40)).save(tmp_path / "turned.jpg", exif=oriented(3))
    for row in rows:
        row["images"] = [{"bytes": (tmp_path / row["images"][0]).read_bytes(), "path": None}]
    rows[1]["images"] = [{"bytes": (tmp_path / "turned.jpg").read_bytes(), "path": "turned.jpg"}]
    rows[2]["images"] = [{"bytes": b"no image", "path": None}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "x.parquet")
    corrected = ("--fix-images", tmp_path / "corrected")
    output, fixed, kinds = fix(tmp_path / "x.parquet", tmp_path / "clean.parquet", *corrected)
    assert "image-rotated: 1 x" in output and "image-unreadable: 1 x" in output
    assert [row["instruction"] for row in fixed] == [rows[i]["instruction"] for i in (0, 1, 3, 4, 5)]
    assert "image-rotated" not in kinds


def test_conversations_in_a_folder_of_files_keep_their_form(rows, tmp_path):
    talks = [as_sharegpt(row) for row in rows]
    talks[4]["conversations"] += [{"from": "human", "value": "And?"}]  # two questions in a row
    (tmp_path / "parts").mkdir()
    for number, part in enumerate((talks[:3], talks[3:])):
        write(tmp_path / "parts" / f"{number}.jsonl", part)
    columns = {"messages": "conversations"} | {use: name for use, name in SCORED.items() if use != "prompt"}
    entry = {"file_name": "parts", "ranking": True, "formatting": "sharegpt", "columns": columns}
    write(tmp_path / "dataset_info.json", {"talks": entry})
    findings, clean = tmp_path / "findings.jsonl", tmp_path / "clean.jsonl"
    status, said = check("talks", "--dataset-dir", tmp_path, "--findings", findings, "--fix", clean, "--no-images")
    assert status == 0, said
    found = json.loads(findings.read_text())
    assert (found["kind"], found["row"]) == ("messages", 1) and found["file"].endswith("1.jsonl")
    assert list(read_rows(clean)) == talks[:4] + talks[5:]


def test_a_copy_of_less_than_half_the_rows_warns(rows, tmp_path):
    """Most of a data set would be gone, of which convert makes good rows."""
    for row in rows[:4]:
        row["instruction"] = row["instruction"].removeprefix("<image>")
    bad, clean = write(tmp_path / "x.json", rows), tmp_path / "clean.json"
    output, fixed, _ = fix(bad, clean)
    lost = "Warning: 4 of 6 rows are lost, more than half. 4 of them have another number of <image> than of images: "
    assert len(fixed) == 2 and lost + "data.py convert puts <image> in where there is none." in output
    assert "where there is none, data.py convert puts it in" in output.split("Warning: ")[0]
    assert data("convert", bad, "-o", clean)[0] == 0
    assert "Warning: " not in fix(clean, tmp_path / "again.json")[0] and len(list(read_rows(clean))) == 6

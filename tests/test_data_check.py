"""`data.py check` finds every fault there is, says where it is, and leaves a copy that trains."""

import json

import bad_data
import pytest
from checking import SCORED, check, good_rows, kinds_found, write
from data_cli import DATA, call
from pairs import options, train, write_dataset


@pytest.fixture
def good(tmp_path):
    return good_rows(tmp_path, 12)


@pytest.fixture
def mess(tmp_path, good):
    """A JSONL file of good rows, bad rows, rows with bad images and broken lines; and what is due for each row."""
    rows, due = [*good, dict(good[1]), good[2] | {"chosen": good[2]["rejected"], "rejected": good[2]["chosen"]}], {}
    due |= {2: "contradiction", len(good): "duplicate", len(good) + 1: "contradiction"}
    changes = [
        ({"instruction": f"<image>Row {i}?"} | changed, kind) for i, (changed, kind) in enumerate(bad_data.CHANGES)
    ]
    shown = bad_data.write_images(tmp_path) | {bad_data.write_unnameable(tmp_path): "text-not-unicode"}
    changes += [
        ({"instruction": f"<image>What is {i}?", "images": [n]}, kind) for i, (n, kind) in enumerate(shown.items())
    ]
    for changed, kind in changes:
        due[len(rows)] = kind
        rows.append(bad_data.rows_with(good[0], changed))
    lines = [json.dumps(row).encode() for row in rows]
    for line, kind in bad_data.LINES:
        due[len(lines)] = kind
        lines.append(line)
    (tmp_path / "mess.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    return tmp_path / "mess.jsonl", due


def test_every_fault_is_found_and_the_cleaned_copy_trains(mess, tmp_path, tiny_model):
    path, due = mess
    findings, clean = tmp_path / "findings.jsonl", tmp_path / "clean.json"
    written = ["--findings", findings, "--fix", clean, "--fix-images", tmp_path / "upright"]
    status, output, messages = call(*DATA, "check", path, *written, "--workers", 2)  # as a user does
    assert status == 0, output + messages
    found = kinds_found(findings)
    assert set(found) == set(due), "a row passes, or a good one is accused"
    assert {row: kind for row, kind in due.items() if kind not in found[row]} == {}
    assert "The copy has no errors" in output
    assert check(clean, "--findings", tmp_path / "again.jsonl", "--workers", 1)[0] == 0
    kinds = set().union(*kinds_found(tmp_path / "again.jsonl").values())
    assert not kinds & {"image-rotated", "image-transparent", "image-deep", "image-animated", "duplicate"}
    write_dataset(tmp_path, json.loads(clean.read_text()), "clean", SCORED)
    once = {"dataset": "clean", "max_steps": 1, "image_max_pixels": 64 * 64}  # tokenising opens every image
    assert train(options(tiny_model, tmp_path, tmp_path / "out", **once))[-1]["train_loss"] > 0


def test_a_check_stops_scripts_at_errors_only_and_at_warnings_when_asked(good, tmp_path):
    path = tmp_path / "pairs.json"
    for changes, code, strict in [({}, 0, 0), ({"score_chosen": -1.0}, 0, 1), ({"chosen": ""}, 1, 1)]:
        write(path, [*good, good[0] | {"instruction": "<image>Else?"} | changes])
        assert check(path, "--no-images")[0] == code
        assert check(path, "--no-images", "--strict")[0] == strict
    assert check(tmp_path / "nothing.json")[0] == 2


def test_leaks_between_training_and_held_out_data_are_found_by_content(good, tmp_path):
    (tmp_path / "copy.png").write_bytes((tmp_path / good[3]["images"][0]).read_bytes())
    held_out = [good[3] | {"images": ["copy.png"]}, good[4] | {"instruction": "<image>Something else?"}]
    write(tmp_path / "pairs.json", good)
    findings = tmp_path / "findings.jsonl"
    held_out = ("--held-out", write(tmp_path / "test.json", held_out), "--workers", 1)
    assert check(tmp_path / "pairs.json", *held_out, "--findings", findings)[0] == 1
    assert kinds_found(findings) == {3: {"leak-pair"}, 4: {"leak-image"}}


def test_what_is_told_once(good, tmp_path):
    """A column that is nowhere, and swapped scores: half a page of rows does not say what happened."""
    rows = [{name: value for name, value in row.items() if name != "score_chosen"} for row in good]
    status, said = check(write(tmp_path / "pairs.json", rows), "--no-images", "--fix", tmp_path / "clean.json")
    assert said.count('"score_chosen"') == 1 and "column-missing: 1 x" in said
    assert status == 2 and not (tmp_path / "clean.json").exists(), "a copy is written that cannot be right"
    rows = [row | {"score_chosen": 1.0, "score_rejected": 2.0 + i} for i, row in enumerate(good)]
    status, said = check(write(tmp_path / "swapped.json", rows), "--no-images")
    assert status == 0 and "look swapped" in said


@pytest.fixture
def pairs(good, tmp_path):
    """A file of pairs whose second row is no row, so that a check of it would say so."""
    return write(tmp_path / "pairs.jsonl", [good[0], [1, 2], good[2]])


def test_outputs_that_cannot_be_are_refused_before_any_work(pairs, tmp_path, monkeypatch):
    """Otherwise somebody's file is lost, or hours of checking are."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "thesis.tex").write_text("years of work")
    (tmp_path / "folder.jsonl").mkdir()
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    for given, reason in {
        "--findings thesis.tex": "must end in .jsonl",
        "--findings pairs.jsonl": "also read, or written twice",
        "--findings x.jsonl --fix ./x.jsonl": "also read, or written twice",
        "--findings folder.jsonl": "a folder of that name",
        "--findings thesis.tex/x.jsonl": "not a folder",
        "--fix pairs.jsonl": "also read, or written twice",
        "--fix folder.jsonl": "a folder of that name",
        "--fix clean.txt": "must end in .json or .jsonl or .parquet",
        "--fix thesis.tex/x.json": "not a folder",
        "--fix x.json --fix-images thesis.tex": "not a folder",
        "--fix-images x": "goes with --fix",
        "--fix x.json --fix-images x --no-images": "leave --no-images out",
        "pairs.jsonl --fix x.json": "one at a time",
        "--config x.yaml": "--config says which data",
    }.items():
        status, said = check("pairs.jsonl", *given.split())
        assert status == 2 and reason in said and "row-not-object" not in said, given
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before
    assert check()[0] == 2

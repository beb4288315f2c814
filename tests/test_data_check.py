"""`data.py check` finds every nasty row and file, says where it is, and leaves a copy that trains."""

import json
import subprocess
import sys
from collections import defaultdict

import nasty
import pytest
from pairs import ALPACA, ROOT, make_rows, options, train, write_dataset
from typer.testing import CliRunner

from pair_data.cli import app
from pair_data.errors import DataError


SCORED = ALPACA | {"score_chosen": "score_chosen", "score_rejected": "score_rejected"}
LINES = ['{"instruction": "cut', "[1, 2]", "3", "null", b'{"chosen": "caf\xe9"}', '{"chosen": "caf\\ud800"}']
LINE_KINDS = ["row-unreadable", *["row-not-object"] * 3, "row-unreadable", "text-not-unicode"]


def check(*arguments):
    """Run the command as a user does; return the finished process."""
    command = [sys.executable, str(ROOT / "scripts/uni_dpo/data.py"), "check", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def here(*arguments):
    """Run the command in this process, which has its libraries already; return exit status and output."""
    done = CliRunner().invoke(app, ["check", *map(str, arguments)])
    if isinstance(done.exception, DataError):  # `cli.main` tells it and leaves with 2
        return 2, str(done.exception)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


def read_findings(path):
    """Return the findings of every row, as sets of kinds."""
    found = defaultdict(set)
    for line in path.read_text().splitlines():
        finding = json.loads(line)
        found[finding["row"]].add(finding["kind"])
    return dict(found)


@pytest.fixture
def good(tmp_path):
    rows = make_rows(tmp_path, 12)
    for row in rows:
        row["score_chosen"] = row["score_rejected"] + 1
    return rows


@pytest.fixture
def mess(tmp_path, good):
    """A JSONL file of good rows, nasty rows, rows with nasty images and broken lines; and what is due for each row."""
    rows, due = list(good), dict.fromkeys(range(len(good)), frozenset())
    for changes, kind in nasty.CHANGES:
        due[len(rows)] = {kind}
        rows.append(nasty.rows_with(good[0] | {"instruction": f"<image>Row {len(rows)}?"}, changes))
    for name, kinds in nasty.write_images(tmp_path).items():
        due[len(rows)] = kinds
        rows.append(good[0] | {"instruction": f"<image>What is {name}?", "images": [name]})
    due[len(rows)] = {"text-not-unicode"}
    rows.append(good[0] | {"images": [nasty.write_unnameable(tmp_path)]})
    due[len(rows)], due[len(rows) + 1] = {"duplicate"}, {"contradiction"}
    rows += [dict(good[1]), good[2] | {"chosen": good[2]["rejected"], "rejected": good[2]["chosen"]}]
    due[2] = {"contradiction"}
    lines = [json.dumps(row).encode() for row in rows]
    for line, kind in zip(LINES, LINE_KINDS, strict=True):
        due[len(lines)] = {kind}
        lines.append(line if isinstance(line, bytes) else line.encode())
    (tmp_path / "mess.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    return tmp_path / "mess.jsonl", due


def test_every_nasty_row_and_file_is_found_and_the_cleaned_copy_trains(mess, tmp_path, tiny_model):
    path, due = mess
    findings, clean = tmp_path / "findings.jsonl", tmp_path / "clean.json"
    done = check(path, "--findings", findings, "--fix", clean, "--fix-images", tmp_path / "upright", "--workers", 2)
    assert done.returncode == 0, done.stdout + done.stderr
    found = read_findings(findings)
    assert set(found) == {row for row, kinds in due.items() if kinds}, "a row passes, or a good one is accused"
    for row, kinds in due.items():
        assert kinds <= found.get(row, set()), f"row {row}: {kinds} due, {found.get(row)} found"
    assert "The copy has no errors" in done.stdout
    assert here(clean, "--findings", tmp_path / "again.jsonl")[0] == 0
    kinds = set().union(*read_findings(tmp_path / "again.jsonl").values())
    assert not kinds & {"image-rotated", "image-transparent", "image-deep", "image-animated", "duplicate"}
    write_dataset(tmp_path, json.loads(clean.read_text()), "clean", SCORED)
    once = {"max_steps": None, "num_train_epochs": 1.0, "image_max_pixels": 64 * 64}
    log = train(options(tiny_model, tmp_path, tmp_path / "out", dataset="clean", **once))
    assert log[-1]["train_loss"] > 0


def test_a_check_stops_scripts_at_errors_only_and_at_warnings_when_asked(good, tmp_path):
    path = tmp_path / "pairs.json"
    for changes, code, strict in [({}, 0, 0), ({"score_chosen": -1.0}, 0, 1), ({"chosen": ""}, 1, 1)]:
        path.write_text(json.dumps([*good, good[0] | {"instruction": "<image>Else?"} | changes]))
        assert here(path, "--no-images")[0] == code
        assert here(path, "--no-images", "--strict")[0] == strict
    assert check(tmp_path / "nothing.json").returncode == 2
    assert here(path, "--fix", path)[0] == 2, "the input would be written over"


def test_leaks_between_training_and_held_out_data_are_found_by_content(good, tmp_path):
    (tmp_path / "copy.png").write_bytes((tmp_path / good[3]["images"][0]).read_bytes())
    held_out = [good[3] | {"images": ["copy.png"]}, good[4] | {"instruction": "<image>Something else?"}]
    (tmp_path / "pairs.json").write_text(json.dumps(good))
    (tmp_path / "test.json").write_text(json.dumps(held_out))
    findings = tmp_path / "findings.jsonl"
    status, _ = here(tmp_path / "pairs.json", "--held-out", tmp_path / "test.json", "--findings", findings)
    found = {row: kinds & {"leak-pair", "leak-image"} for row, kinds in read_findings(findings).items()}
    assert status == 1
    assert found == {3: {"leak-pair"}, 4: {"leak-image"}}


def test_one_column_that_is_nowhere_is_told_once(good, tmp_path):
    for row in good:
        del row["score_chosen"]
    (tmp_path / "pairs.json").write_text(json.dumps(good))
    status, output = here(tmp_path / "pairs.json", "--no-images")
    assert status == 1
    assert output.count('"score_chosen"') == 1 and "column-missing: 1 x" in output


def test_a_cleaned_copy_never_writes_over_anything_when_nothing_can_be_fixed(good, tmp_path):
    (tmp_path / "pairs.json").write_text(json.dumps([{"question": "?"}]))
    assert (
        here(tmp_path / "pairs.json", "--fix", tmp_path / "clean.json")[0] == 2
        and not (tmp_path / "clean.json").exists()
    )

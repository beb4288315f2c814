"""What evaluation left on the disk, changed at random, through `scripts/summarize_eval.py`.

The command leaves with 0 (every cell has a number), 1 (some have none, and the notes say why) or 2 (one message),
never with a traceback, never with half a table. "Taken" is 0.
"""

import contextlib
import io
import json
import shutil

import pandas as pd
import pytest
from damage import Tally, at_most, fuzz, mutated, ruined
from hypothesis import given
from hypothesis import strategies as st
from local_benchmarks import mixed, run_vlmeval, write_predictions, write_tsvs

from summarize_eval.command import main


SETS = ("MMBench_DEV_EN", "ChartQA_TEST", "POPE", "MME", "OCRBench")
KINDS = (".csv", ".json", ".xlsx", ".tsv")
ROWS = 4  # of each table that is changed cell by cell


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """Two models' answers to five benchmarks, scored by VLMEvalKit's real command."""
    folder, models = tmp_path_factory.mktemp("scored"), ("first", "second")
    tables = {name: table for name, table in write_tsvs(folder / "data", 6).items() if name in SETS}
    for seed, model in enumerate(models):
        write_predictions(folder / "work", model, tables, mixed(seed))
    words = ("--mode", "eval", "--reuse", "--model", *models, "--data", *SETS)
    done = run_vlmeval(folder / "data", folder / "work", *words)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "work"


@pytest.fixture
def work(good, tmp_path):
    return shutil.copytree(good, tmp_path / "work")


def summarize(work, tally):
    """Make the table and judge how that ended."""
    out, said = work.parent / "table", io.StringIO()
    with at_most(60), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        status = main([str(work), "--out", str(out), "--resamples", "100", "--data", *SETS])
    text = said.getvalue()
    assert status in (0, 1, 2) and "Traceback" not in text, text
    assert len(list(out.glob("*"))) in (0, 4) and not list(out.glob(".part-*")), "half a table"
    assert status == 2 or "written: " in text
    notes = [line for line in text.splitlines() if line.startswith(("! ", "summarize_eval.py: "))]
    assert status == 0 or all(len(note) > 20 for note in notes) and notes, text
    shutil.rmtree(out, ignore_errors=True)
    tally.note(status == 0, notes[0] if notes else "")


def fuzz_files(work, figure, title, changed_content, write):
    """Change one file after another; `changed_content` gives a strategy for a file, `write` writes what it draws."""
    tally = Tally()
    files = sorted(path for path in work.glob("first/*") if path.is_file() and path.suffix in KINDS)
    assert {path.suffix for path in files} >= {".csv", ".json", ".xlsx"}
    strategies = {path: changed_content(path) for path in files}

    @fuzz(15, 500)
    @given(st.sampled_from(files).flatmap(lambda path: st.tuples(st.just(path), strategies[path])))
    def trial(changed):
        path, content = changed
        before = path.read_bytes()
        try:
            write(path, content)
            summarize(work, tally)
        finally:
            path.write_bytes(before)

    trial()
    figure("8 fuzz", f"{title}: `summarize_eval.py`", tally.total, tally.seen())


def rows_of(path):
    """Read a file as lists and objects, of tables the first rows."""
    if path.suffix == ".json":
        return json.loads(path.read_text())
    table = pd.read_csv(path, dtype=str) if path.suffix == ".csv" else pd.read_excel(path, dtype=str)
    return table.fillna("").head(ROWS).to_dict("records")


def write_rows(path, rows):
    """Write what a changed file may hold; tables have columns and text."""
    if path.suffix == ".json":
        path.write_bytes(json.dumps(rows).encode())
        return
    plain = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    table = pd.DataFrame([{str(k)[:200]: str(v)[:3000] for k, v in row.items()} for row in plain]).astype(str)
    table = table.map(printable).rename(columns=printable)
    table.to_csv(path, index=False) if path.suffix == ".csv" else table.to_excel(path, index=False)


def printable(text):
    """Leave out what neither a table nor UTF-8 can hold."""
    return "".join(letter for letter in text if letter.isprintable() or letter in "\n\t")


def test_files_damaged(work, figure):
    title = "prediction, result and metric files damaged"
    fuzz_files(work, figure, title, lambda path: ruined(path.read_bytes()), lambda path, it: path.write_bytes(it))


def test_values_changed(work, figure):
    title = "the same files with other values"
    fuzz_files(work, figure, title, lambda path: mutated(rows_of(path)), write_rows)

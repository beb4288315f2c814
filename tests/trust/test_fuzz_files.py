"""Files of preference data, changed value by value and byte by byte, through the data commands.

Each command leaves with a status of its own (0 done, 1 findings, 2 a message that begins with "Error:"), without a
traceback, without a change to its input, and with its output whole or not there. "Taken" is a status of 0.
"""

import csv
import io
import json
from itertools import chain

import pytest
from damage import Tally, at_most, fuzz, mutated, ruined
from data_cli import data
from hypothesis import given
from hypothesis import strategies as st
from pairs import make_rows
from raw_shapes import draw, preferences, several

from pair_data.rows import read_rows
from pair_data.writing import write_rows


COMMANDS = {
    "check": ("check", "{file}", "--no-images"),
    "check --fix": ("check", "{file}", "--no-images", "--fix", "{out}"),
    "paths": ("paths", "{file}", "-o", "{out}", "--image-dir", "{folder}"),
    "register": ("register", "pairs", "{file}"),
    "convert": ("convert", "{file}", "-o", "{out}"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("files")


@pytest.fixture(scope="module")
def pairs(folder):
    return make_rows(folder, 3)


@pytest.fixture(scope="module")
def sources(folder):
    """Rows of every shape that `convert` knows."""
    image = draw(folder / "red.png")
    return [row for rows in (preferences(image), several(image)) for row in rows.values()]


def run(folder, command, file, tally):
    """Run a command on a file and judge how it ended."""
    out = folder / "out.json"
    before = file.read_bytes()
    filled = [part.format(file=file, out=out, folder=folder) for part in command]
    with at_most(60):
        status, _, messages = data(*filled)
    assert status in (0, 1, 2), messages
    assert "Traceback" not in messages
    assert file.read_bytes() == before, "the input has changed"
    assert not list(folder.glob(".*.part")), "half an output is left"
    said = messages.rpartition("Error: ")[2]
    if status == 2:
        assert "Error: " in messages and len(said) > 10, messages
        assert not out.exists(), "an output beside an error"
    elif out.exists():
        for row in read_rows(out):
            texts = [row["instruction"], *chain(*row.get("history", []))] if command[0] == "convert" else []
            assert not texts or "".join(texts).count("<image>") == len(row["images"])
        out.unlink()
    (folder / "dataset_info.json").unlink(missing_ok=True)
    tally.note(status == 0, said if status == 2 else "findings")


def encode(rows, suffix):
    """Write values that need not be rows as a file of this kind."""
    if suffix == ".jsonl" and isinstance(rows, list):
        return "\n".join(json.dumps(row) for row in rows).encode()
    if suffix == ".csv":
        text = io.StringIO()
        named = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
        writer = csv.DictWriter(text, list(dict.fromkeys(name for row in named for name in row)))
        writer.writeheader()
        writer.writerows(named)
        return text.getvalue().encode(errors="surrogatepass")
    return json.dumps(rows).encode()


def plain(value):
    """Return a row without bytes, which JSON has not."""
    return json.loads(json.dumps(value, default=lambda data: {"bytes": None, "path": "red.png"}))


@pytest.mark.parametrize("name", COMMANDS)
def test_rows_changed_by_value(folder, pairs, sources, figure, name):
    tally = Tally()
    good = st.just(pairs)
    if name == "convert":
        good = st.sampled_from(sources).map(lambda row: [plain(row)] * 3)
    kinds = st.sampled_from([".json", ".jsonl", *([".csv"] if name == "convert" else [])])

    @fuzz(25, 2000)
    @given(good.flatmap(mutated), kinds)
    def trial(rows, suffix):
        file = folder / f"in{suffix}"
        file.write_bytes(encode(rows, suffix))
        run(folder, COMMANDS[name], file, tally)

    trial()
    figure("8 fuzz", f"`data.py {name}`: rows changed", tally.total, tally.seen())


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".parquet"])
def test_files_changed_by_byte(folder, pairs, figure, suffix):
    tally = Tally()
    file = folder / f"bytes{suffix}"
    write_rows(file, pairs)
    good = file.read_bytes()

    @fuzz(40, 4000)
    @given(ruined(good), st.sampled_from(list(COMMANDS.values())))
    def trial(content, command):
        file.write_bytes(content)
        run(folder, command, file, tally)

    trial()
    figure("8 fuzz", f"the same commands: {suffix} files damaged", tally.total, tally.seen())


def test_stats(folder, pairs, figure):
    """Apart from the others, as it draws a picture every time."""
    tally = Tally()
    file = folder / "stats.json"

    @fuzz(6, 200)
    @given(mutated(pairs[:1]))
    def trial(rows):
        file.write_bytes(encode(rows, ".json"))
        run(folder, ("stats", "{file}", "--out", "{folder}/stats"), file, tally)

    trial()
    figure("8 fuzz", "`data.py stats`: rows changed", tally.total, tally.seen())


OF_ANSWERS = {
    "pairs": ("pairs", "{file}", "-o", "{out}"),
    "score": ("score", "{file}", "-o", "{out}", "--rule", "exact-match", "--workers", "1", "--overwrite"),
}


@pytest.mark.parametrize("name", OF_ANSWERS)
def test_answers_changed_by_value(folder, figure, name):
    """What `sample` and `score` wrote, changed by hand or by mistake."""
    tally = Tally()
    draw(folder / "red.png")
    answers = [{"text": f"It is {n}.", "times": 1, "tokens": 3, "cut": False, "score": n} for n in range(3)]
    row = {"instruction": "<image>Which?", "reference": ["It is 1."], "images": ["red.png"], "answers": answers}

    @fuzz(12 if name == "score" else 60, 600)
    @given(mutated([row, row | {"history": [["Hm?", "Yes."]]}]))
    def trial(rows):
        file = folder / "in.json"
        file.write_bytes(encode(rows, ".json"))
        (folder / "out.json.scores.sqlite").unlink(missing_ok=True)
        run(folder, OF_ANSWERS[name], file, tally)

    trial()
    figure("8 fuzz", f"`data.py {name}`: rows of answers changed", tally.total, tally.seen())

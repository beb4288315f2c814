"""Rows in and out of files: nothing lost, changed or half written, and bad files named by row and column."""

import json
import math
import os
import subprocess
import sys

import psutil
import pyarrow.parquet
import pytest
from pairs import ROOT

from pair_data import DataError, rows
from pair_data.rows import Broken, read_rows, read_values
from pair_data.writing import require_new_name, require_writable, whole_file, write_rows


ROWS = [
    {"instruction": "<image>Größe? 𝄞 \ud83d", "score": 2.5, "images": ["a.png"], "n": -1},
    {"instruction": 'quotes " \\ \n and ]},{[', "score": math.inf, "images": [], "n": None},
    {"instruction": "", "score": 1e-300, "images": ["b.png", "c.png"], "n": 12345678901234567890},
]
PLAIN = [{"text": f"row {i}", "n": i, "x": i / 4, "images": [f"{i}.png"] * (i % 3)} for i in range(1200)]


def read(path):
    return list(read_rows(path))


def text_file(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding) if isinstance(text, str) else text)
    return path


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".parquet", ".JSON"])
def test_comes_back_equal(tmp_path, suffix):
    """More rows than one batch of Parquet, none at all, and all that JSON can hold: the standard library agrees."""
    assert write_rows(tmp_path / f"a{suffix}", iter(PLAIN)) == len(PLAIN)
    assert read(tmp_path / f"a{suffix}") == PLAIN
    assert write_rows(tmp_path / f"b{suffix}", []) == 0 and read(tmp_path / f"b{suffix}") == []
    if suffix != ".parquet":  # half surrogates, infinities and long integers are in people's files
        write_rows(tmp_path / f"a{suffix}", ROWS)
        assert read(tmp_path / f"a{suffix}") == ROWS
        text = (tmp_path / f"a{suffix}").read_text()
        assert ([json.loads(line) for line in text.splitlines()] if suffix == ".jsonl" else json.loads(text)) == ROWS


@pytest.mark.parametrize("chunk", [1, 2, 3, 5, 8, 13, 21, 1000])
@pytest.mark.parametrize("indent", [None, 40])
def test_an_array_is_cut_anywhere(tmp_path, monkeypatch, chunk, indent):
    """Wherever a chunk ends: in a number, a literal, an escape, a character of four bytes, much white space."""
    monkeypatch.setattr(rows, "CHUNK", chunk)
    values = [*ROWS, 12, -0.5e-7, True, False, None, "text", [1, [2]], -math.inf, 98765432109876543210, {}]
    text = json.dumps(values, ensure_ascii=True, indent=indent)
    assert list(read_values(text_file(tmp_path / "a.json", text))) == values
    text = json.dumps(values[1:], ensure_ascii=False, indent=indent).replace("\n", "\r\n")
    path = text_file(tmp_path / "b.json", "\ufeff \n" + text + "\n\n")
    assert list(read_values(path)) == json.loads(text)


def test_content_decides_between_array_and_lines(tmp_path):
    """As in training, where both are `json`; blank lines and a byte order mark are no rows, and NaN is a number."""
    both = [{"a": 1}, {"a": 2}]
    assert read(text_file(tmp_path / "a.json", '\ufeff{"a": 1}\r\n\r\n{"a": 2}')) == both
    assert read(text_file(tmp_path / "a.jsonl", '\n[{"a": 1},\n{"a": 2}]')) == both
    assert read(text_file(tmp_path / "b.jsonl", '\ufeff\n{"a": 1}')) == both[:1]
    assert read(text_file(tmp_path / "empty.jsonl", "")) == []
    for name, text in {"n.json": '[{"x": NaN}]', "n.jsonl": '{"x": NaN}'}.items():
        assert math.isnan(read(text_file(tmp_path / name, text))[0]["x"])


GOOD = json.dumps(PLAIN[:40])
DAMAGE = {
    "cut": (GOOD[: GOOD.index('"row 17"') + 3], 17, "Unterminated string"),
    "cut between": (GOOD[: GOOD.index('{"text": "row 17"')], 17, "Expecting value"),
    "open": (GOOD[:-1], 40, "where the file ends"),
    "quote": (GOOD.replace('"row 17"', 'row 17"'), 17, "Expecting value"),
    "comma": (GOOD.replace(', {"text": "row 17"', ' {"text": "row 17"'), 17, "a comma"),
    "trailing comma": (GOOD[:-1] + ",]", 40, "Expecting value"),
    "two lists": (GOOD + GOOD, 40, "closed with ] before"),
    "not UTF-8": (GOOD.encode().replace(b"row 17", b"row \xff"), 17, "invalid start byte"),
    "half a character": (GOOD[: GOOD.index("row 17")].encode() + b"\xc3", 17, "Unterminated string"),
    "deep": (GOOD.replace('"row 17"', "[" * 200_000), 17, "recursion"),
}


@pytest.mark.parametrize("chunk", [50, 1 << 20])
@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_array_is_read_up_to_the_damage(tmp_path, monkeypatch, kind, chunk):
    """The message names the row to look at, whatever else was read in the same chunk."""
    monkeypatch.setattr(rows, "CHUNK", chunk)
    content, row, reason = DAMAGE[kind]
    path = text_file(tmp_path / "a.json", content)
    found = list(read_values(path))
    assert found[:-1] == PLAIN[:row] and isinstance(found[-1], Broken)
    with pytest.raises(DataError, match=rf"a\.json, row {row} \(the first is 0\): .*{reason}"):
        read(path)


def test_damaged_lines_are_skipped(tmp_path):
    """One bad line of JSONL does not hide the others, as `check` wants to report them all."""
    lines = [b'{"a": 0}', b'{"a": 1', b'{"a": "\xff"}', b"[" * 200_000, b'{"a": 4}']
    found = list(read_values(text_file(tmp_path / "a.jsonl", b"\n".join(lines))))
    assert [found[0], found[4]] == [{"a": 0}, {"a": 4}]
    assert [isinstance(value, Broken) for value in found] == [False, True, True, True, False]


def test_damaged_parquet(tmp_path):
    """Damaged at the start, at the end, and in the data of the second half only."""
    write_rows(tmp_path / "a.parquet", PLAIN)
    whole = (tmp_path / "a.parquet").read_bytes()
    second = pyarrow.parquet.ParquetFile(tmp_path / "a.parquet").metadata.row_group(1).column(0).data_page_offset
    for damaged in (b"", whole[:-100], b"x" * 999, whole[:second] + b"\xff" * 200 + whole[second + 200 :]):
        found = list(read_values(text_file(tmp_path / "b.parquet", damaged)))
        assert isinstance(found[-1], Broken) and found[:-1] == PLAIN[: len(found) - 1]
    assert len(found) == 501


def test_rows_and_files_that_cannot_be_read(tmp_path):
    for value in ("12", '"text"', "null", "[{}]"):
        with pytest.raises(DataError, match=r"row 1 \(the first is 0\): .* is not an object with columns"):
            read(text_file(tmp_path / "a.json", '[{"a": 1}, ' + value + "]"))
    (tmp_path / "loop.json").symlink_to("loop.json")
    for name, message in {"a.txt": "must end in .json", "b.json": "there is no file", "loop.json": "no file"}.items():
        with pytest.raises(DataError, match=message):
            read(tmp_path / name)


# ---- Parquet and its types ----


def test_bytes_are_kept_in_parquet_only(tmp_path):
    images = [{"images": [{"bytes": b"\x89PNG", "path": None}]}] * 3 + [{"images": [{"bytes": None, "path": "a"}]}]
    write_rows(tmp_path / "a.parquet", images)
    assert read(tmp_path / "a.parquet") == images
    with pytest.raises(DataError, match='a.json, column "images": .*bytes is not JSON serializable.*Write .parquet'):
        write_rows(tmp_path / "a.json", images)
    assert not (tmp_path / "a.json").exists()


MIXED = [(1, "a"), (True, 0.5), (True, 1), ("a", b"b"), (["a"], [b"b"]), ([1], 1), ({"a": "x"}, {"a": b"x"})]
MIXED += [pair[::-1] for pair in MIXED]


@pytest.mark.parametrize("values", [*MIXED, [2**70], ["\ud800"], [2**53 + 1, 0.5], [{}]])
def test_what_parquet_cannot_hold_is_refused(tmp_path, values):
    """Mixed types also when the batches in which they stand are each of one; Arrow would turn text into bytes."""
    mixed = 'a.parquet, column "score": Parquet wants one type a column.*' if values in MIXED else ""
    for many in (1, 601):
        data = [{"good": 1, "score": values[0]}] * many + [{"good": 1, "score": value} for value in values[1:]]
        with pytest.raises(DataError, match=f"{mixed}Write .jsonl instead"):
            write_rows(tmp_path / "a.parquet", data)
    assert os.listdir(tmp_path) == []


def test_types_widen_where_nothing_is_lost(tmp_path):
    """An integer among floats, and a column that is empty for a whole batch."""
    data = [{"x": 1, "images": []}] * 600 + [{"x": 0.5, "images": ["a"], "late": {"b": 1}}]
    write_rows(tmp_path / "a.parquet", data)
    assert read(tmp_path / "a.parquet") == [row | {"late": row.get("late")} for row in data]


# ---- whole files ----


def test_nothing_is_left_of_a_failure(tmp_path):
    """An error among the rows leaves the old file as it was, and no other."""
    (tmp_path / "a.json").write_text("old")

    def failing():
        yield PLAIN[0]
        raise KeyError("stop")

    for suffix in (".json", ".jsonl", ".parquet"):
        with pytest.raises(KeyError):
            write_rows(tmp_path / f"a{suffix}", failing())
    assert os.listdir(tmp_path) == ["a.json"] and (tmp_path / "a.json").read_text() == "old"


def test_links_and_permissions_stay(tmp_path):
    real = tmp_path / "real" / "a.json"
    write_rows(real, PLAIN[:1])
    real.chmod(0o640)
    (tmp_path / "link.json").symlink_to(real)
    write_rows(tmp_path / "link.json", PLAIN[:2])
    assert (tmp_path / "link.json").is_symlink() and read(real) == PLAIN[:2]
    assert real.stat().st_mode & 0o777 == 0o640


def test_parts_of_dead_processes_go(tmp_path):
    """Those of a process that runs stay, and so does what only looks similar."""
    dead = max(psutil.pids()) + 100_000
    names = [f".a.json.{number}.part" for number in (dead, os.getppid())] + [f".b.json.{dead}.part", ".a.json.x.part"]
    for name in names:
        (tmp_path / name).write_text("half")
    write_rows(tmp_path / "a.json", PLAIN)
    assert sorted(os.listdir(tmp_path)) == sorted(["a.json", *names[1:]])


def test_places_that_cannot_be_written(tmp_path):
    """A pipe, or /dev/null for the administrator, must not become a file."""
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "loop.json").symlink_to("loop.json")
    os.mkfifo(tmp_path / "pipe.json")
    messages = {
        "file/a.json": "cannot write",
        "folder.json": "a folder of that name",
        "n" * 300 + ".json": "cannot write",
        "loop.json": "link that leads nowhere",
        "pipe.json": "is not a file",
        "a.txt": "the name must end in",
    }
    for name, message in messages.items():
        with pytest.raises(DataError, match=message):
            write_rows(tmp_path / name, PLAIN)
    for attempt in (lambda path: require_writable(path), lambda path: whole_file(path).__enter__()):
        with pytest.raises(DataError, match="is not a file"):
            attempt(tmp_path / "pipe.json")


def test_output_must_not_be_the_input(tmp_path):
    """Under another spelling or through a link too."""
    (tmp_path / "link.json").symlink_to("a.json")
    for output in ("a.json", "x/../a.json", "link.json"):
        with pytest.raises(DataError, match="is also read.*another name"):
            require_new_name(tmp_path / output, [None, tmp_path / "a.json"])
    require_new_name(tmp_path / "b.json", [tmp_path / "a.json"])


# ---- memory ----

PEAK = """
import sys
from pathlib import Path
from pair_data.rows import read_rows
from pair_data.writing import write_rows
import pyarrow.parquet, psutil, tqdm
start = psutil.Process().memory_info().rss
write_rows(Path(sys.argv[2]), read_rows(Path(sys.argv[1])))
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(int(peak.split()[1]) * 1024 - start)
"""


def grown(source, copy):
    """Return by how many bytes a process grew that copied a file."""
    path = {"PYTHONPATH": str(ROOT / "scripts" / "uni_dpo"), "TMPDIR": str(copy.parent)}
    command = [sys.executable, "-c", PEAK, source, copy]
    return int(subprocess.run(command, check=True, capture_output=True, env=os.environ | path).stdout)


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="the peak is read from Linux's /proc")
def test_memory_does_not_grow_with_the_file(tmp_path):
    """60 MB of JSON need no more than 12 MB do: a few chunks and batches, and what the libraries take once."""
    for name, count in (("small", 14_000), ("large", 70_000)):
        write_rows(tmp_path / f"{name}.json", ({"n": i, "text": f"{i} " * 150} for i in range(count)))
    assert (tmp_path / "large.json").stat().st_size > 60e6
    for suffix in (".json", ".parquet"):
        small, large = (grown(tmp_path / f"{name}.json", tmp_path / f"copy{suffix}") for name in ("small", "large"))
        assert large < small + 8e6, (suffix, small, large)


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="the peak is read from Linux's /proc")
def test_memory_does_not_grow_with_the_images(tmp_path):
    """500 rows with images of 2 MB would take gigabytes to read one of, and again to write."""
    images = pyarrow.array([os.urandom(1 << 20) for _ in range(200)])
    pyarrow.parquet.write_table(pyarrow.table({"image": images}), tmp_path / "a.parquet", write_batch_size=4)
    found = grown(tmp_path / "a.parquet", tmp_path / "copy.parquet")
    assert pyarrow.parquet.ParquetFile(tmp_path / "a.parquet").num_row_groups == 1
    assert pyarrow.parquet.read_table(tmp_path / "copy.parquet")["image"].to_pylist() == images.to_pylist()
    assert found < 350e6, found

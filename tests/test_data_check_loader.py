"""What `check` says of a file agrees with what datasets' loader, the one that training uses, does with it."""

import json

import numpy as np
import pytest
from checking import SCORED, good_rows
from datasets import load_dataset
from pairs import options, train, write_dataset

from llamafactory.train.uni_dpo.errors import UniDPOError
from pair_data.check import loader
from pair_data.check.findings import ERRORS
from pair_data.check.plan import Plan
from pair_data.check.run import check, late
from pair_data.sources import COLUMNS, Source


REFUSALS = {"column-mixed", "column-late", "loader-refuses", "file-bom", "file-encoding", "file-empty"}
REFUSALS |= {"row-unreadable", "row-not-object", "text-not-unicode", "number-too-large"}

# Two values of a column in two rows, and whether lists and lines of such rows load.
VALUES = [
    ("1", "2.5", True, True),
    ('"2"', "1.5", False, False),
    ("true", "1", False, False),
    ('"a"', '["a"]', False, False),
    ("[]", '["a"]', True, True),
    ('["a", 1]', '["a"]', False, False),
    ("[true]", "[1]", False, False),
    ('{"a": 1}', '{"b": 2}', True, True),
    ('{"a": 1}', '{"a": "x"}', False, False),
    ('[{"a": 1}]', '["x"]', False, False),
    ("NaN", "1", True, True),
    ("123456789012345678901234567890", "1", False, True),
    ("18446744073709551615", "1", True, True),
    ('"\\udce9.png"', '"a"', False, False),
    ('"\\ud83d\\ude00"', '"a"', True, True),
    ('"a\\u0000b"', '"a"', True, True),
    ("1e400", "1", True, False),
    ('1, "v": 2', "3", True, False),
]
FILES = [
    ("x.jsonl", b'\xef\xbb\xbf{"a": 1}\n{"a": 2}\n', True),
    ("x.json", b'\xef\xbb\xbf[{"a": 1}]', False),
    ("x.jsonl", '{"a": "é"}\n'.encode("latin-1"), False),
    ("x.json", '[{"a": "é"}]'.encode("latin-1"), False),
    ("x.jsonl", b"", False),
    ("x.json", b"[]", False),
    ("x.jsonl", b'[{"a": 1},\n{"a": 2}]', True),
    ("x.json", b'{"a": 1}\n\n{"a": 2}', True),
    ("x.json", b'[{"a": 1}, 3]', False),
    ("x.jsonl", b'{"a": 1}\n[1]\n', False),
    ("x.jsonl", b'{"a": 1}\n{"a":', False),
    ("x.json", b'[{"a": 1}, null]', False),
    ("x.json", '[{"a": 1}]'.encode("utf-16"), False),
]
# A column in the first and in the second part of a large JSONL file; whether it loads.
PARTS = [
    ('"a": 1', '"a": 1, "b": 2', False),
    ('"a": 1, "b": 2', '"a": 1', True),
    ('"a": null', '"a": "x"', False),
    ('"a": []', '"a": ["x"]', False),
    ('"a": 1', '"a": 2.5', False),
    ('"a": 1', '"a": 2.0', True),
    ('"a": 1.5', '"a": 1', True),
    ('"a": {"x": 1}', '"a": {"x": 1, "y": 1}', False),
    ('"a": 1, "b": 2', '"b": 2, "a": 1', True),
    ('"a": "x"', '"a": null', True),
]


def loads(path, **options):
    try:
        options |= {"split": "train", "cache_dir": str(path.parent / "cache")}
        load_dataset("json", data_files=[str(path)], **options)[:]
    except Exception:
        return False
    return True


def found_in(path, **settings):
    """Check without images."""
    source = Source(path.name, (path,), dict(COLUMNS), path.parent)
    return check(Plan([source], images=False, **settings), progress=False).found


def refused(path):
    """Return the kinds among the findings that mean the loader stops; rows of these tests are no pairs otherwise."""
    assert ERRORS.keys() >= REFUSALS
    return REFUSALS & found_in(path, scored=False).counts.keys()


@pytest.mark.parametrize(("first", "second", "as_list", "as_lines"), VALUES)
def test_values_that_share_a_column(tmp_path, first, second, as_list, as_lines):
    rows = [f'{{"t": "q", "v": {value}}}' for value in (first, second)]
    for name, text, expected in [("x.json", f"[{','.join(rows)}]", as_list), ("x.jsonl", "\n".join(rows), as_lines)]:
        path = tmp_path / name
        path.write_text(text)
        assert loads(path) is expected, "the table above is not what the loader does"
        assert (not refused(path)) is expected, f"check finds {refused(path)}"


@pytest.mark.parametrize(("name", "data", "expected"), FILES)
def test_whole_files(tmp_path, name, data, expected):
    path = tmp_path / name
    path.write_bytes(data)
    assert loads(path) is expected
    assert (not refused(path)) is expected, f"check finds {refused(path)}"


@pytest.mark.parametrize(("first", "second", "expected"), PARTS)
def test_lines_that_the_loader_reads_in_two_parts(tmp_path, monkeypatch, first, second, expected):
    """In parts of 512 KB instead of 10 MB; the real size is in test_data_check_fix.py."""
    monkeypatch.setattr(loader, "CHUNK", 1 << 19)
    path = tmp_path / "x.jsonl"
    path.write_text("".join(f'{{"t": "{"x" * 1000}", {part}}}\n' * 530 for part in (first, second)))
    assert loads(path, chunksize=loader.CHUNK) is expected
    assert refused(path) == (set() if expected else {"column-late"})


def test_the_row_to_blame_is_the_odd_one(tmp_path):
    path = tmp_path / "x.json"
    path.write_text(json.dumps([{"v": "text" if row == 3 else row} for row in range(6)]))
    found = found_in(path, scored=False)
    assert found.counts["column-mixed"] == 1 and "row 3" in next(found.examples("column-mixed"))


def test_a_line_that_is_null_does_not_end_the_process(tmp_path):
    """Arrow crashes, with the whole process, on a table whose first line is null."""
    path = tmp_path / "x.jsonl"
    path.write_text('null\n{"v": 1}\n')
    assert refused(path) == {"row-not-object"}


@pytest.mark.parametrize(("without", "stops"), [(1000, True), pytest.param(999, False, marks=pytest.mark.long)])
def test_images_after_many_rows_without_any(tmp_path, tiny_model, without, stops):
    """After 1,000 rows without images datasets takes the column for empty, and training stops at the first image."""
    rows = good_rows(tmp_path, 4)
    texts = [rows[0] | {"instruction": f"What is {i}?", "images": []} for i in range(without)]
    write_dataset(tmp_path, texts + rows, columns=SCORED)
    run = options(tiny_model, tmp_path, tmp_path / "out", max_steps=1)
    assert ("images-late" in found_in(tmp_path / "pairs.json").counts) is stops
    if stops:
        with pytest.raises(UniDPOError, match="to null"):
            train(run)
    else:
        train(run)


def test_every_part_of_the_rows_has_its_own_late_images():
    flags = np.arange(5000) % 4999 == 0  # the first and the last row
    assert late(flags, shards=1) == []
    assert late(flags, shards=2) == [4999]
    assert late(np.arange(1100) >= 999, shards=1) == [] and late(np.arange(1100) >= 1000, shards=1) == [1000]

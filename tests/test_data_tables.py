"""CSV, UTF-16 and media that are no paths: training and every command read and say the same."""

import base64
import csv
import json

import pytest
from checking import check, good_rows
from data_cli import data
from loading import Loader
from pairs import write_dataset

from llamafactory.train.uni_dpo.errors import UniDPOError
from pair_data.rows import Broken, read_rows, read_values


WORDS = ["None", "NA", "null", "nan", "42", "007", "1e5", "True", "2024-01-01", " a ", "#N/A", 'x\n"y", é']


def prepared(model, folder, **changes):
    """Load and tokenise as our trainer does."""
    return Loader(model, folder, **changes).data()


def write_csv(path, rows, encoding="utf-8"):
    with path.open("w", newline="", encoding=encoding) as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return path


@pytest.fixture
def rows(tmp_path):
    """Rows of CSV, with answers that look like something else, and every other one without an image."""
    rows = good_rows(tmp_path, len(WORDS))
    for number, (row, word) in enumerate(zip(rows, WORDS, strict=True)):
        row |= {"chosen": word, "images": row["images"][0]}
        if number % 2:
            row |= {"images": "", "instruction": word}
    return rows


def test_csv_trains_on_the_words_that_stand_there(tiny_model, tmp_path, rows):
    """An answer "None" would be none, "007" a number, and a question "NA" empty; every command reads the same."""
    write_csv(tmp_path / "pairs.csv", rows)
    write_dataset(tmp_path, [], file_name="pairs.csv")
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    found = prepared(tiny_model, tmp_path)
    assert len(found) == len(rows)
    for row, example in zip(rows, found, strict=True):
        answer = [token for token in example["chosen_labels"] if token != -100]
        assert tokenizer.decode(answer, skip_special_tokens=True).removesuffix("\n") == row["chosen"]
        assert example["score_chosen"] == row["score_chosen"]
    texts = [{name: str(value) or None for name, value in row.items()} for row in rows]
    assert list(read_rows(tmp_path / "pairs.csv")) == texts
    status, said = check(tmp_path / "pairs.csv", "--fix", tmp_path / "clean.json", "--no-images")
    assert status == 0 and "Nothing to report" in said, said
    scores = {side: [row[side] for row in rows] for side in ("score_chosen", "score_rejected")}
    assert [row["chosen"] for row in read_rows(tmp_path / "clean.json")] == WORDS
    assert {side: [row[side] for row in read_rows(tmp_path / "clean.json")] for side in scores} == scores
    status, said, _ = data("stats", tmp_path / "pairs.csv", "--out", tmp_path / "stats")
    assert status == 0 and f"{len(rows)} of them with two scores" in said
    status, said, _ = data("register", "table", tmp_path / "pairs.csv")
    assert status == 0 and f"{len(rows)} rows in pairs.csv" in said
    assert len(prepared(tiny_model, tmp_path, dataset="table")) == len(rows)
    status, said, _ = data("convert", tmp_path / "pairs.csv", "-o", tmp_path / "made.json")
    assert status == 0 and [row["chosen"] for row in read_rows(tmp_path / "made.json")] == WORDS
    (tmp_path / "tabs.tsv").write_text("question\tchosen\trejected\nWhy?\tNA\tnull\n")
    assert data("convert", tmp_path / "tabs.tsv", "-o", tmp_path / "made.json")[0] == 0
    assert [row["chosen"] for row in read_rows(tmp_path / "made.json")] == ["NA"]
    assert "data.py convert makes pairs of it" in data("stats", tmp_path / "tabs.tsv")[2]
    refused = data("convert", tmp_path / "pairs.csv", "-o", tmp_path / "x.csv")
    assert "must end in .json or .jsonl or .parquet" in refused[2]


BAD = {
    "too many": (b"instruction,chosen,rejected\na,b,c\na,b,c,d\n", 1, "4 cells, where the header has 3"),
    "too few": (b"instruction,chosen,rejected\na,b,c\na,b\n", 1, "2 cells, where the header has 3"),
    "quote": (b'instruction,chosen,rejected\na,b,c\na,"b,c\n', 1, "unexpected end of data"),
    "encoding": (b"instruction,chosen,rejected\na,b,c\na,caf\xe9,c\n", None, "utf-8"),
    "semicolons": (b"instruction;chosen;rejected\na;b;c\n", None, ""),
    "twice": (b"instruction,chosen,chosen\na,b,c\n", None, "twice"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_csv_is_refused_by_row(tmp_path, kind):
    """Pandas would take the first cell of a long row for its number, and move all others."""
    from llamafactory.train.uni_dpo.data.texts import check_table

    content, row, words = BAD[kind]
    (tmp_path / "x.csv").write_bytes(content)
    broken = [
        (row, value.reason) for row, value in enumerate(read_values(tmp_path / "x.csv")) if type(value) is Broken
    ]
    assert len(broken) == 1 and words in broken[0][1]
    assert check(tmp_path / "x.csv", "--no-images", "--no-scores")[0] in (1, 2)
    if kind == "semicolons":  # LlamaFactory names the columns that are missing
        assert check_table(str(tmp_path / "x.csv")) == ["instruction;chosen;rejected"]
        return
    with pytest.raises(UniDPOError, match=f"row {row} .*{words}" if row else words):
        check_table(str(tmp_path / "x.csv"))
    assert row is None or broken[0][0] == row


@pytest.mark.parametrize("kind", ["json", "jsonl", "csv"])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_other_encodings_are_named_and_mended(tiny_model, tmp_path, kind, encoding):
    """Or "Column() changed from object to array"; a mark before JSONL and CSV does no harm."""
    rows = [row | {"images": row["images"][0], "chosen": "größer"} for row in good_rows(tmp_path, 4)]
    path = tmp_path / f"rows.{kind}"
    write_dataset(tmp_path, [], file_name=path.name)
    texts = [json.dumps(row, ensure_ascii=False) for row in rows]
    if kind == "csv":
        write_csv(path, rows, encoding)
    else:
        path.write_text("\n".join(texts) if kind == "jsonl" else f"[{','.join(texts)}]", encoding=encoding)
    status, said = check(path, "--fix", tmp_path / "clean.jsonl", "--no-images")
    assert status == 0 and [row["chosen"] for row in read_rows(tmp_path / "clean.jsonl")] == ["größer"] * 4
    if encoding == "utf-8-sig" and kind != "json":
        assert "file-" not in said and len(prepared(tiny_model, tmp_path)) == 4
        return
    assert ("file-bom: 1 x" if encoding == "utf-8-sig" else "file-encoding: 1 x") in said
    with pytest.raises(UniDPOError, match=rf"{path.name} (is in|starts with).*{encoding.upper()}.*check .*--fix"):
        prepared(tiny_model, tmp_path)


def test_media_that_are_no_paths_are_called_what_they_are(tiny_model, tmp_path):
    """Not "No such file iVBOR..."; and convert takes what the message says it takes."""
    rows = good_rows(tmp_path, 5)
    picture = (tmp_path / rows[0]["images"][0]).read_bytes()
    picture += b"\0" * 300  # a file of more than a path's length
    coded = base64.b64encode(picture).decode()
    given = [
        (coded, "base64", True),
        (f"data:image/png;base64,{coded}", "a data URI", True),
        (f"file://{tmp_path / rows[0]['images'][0]}", "a file:// address", True),
        ("https://example.org/a.png", "on the web", False),
    ]
    made = [tmp_path / f"made-{number}.json" for number in range(len(given))]
    for (image, words, taken), output in zip(given, made, strict=True):
        changed = [*rows[:3], rows[3] | {"images": [image]}, rows[4]]
        write_dataset(tmp_path, changed)
        with pytest.raises(UniDPOError, match=rf'Data set "pairs", row 3 .*column "images".*{words}') as raised:
            prepared(tiny_model, tmp_path)
        assert ("data.py convert" in str(raised.value)) is taken and len(str(raised.value)) < 300
        status, said = check(tmp_path / "pairs.json", "--workers", 1)
        kind = "media-embedded" if taken else "media-web"
        assert status == 1 and f"{kind}: 1 x" in said and "row 3" in said and len(said) < 1500, said
        assert ("data.py convert" in said) is taken
        status, said, _ = data("convert", tmp_path / "pairs.json", "-o", output)
        assert status == 0 and ("4 pairs" if not taken else "5 pairs") in said, said
    assert check(*made, "--workers", 1)[0] == 0


def test_files_without_a_byte_are_called_empty(tiny_model, tmp_path):
    """Or ArrowInvalid, and advice about columns and types."""
    (tmp_path / "rows.parquet").write_bytes(b"")
    write_dataset(tmp_path, [], file_name="rows.parquet")
    with pytest.raises(UniDPOError, match=r"rows.parquet is empty \(0 bytes\)"):
        prepared(tiny_model, tmp_path)
    status, said = check(tmp_path / "rows.parquet")
    assert status == 1 and "file size is 0 bytes" in said

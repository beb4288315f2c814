"""A data set is added to dataset_info.json, LlamaFactory finds it there, and no other byte of the file changes."""

import json
import os
from pathlib import Path

import pytest
from data_cli import data
from pairs import as_openai, as_sharegpt, make_rows

from pair_data.sources import open_source
from pair_data.writing import write_rows


# The styles and oddities of upstream's own file: hub entries, nested columns and tags, letters that are not ASCII.
ENTRIES = {
    "identity": {"file_name": "identity.json"},
    "dpo_zh_demo": {"file_name": "dpo_zh_demo.json", "ranking": True, "columns": {"chosen": "chosen"}},
    "alpaca_gpt4_zh": {"hf_hub_url": "llamafactory/alpaca_gpt4_zh", "ms_hub_url": "llamafactory/alpaca_gpt4_zh"},
    "größe 名": {"file_name": "a}{b.json", "tags": {"role_tag": "role", "x": [1, {}, '\\"']}, "folder": None},
}
LIKE_UPSTREAM = json.dumps(ENTRIES, indent=2, ensure_ascii=False) + "\n"
STYLES = {
    "like upstream": LIKE_UPSTREAM,
    "tabs": json.dumps(ENTRIES, indent="\t"),
    "one line": json.dumps(ENTRIES),
    "no spaces": json.dumps(ENTRIES, separators=(",", ":")) + "\n\n",
    "Windows": LIKE_UPSTREAM.replace("\n", "\r\n"),
    "byte order mark": "\ufeff" + LIKE_UPSTREAM,
    "uneven": '\n\n{ "a" :\n{"b": 1 }\n\n ,\n\t"pairs2":[ ] , "c" : "}" }  ',
    "empty": "{}",
    "empty in two lines": "{\r\n}\r\n",
}


@pytest.fixture
def folder(tmp_path):
    """A folder with pairs in `pairs.json`."""
    write_rows(tmp_path / "pairs.json", make_rows(tmp_path, 8))
    return tmp_path


def register(folder, *options, name="pairs", file="pairs.json", status=0):
    """Run the command and return the text of dataset_info.json and what it said."""
    found, told, messages = data("register", name, folder / file, *options)
    assert found == status, messages
    info = folder / "dataset_info.json"
    return info.read_bytes().decode() if info.exists() else None, told + messages


def upstreams(folder, name="pairs"):
    """Return how LlamaFactory's own parser understands an entry."""
    from llamafactory.data.parser import get_dataset_list

    return get_dataset_list([name], str(folder))[0]


def parsed(text):
    return json.loads(text.removeprefix("\ufeff"))


@pytest.mark.parametrize("style", STYLES)
def test_every_other_byte_stays(folder, style):
    """The new entry is one piece of text between what was there, written as its neighbours are."""
    before = STYLES[style]
    (folder / "dataset_info.json").write_bytes(before.encode())
    after, _ = register(folder)
    assert parsed(after) == parsed(before) | {"pairs": parsed(after)["pairs"]}
    assert list(parsed(after))[-1] == "pairs"
    kept = len(os.path.commonprefix([before, after]))
    assert after.endswith(before[kept:]), "what was there is whole, around one insertion"
    if "\r\n" in before:
        assert after.count("\n") == after.count("\r\n")
    assert ("\n" in after.strip()) == (style not in ("one line", "no spaces"))


def test_llamafactory_reads_it(folder):
    """Through its own parser, in a file in upstream's style, which stays as json.dumps would have written it."""
    (folder / "dataset_info.json").write_text(LIKE_UPSTREAM, encoding="utf-8")
    after, told = register(folder)
    assert after == json.dumps(json.loads(after), indent=2, ensure_ascii=False) + "\n"
    attr = upstreams(folder)
    assert (attr.load_from, attr.dataset_name, attr.formatting, attr.ranking) == ("file", "pairs.json", "alpaca", True)
    assert (attr.prompt, attr.chosen, attr.rejected, attr.images) == ("instruction", "chosen", "rejected", "images")
    assert (attr.query, attr.history, attr.system) == (None, None, None)
    columns = open_source("pairs", folder).columns
    assert columns["score_chosen"] == "score_chosen" and "Note" not in told
    assert f"dataset: pairs   dataset_dir: {folder}" in told
    time = (folder / "dataset_info.json").stat().st_mtime_ns
    assert "unchanged" in register(folder)[1] and (folder / "dataset_info.json").stat().st_mtime_ns == time


@pytest.mark.parametrize("shape", ["alpaca", "sharegpt", "openai"])
def test_columns_are_found_out(folder, shape):
    """History, system and input where there are any; LlamaFactory's converter then makes a pair of every row."""
    from types import SimpleNamespace

    from llamafactory.data.converter import get_dataset_converter

    change = {"alpaca": lambda row: row | {"input": "i", "history": [["a", "b"]]}, "sharegpt": as_sharegpt}
    more = {"system": "s", "tools": "[]", "videos": ["v.mp4"], "audios": ["a.wav"]}
    rows = [change.get(shape, as_openai)(row) | more for row in make_rows(folder, 3)]
    for row in rows if shape != "alpaca" else []:
        del row["instruction"]
    write_rows(folder / "shape.jsonl", rows)
    register(folder, name=shape, file="shape.jsonl")
    attr = upstreams(folder, shape)
    convert = get_dataset_converter(attr.formatting, attr, SimpleNamespace(media_dir=str(folder)))
    for row, plain in zip(rows, make_rows(folder, 3), strict=True):
        pair = convert(row)
        assert [turn["content"] for turn in pair["_response"]] == [plain["chosen"], plain["rejected"]]
        assert pair["_prompt"][-1]["content"] == plain["instruction"] + ("\ni" if shape == "alpaca" else "")
        assert pair["_system"] == "s" and len(pair["_prompt"]) == (3 if shape == "alpaca" else 1)
        assert pair["_images"] == [str(folder / plain["images"][0])]
        assert [pair[f"_{name}"] for name in ("tools", "videos", "audios")] == ["[]", ["v.mp4"], ["a.wav"]]


def test_columns_that_come_late_count(folder):
    """Images and scores that only the last of many rows has."""
    plain = {"instruction": "q", "chosen": "a", "rejected": "b"}
    write_rows(folder / "late.jsonl", [plain] * 500 + [plain | {"images": ["a"], "score_chosen": 1.0}])
    after, told = register(folder, name="late", file="late.jsonl")
    assert set(parsed(after)["late"]["columns"].values()) == {*plain, "images", "score_chosen"}
    assert "Note: there is no score_rejected; Uni-DPO needs them" in told


def test_missing_images_are_counted(folder):
    """One missing picture of many would be taken for a wrong folder."""
    rows = make_rows(folder, 8) * 50
    rows[-1] = rows[-1] | {"images": ["gone.png"]}
    write_rows(folder / "one.json", rows)
    told = register(folder, name="one", file="one.json")[1]
    assert "Note: 1 of 400 images is missing (gone.png)\n" in told and "media_dir" not in told
    write_rows(folder / "all.json", [row | {"images": ["gone.png"]} for row in rows[:3]])
    told = register(folder, name="all", file="all.json")[1]
    assert "Note: 3 of 3 images are missing (gone.png): give training the media_dir" in told
    assert "missing (" not in register(folder)[1]


@pytest.mark.parametrize("style", ["one line", "Windows", "byte order mark"])
@pytest.mark.parametrize("name", list(ENTRIES))
def test_replacing_only_when_asked(folder, style, name):
    """First, in the middle and last; the entry's own text is all that changes."""
    before = STYLES[style]
    (folder / "dataset_info.json").write_bytes(before.encode())
    same, told = register(folder, name=name, status=2)
    assert same == before and "--replace" in told
    after, _ = register(folder, "--replace", name=name)
    new = parsed(after)[name]
    assert list(parsed(after)) == list(ENTRIES) and parsed(after) == ENTRIES | {name: new}
    assert new["file_name"] == "pairs.json"
    for other in (set(ENTRIES) - {name}) & {"identity", "alpaca_gpt4_zh"}:
        piece = before[before.index(f'"{other}"') :]
        assert piece[: piece.index("}") + 1] in after


def test_file_inside_and_outside_the_folder(folder, tmp_path_factory):
    """Relative inside, through a link too, and absolute elsewhere; LlamaFactory joins either to dataset_dir."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "link").symlink_to(folder)
    (folder / "sub").mkdir()
    write_rows(folder / "sub" / "b.parquet", make_rows(folder, 2))
    cases = {
        (folder / "sub" / "b.parquet", folder): "sub/b.parquet",
        (folder / "pairs.json", elsewhere / "link"): "pairs.json",
        (folder / "pairs.json", elsewhere): (folder / "pairs.json").as_posix(),
    }
    for number, ((file, base), expected) in enumerate(cases.items()):
        assert data("register", f"n{number}", file, "--dataset-dir", base)[0] == 0
        found = upstreams(base, f"n{number}").dataset_name
        assert found == expected and os.path.samefile(os.path.join(base, found), file)


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "not valid JSON"),
        ("[]", "must be an object"),
        ('{"a": {}, "a": {}}', 'describes "a" twice'),
        ("{'a': 1}", "not valid JSON"),
        (b"\xff", "cannot read"),
        ('{"a": {}} // mine', "not valid JSON"),
    ],
)
def test_a_damaged_dataset_info_stays_as_it_is(folder, text, message):
    given = text if isinstance(text, bytes) else text.encode()
    (folder / "dataset_info.json").write_bytes(given)
    status, _, messages = data("register", "pairs", folder / "pairs.json")
    assert status == 2 and message in messages and (folder / "dataset_info.json").read_bytes() == given


def test_files_that_training_could_not_use(folder):
    """Nothing is registered that training would fail on in its first rows."""
    plain = {"instruction": "q", "chosen": "a", "rejected": "b"}
    files = {
        "none.json": ([], "are needed"),
        "trl.jsonl": ([{"prompt": "q", "chosen": "a", "rejected": "b"}], "data.py convert"),
        "null.jsonl": ([plain, plain | {"chosen": None}], r'row 1 (the first is 0), column "chosen"'),
        "upper.JSON": ([plain], "small letters"),
    }
    for name, (rows, message) in files.items():
        write_rows(folder / name, rows)
        assert message in register(folder, file=name, status=2)[1]
    assert "no file" in register(folder, file="gone.json", status=2)[1]
    for name in ("a,b", "", " a", "a\n"):
        assert "could not name" in register(folder, name=name, status=2)[1]
    assert not Path(folder, "dataset_info.json").exists()

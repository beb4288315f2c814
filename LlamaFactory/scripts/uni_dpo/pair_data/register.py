"""The command `register`: a data set is added to a `dataset_info.json` without touching a byte of the others."""

import contextlib
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from .descriptions import parse
from .errors import DataError, place
from .options import DatasetDir
from .pairs import MEDIA, RowError, read_pair
from .rows import READ, read_rows, require_file
from .sources import COLUMNS, TAGS, Source, listed
from .writing import whole_file


NAME = "register"
LOOKED_AT = 200  # rows that are read as pairs
QUESTIONS = {"instruction", "input", "conversations", "messages"}

# OpenAI's names of roles in LlamaFactory's "sharegpt"; its own "openai" puts words into the system prompt.
OPENAI_TAGS = {
    "role_tag": "role",
    "content_tag": "content",
    "user_tag": "user",
    "assistant_tag": "assistant",
    "system_tag": "system",
    "observation_tag": "tool",
    "function_tag": "function_call",
}


def register(
    name: Annotated[str, typer.Argument(metavar="NAME", help="what training will call the data set")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="pairs in a .json, .jsonl, .csv or .parquet file")],
    dataset_dir: DatasetDir = None,
    replace: Annotated[bool, typer.Option("--replace", help="replace another entry of that name")] = False,
) -> None:
    r"""Describe a data set in dataset_info.json, so that training finds it by a name.

    Without --dataset-dir that is the dataset_info.json beside the file; it is made if there is none, and nothing else
    in it changes. The columns are found out from the file: questions as instruction (with input, history, system) or
    as conversations or messages, the answers chosen and rejected, images, and the scores if there are any.

    \b
    python scripts/uni_dpo/data.py register my_pairs data/uni_dpo/my_pairs.json
      then in the recipe:   dataset: my_pairs
                            dataset_dir: data/uni_dpo
    """
    if not name or name != name.strip() or re.search(r"[,\x00-\x1f]", name):
        raise DataError(f'training could not name the data set "{name}": no commas, no spaces around it, not empty')
    folder = dataset_dir or file.parent
    info = folder / "dataset_info.json"
    with _locked(folder):
        text = _read(info)
        spans = _spans(text, info)
        entry, rows, lost = describe(file, folder)
        old = json.loads(text[slice(*spans[name])]) if name in spans else None
        change = "unchanged" if old == entry else "replaced" if name in spans else "added"
        if change == "replaced" and not replace:
            raise DataError(f'{info} has another "{name}": {json.dumps(old)}. Choose another name, or add --replace.')
        if change != "unchanged":
            new = _with_entry(text, spans, name, entry)
            if parse(_bare(new), info) != parse(_bare(text), info) | {name: entry}:
                raise DataError(f"{info} is laid out in an unknown way. Add this by hand: {json.dumps({name: entry})}")
            with whole_file(info, "wb") as out:
                out.write(new.encode())
    columns = ", ".join(entry["columns"].values())
    print(f'{info}: "{name}" {change}, {rows} rows in {entry["file_name"]}, columns {columns}')
    print(f"In the recipe: dataset: {name}   dataset_dir: {folder}")
    missing = [side for side in ("score_chosen", "score_rejected") if side not in entry["columns"]]
    if missing:
        print(f"Note: there is no {' and no '.join(missing)}; Uni-DPO needs them, data.py score adds them.")
    if lost:
        print(f"Note: {lost}")
    if _bare(text) != text:
        print(f"Warning: {info} starts with a byte order mark, which LlamaFactory refuses.", file=sys.stderr)


run = register


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Let one `register` at a time change a folder. The lock is on the folder, so that no lock file stays behind."""
    try:
        import fcntl
    except ImportError:  # Windows, where folders cannot be opened
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise DataError(f"cannot write into {folder}: {error.strerror}") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def describe(file: Path, dataset_dir: Path) -> tuple[dict[str, Any], int, str]:
    """Return the entry for a file with the columns that it has, the number of its rows, and what media are missing."""
    require_file(file)
    if file.suffix not in READ:
        raise DataError(f"{file}: training knows the ending {file.suffix.lower()} in small letters only. Rename it.")
    names, first, count, shown, missing, example = {}, [], 0, 0, 0, ""
    for row in read_rows(file, "register"):
        names |= dict.fromkeys(row)
        for path in _paths(row):
            shown += 1
            if not os.path.isfile(dataset_dir / path) and not os.path.isfile(path):
                missing, example = missing + 1, example or path
        first += [row] if count < LOOKED_AT else []
        count += 1
    if not {"chosen", "rejected"} <= names.keys() or not QUESTIONS & names.keys():
        raise DataError(
            f"{file} has the columns {', '.join(names) or 'of no row'}; chosen, rejected and one of "
            f"{', '.join(sorted(QUESTIONS))} are needed. data.py convert makes them."
        )
    entry = {"file_name": _file_name(file, dataset_dir)} | _shape(names, first)
    source = Source(file.name, (file,), entry["columns"], dataset_dir, entry["formatting"], entry.get("tags", TAGS))
    for number, row in enumerate(first):
        try:
            read_pair(row, source)
        except RowError as error:
            raise DataError(f"{file}, {place(number)}, {error.where}: {error}") from error
    return entry, count, _lost(shown, missing, example, "files" if {"videos", "audios"} & names.keys() else "images")


def _paths(row: dict[str, Any]) -> Iterator[str]:
    """Yield the paths of a row's images, videos and sounds."""
    for value in (row.get(use) for use in MEDIA):
        yield from (path for path in listed(value) if isinstance(path, str))


def _lost(shown: int, missing: int, example: str, noun: str) -> str:
    if not missing:
        return ""
    told = f"{missing:,} of {shown:,} {noun} {'is' if missing == 1 else 'are'} missing ({example[:200]})"
    return f"{told}: give training the media_dir that they start from." if 2 * missing > shown else told


def _shape(names: dict[str, Any], rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what an entry says of rows with these columns."""
    talk = next((name for name in ("conversations", "messages") if name in names), "")
    uses = ("system", "tools", "chosen", "rejected", *MEDIA, "score_chosen", "score_rejected")
    columns = {use: use for use in uses if use in names}
    if "instruction" in names or not talk:
        columns = {use: COLUMNS[use] for use in ("prompt", "query", "history") if COLUMNS[use] in names} | columns
        return {"formatting": "alpaca", "ranking": True, "columns": columns}
    shape = {"formatting": "sharegpt", "ranking": True, "columns": {"messages": talk} | columns}
    openai = any(isinstance(row.get("chosen"), dict) and "role" in row["chosen"] for row in rows)
    return shape | ({"tags": OPENAI_TAGS} if openai else {})


def _file_name(file: Path, folder: Path) -> str:
    """Return the path relative to a folder that holds it, itself or through a link, and else the absolute one."""
    for spelled in (os.path.abspath, os.path.realpath):
        path, base = Path(spelled(file)), Path(spelled(folder))
        if path.is_relative_to(base):
            return path.relative_to(base).as_posix()
    return Path(os.path.abspath(file)).as_posix()


# ---- the text of dataset_info.json ----


def _read(info: Path) -> str:
    try:
        return info.read_bytes().decode()
    except FileNotFoundError:
        return "{}\n"
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read {info}: {error}") from error


def _bare(text: str) -> str:
    return text.removeprefix("\ufeff")


def _spans(text: str, info: Path) -> dict[str, tuple[int, int]]:
    """Return where the value of every entry starts and ends in the text."""
    parse(_bare(text), info)  # or what follows would not come to an end
    decoder, spans, at = json.JSONDecoder(), {}, _skip(text, text.index("{") + 1)
    while text[at] != "}":
        name, at = decoder.raw_decode(text, at)
        start = _skip(text, _skip(text, at) + 1)  # after the colon
        if name in spans:
            raise DataError(f'{info} describes "{name}" twice. Remove one of the two.')
        spans[name] = (start, decoder.raw_decode(text, start)[1])
        at = _skip(text, spans[name][1])
        at = _skip(text, at + 1) if text[at] == "," else at
    return spans


def _skip(text: str, at: int) -> int:
    """Return the place of the next character that is not white space."""
    return re.compile(r"[ \t\r\n]*").match(text, at).end()


def _with_entry(text: str, spans: dict[str, tuple[int, int]], name: str, entry: dict[str, Any]) -> str:
    """Put an entry into the text, in its place or last, in the style of the others."""
    first = text.index("{") + 1
    lead = text[first : _skip(text, first)] if spans else "\n  "
    newline, indent = "\r\n" if "\r\n" in text else "\n", lead.rpartition("\n")[2]
    value = json.dumps(entry)
    if "\n" in lead:
        value = json.dumps(entry, indent=indent or 2).replace("\n", newline + indent)
    if name in spans:
        start, end = spans[name]
        return text[:start] + value + text[end:]
    new = (newline + indent if "\n" in lead else " ") + f"{json.dumps(name)}: {value}"
    if not spans:
        return text[:first] + new + newline + text[_skip(text, first) :]
    last = max(end for _, end in spans.values())
    return text[:last] + "," + new + text[last:]

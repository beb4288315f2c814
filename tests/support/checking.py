"""What the tests of `data.py check` share."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from data_cli import data
from pairs import ALPACA, make_rows


SCORED = ALPACA | {"score_chosen": "score_chosen", "score_rejected": "score_rejected"}


def check(*arguments: object) -> tuple[int, str]:
    """Run the command in this process; return its status, and what it said."""
    status, output, messages = data("check", *arguments)
    return status, output + messages


def kinds_found(path: Path) -> dict[int | None, set[str]]:
    """Return the kinds of findings of every row in a file of them."""
    found = defaultdict(set)
    for finding in map(json.loads, path.read_text().splitlines()):
        found[finding["row"]].add(finding["kind"])
    return dict(found)


def good_rows(folder: Path, count: int) -> list[dict[str, Any]]:
    """Draw pictures and return rows in which nothing is to be found."""
    return [row | {"score_chosen": row["score_rejected"] + 1.5} for row in make_rows(folder, count)]


def write(path: Path, rows: list[Any]) -> Path:
    """Write rows as a list, or as lines."""
    path.write_text("\n".join(map(json.dumps, rows)) if path.suffix == ".jsonl" else json.dumps(rows))
    return path

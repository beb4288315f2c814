"""Runs of `data.py score` for the tests, and pairs for them."""

import functools
import json
import signal
import subprocess
from pathlib import Path
from typing import Any

from chat_server import Asked
from data_cli import DATA
from pairs import make_rows, mixed
from typer.testing import CliRunner

from pair_data.cli import app


PROGRAM = [*map(str, DATA), "score"]


def unscored(folder: Path, count: int = 9) -> list[dict[str, Any]]:
    """Pairs without scores in `folder`: a third about no image, a third about one, a third about two."""
    return [
        {name: value for name, value in row.items() if not name.startswith("score")}
        for row in mixed(make_rows(folder, count))
    ]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows as JSON Lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path: Path) -> list[dict[str, Any]]:
    """Read rows of a JSON array or JSON Lines."""
    text = path.read_text()
    return json.loads(text) if text.startswith("[") else [json.loads(line) for line in text.splitlines()]


def score(*arguments: Any) -> str:
    """Run `data.py score` in this process and return what it prints; errors come out as they are."""
    done = CliRunner().invoke(app, ["score", *map(str, arguments)])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


def program(*arguments: Any) -> subprocess.Popen:
    """Start `data.py score` as a process of its own."""
    heard = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # whoever runs the tests in the background
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*PROGRAM, *map(str, arguments)], preexec_fn=heard, **streams)


def judge(asked: Asked, number: int = 0) -> str:
    """Judge by a rule, see `judged`."""
    return f"A word of reason.\nScore: {judged(asked.answer):.2f}"


def judged(answer: str) -> float:
    """The score that `judge` gives: 8 for "It is", 3 for anything else, and a little for the length."""
    return round((8 if answer.startswith("It is") else 3) + len(answer) / 100, 2)

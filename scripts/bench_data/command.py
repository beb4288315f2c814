"""The data commands on made-up data of the published size and ten times that: time, memory, output."""

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench_data import rows
from bench_data.runs import run, size_of


ROOT = Path(__file__).resolve().parents[2]
DATA = [sys.executable, str(ROOT / "scripts" / "uni_dpo" / "data.py")]
COMMANDS = {  # name: its input, its arguments, what it writes
    "paths": ("pairs.json", ["pairs.json", "-o", "paths.json", "--image-dir", "images"], "paths.json"),
    "check": ("pairs.json", ["pairs.json", "--no-images"], ""),
    "stats": ("pairs.json", ["pairs.json", "--no-images", "--out", "stats"], "stats"),
    "convert": ("raw.jsonl", ["raw.jsonl", "-o", "converted.json"], "converted.json"),
}

DESCRIPTION = """\
Measure `data.py` paths, check, stats and convert, each as a process of its own, on as many made-up rows as the
published data has (50,555), and on ten times as many.

Rows have the published columns, images at somebody else's absolute paths (three rows to an image; `paths` finds an
empty file for each) and answers from one letter to thousands. `convert` reads as many questions with four ranked and
scored answers each. No image is opened. Peak is resident memory of a command's processes together.
"""

EPILOG = """\
examples:
  python scripts/bench_data.py                                   all of it: some minutes, and 3 GB of scratch space
  python scripts/bench_data.py --rows 5000 --commands stats      a first look
"""


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    wide = argparse.RawDescriptionHelpFormatter
    it = argparse.ArgumentParser(description=DESCRIPTION, epilog=EPILOG, formatter_class=wide)
    it.add_argument("--rows", type=positive, default=rows.PUBLISHED_ROWS, metavar="N", help="default: 50555")
    it.add_argument("--times", type=positive, default=10, metavar="N", help="then so many times as many (default: 10)")
    it.add_argument("--commands", nargs="+", choices=COMMANDS, default=list(COMMANDS), help="default: all")
    it.add_argument(
        "--scratch", type=Path, metavar="DIR", help="where made-up data goes (default: the system's place)"
    )
    it.add_argument(
        "--output",
        type=Path,
        default=ROOT / "outputs" / "bench_data" / "results.json",
        metavar="FILE",
        help="all numbers, as JSON (default: outputs/bench_data/results.json)",
    )
    return it


def positive(text: str) -> int:
    """Read a number from 1 on."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return int(text)


def main() -> int:
    """Measure, show and write; returns the exit code."""
    options = parser().parse_args()
    found = []
    for count in sorted({options.rows, options.rows * options.times}):
        with tempfile.TemporaryDirectory(prefix="bench-data-", dir=options.scratch) as scratch:
            found += measure(options.commands, count, Path(scratch))
    print(table(found))
    failed = [entry for entry in found if entry["status"]]
    for entry in failed:
        print(f"\n{entry['command']}, {entry['rows']} rows: exit status {entry['status']}\n{entry['said']}")
    write(options.output, {"machine": machine(), "threads": os.environ.get("OMP_NUM_THREADS"), "runs": found})
    print(f"all numbers: {options.output}")
    return 1 if failed else 0


def measure(commands: Iterable[str], count: int, folder: Path) -> list[dict[str, Any]]:
    """Make the data and run the commands over it, removing what is no longer needed."""
    found = []
    for source in dict.fromkeys(COMMANDS[name][0] for name in commands):
        print(f"making {source}, {count:,} rows", file=sys.stderr, flush=True)
        make(source, count, folder)
        for name in (name for name in commands if COMMANDS[name][0] == source):
            print(f"data.py {name}", file=sys.stderr, flush=True)
            _, arguments, output = COMMANDS[name]
            result = run([*DATA, name, *arguments], folder)
            sizes = {
                "input_bytes": size_of(folder / source),
                "output_bytes": size_of(folder / output) if output else 0,
            }
            found.append({"command": name, "rows": count, **asdict(result), **sizes})
            if output:
                _remove(folder / output)
        _remove(folder / source)
    return found


def make(source: str, count: int, folder: Path) -> None:
    """Write one of the inputs, and empty files where `paths` looks for images."""
    if source == "raw.jsonl":
        _write_lines(folder / source, rows.questions(count), "", "", "")
        return
    _write_lines(folder / source, rows.pairs(count), "[", ",", "]")
    for subset in rows.SUBSETS:
        (folder / "images" / "MM-RLHF" / subset.name).mkdir(parents=True, exist_ok=True)
    for name in rows.image_names(count):
        (folder / "images" / "MM-RLHF" / name).touch()


def table(found: list[dict[str, Any]]) -> str:
    """Return the numbers as lines of text, with ratios to the smaller run of the same command."""
    lines = [
        f"{'command':10}{'rows':>9}{'seconds':>9}{'CPU s':>8}{'rows/s':>10}{'peak MB':>9}{'output MB':>11}"
        f"{'time x':>8}{'memory x':>10}"
    ]
    smaller = {}
    for entry in sorted(found, key=lambda entry: (list(COMMANDS).index(entry["command"]), entry["rows"])):
        first = smaller.setdefault(entry["command"], entry)
        line = f"{entry['command']:10}{entry['rows']:>9,}{entry['seconds']:>9.1f}{entry['cpu_seconds']:>8.1f}"
        line += f"{entry['rows'] / entry['seconds']:>10,.0f}{entry['peak_bytes'] / 1e6:>9.0f}"
        line += f"{entry['output_bytes'] / 1e6:>11.1f}"
        if first is not entry:
            ratios = (entry[key] / first[key] for key in ("seconds", "peak_bytes"))
            line += "{:>8.1f}{:>10.2f}".format(*ratios)
        lines.append(line + (f"  exit status {entry['status']}" if entry["status"] else ""))
    return "\n".join(lines)


def machine() -> dict[str, Any]:
    """Return what the numbers depend on."""
    return {"system": platform.platform(), "cores": os.cpu_count(), "python": platform.python_version()}


def write(path: Path, result: dict[str, Any]) -> None:
    """Write JSON that is there entirely or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.tmp")
    unfinished.write_text(json.dumps(result, indent=1) + "\n")
    os.replace(unfinished, path)


def _write_lines(path: Path, values: Iterator[dict[str, Any]], first: str, between: str, last: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write(first)
        for number, value in enumerate(values):
            file.write((between if number else "") + json.dumps(value) + "\n")
        file.write(last)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)

"""The data commands on made-up data of the published size and ten times that: time, memory, output."""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from tabulate import tabulate

from bench_common import surroundings
from bench_data import rows
from common import ROOT, positive, write_json


DATA = [sys.executable, str(ROOT / "scripts" / "uni_dpo" / "data.py")]
COMMANDS = {  # name: its input, its arguments, what it writes
    "paths": ("pairs.json", ["pairs.json", "-o", "paths.json", "--image-dir", "images"], "paths.json"),
    "check": ("pairs.json", ["pairs.json", "--no-images"], ""),
    "stats": ("pairs.json", ["pairs.json", "--no-images", "--out", "stats"], "stats"),
    "convert": ("raw.jsonl", ["raw.jsonl", "-o", "converted.json"], "converted.json"),
}
EVERY = 0.05  # seconds between looks at memory
TAIL = 2000  # characters kept of what a command that failed said

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


def main(argv: list[str] | None = None) -> int:
    """Measure, show and write; returns the exit code."""
    options = _parser().parse_args(argv)
    found = []
    for count in sorted({options.rows, options.rows * options.times}):
        with tempfile.TemporaryDirectory(prefix="bench-data-", dir=options.scratch) as scratch:
            found += measure(options.commands, count, Path(scratch))
    print(table(found))
    failed = [entry for entry in found if entry["status"]]
    for entry in failed:
        print(f"\n{entry['command']}, {entry['rows']} rows: exit status {entry['status']}\n{entry['said']}")
    write_json(options.output, {"machine": surroundings(), "runs": found})
    print(f"all numbers: {options.output}")
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    wide = argparse.RawDescriptionHelpFormatter
    it = argparse.ArgumentParser(description=DESCRIPTION, epilog=EPILOG, formatter_class=wide)
    it.add_argument("--rows", type=positive, default=rows.PUBLISHED_ROWS, metavar="N", help="default: 50555")
    it.add_argument("--times", type=positive, default=10, metavar="N", help="then so many times as many (default: 10)")
    it.add_argument("--commands", nargs="+", choices=COMMANDS, default=list(COMMANDS), help="default: all")
    it.add_argument(
        "--scratch", type=Path, metavar="DIR", help="where made-up data goes (default: the system's place)"
    )
    output = ROOT / "outputs" / "bench_data" / "results.json"
    about = "all numbers, as JSON (default: outputs/bench_data/results.json)"
    it.add_argument("--output", type=Path, default=output, metavar="FILE", help=about)
    return it


def measure(commands: Iterable[str], count: int, folder: Path) -> list[dict[str, Any]]:
    """Make the data and run the commands over it, removing what is no longer needed."""
    found = []
    for source in dict.fromkeys(COMMANDS[name][0] for name in commands):
        print(f"making {source}, {count:,} rows", file=sys.stderr, flush=True)
        make(source, count, folder)
        for name in (name for name in commands if COMMANDS[name][0] == source):
            print(f"data.py {name}", file=sys.stderr, flush=True)
            _, arguments, output = COMMANDS[name]
            entry = {"command": name, "rows": count, **run([*DATA, name, *arguments], folder)}
            entry["input_bytes"] = _size(folder / source)
            entry["output_bytes"] = _size(folder / output) if output else 0
            found.append(entry)
            if output:
                _remove(folder / output)
        _remove(folder / source)
    return found


def make(source: str, count: int, folder: Path) -> None:
    """Write one of the inputs, and empty files where `paths` looks for images."""
    values = rows.questions(count) if source == "raw.jsonl" else rows.pairs(count)
    first, between, last = ("", "", "") if source == "raw.jsonl" else ("[", ",", "]")
    with (folder / source).open("w", encoding="utf-8") as file:
        file.write(first)
        for number, value in enumerate(values):
            file.write((between if number else "") + json.dumps(value) + "\n")
        file.write(last)
    if source == "pairs.json":
        for name in rows.image_names(count):
            image = folder / "images" / "MM-RLHF" / name
            image.parent.mkdir(parents=True, exist_ok=True)
            image.touch()


def run(command: list[str], folder: Path) -> dict[str, Any]:
    """Run a command in a folder and measure it.

    This process should be small: the system counts its memory as that of what it starts, until that is loaded. Seconds
    of the CPU and the peak are of all its processes together, and pages that they share are counted for each.
    """
    log = folder / "log.txt"
    with log.open("wb") as output:
        start = time.perf_counter()
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT)
        peak = 0
        while True:
            ended, status, usage = os.wait4(process.pid, os.WNOHANG)
            seconds = time.perf_counter() - start
            if ended:
                break
            peak = max(peak, _memory(process.pid))
            time.sleep(EVERY)
    process.returncode = os.waitstatus_to_exitcode(status)
    said = log.read_text(errors="replace")[-TAIL:] if process.returncode else ""
    log.unlink()
    return {
        "status": process.returncode,
        "seconds": seconds,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        # The system's own peak is of the largest process alone, but misses nothing between two looks.
        "peak_bytes": max(peak, usage.ru_maxrss * 1024),
        "said": said,
    }


def table(found: list[dict[str, Any]]) -> str:
    """Return the numbers as lines of text, with ratios to the smaller run of the same command."""
    head = ["command", "rows", "seconds", "CPU s", "rows/s", "peak MB", "output MB", "time x", "memory x", ""]
    lines, smaller = [], {}
    for entry in sorted(found, key=lambda entry: (list(COMMANDS).index(entry["command"]), entry["rows"])):
        first = smaller.setdefault(entry["command"], entry)
        time_x, memory_x = (entry[key] / first[key] for key in ("seconds", "peak_bytes"))
        line = [entry["command"], f"{entry['rows']:,}", f"{entry['seconds']:.1f}", f"{entry['cpu_seconds']:.1f}"]
        line += [f"{entry['rows'] / entry['seconds']:,.0f}", f"{entry['peak_bytes'] / 1e6:.0f}"]
        line += [f"{entry['output_bytes'] / 1e6:.1f}"]
        line += ["", ""] if first is entry else [f"{time_x:.1f}", f"{memory_x:.2f}"]
        lines.append([*line, f"exit status {entry['status']}" if entry["status"] else ""])
    align = ["left", *["right"] * 8, "left"]
    return tabulate(lines, head, "plain", disable_numparse=True, colalign=align)


def _memory(process: int) -> int:
    total = 0
    with suppress(psutil.Error):  # one of them ended while we looked
        first = psutil.Process(process)
        for each in (first, *first.children(recursive=True)):
            total += each.memory_info().rss
    return total


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)

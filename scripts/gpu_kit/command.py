"""The command line of the kit: parts in turn within a time limit; what is done is kept."""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench_common import surroundings
from common import ROOT, positive, write_json

from .parts import Part, parts


DESCRIPTION = """Ask a GPU, once one is at hand, all that only a GPU shows: whether the engine is exact there, how long
steps take, what whole runs need, how fast answers come. The most valuable comes first. A part that is done is kept:
the same command goes on where it was cut off. A table comes last; every number is in the folder."""
EPILOG = """examples:
  python scripts/gpu_kit.py --minutes 25                 on a GPU
  python scripts/gpu_kit.py --minutes 5 --only exact     only whether it is exact there
  python scripts/gpu_kit.py --device cpu --small         a try of the kit itself, without a GPU"""
AGAIN = 0.5  # minutes below which no part is started


def main(argv: list[str] | None = None) -> int:
    """Run the command line; 1 if a part failed or something was not exact."""
    options = _parser().parse_args(argv)
    ends = time.monotonic() + 60 * options.minutes
    chosen = [part for part in parts(options.device, options.small) if not options.only or part.name in options.only]
    done = []
    for part in chosen:
        print(f"{part.name}: {' '.join(part.words)}", file=sys.stderr, flush=True)
        done.append(attempt(part, options.folder / part.name.replace(" ", "_"), ends))
        summary = {**surroundings("torch", "transformers", "llamafactory"), "parts": done}
        write_json(options.folder / "kit.json", summary)
    print(table(done))
    print(f"all numbers: {options.folder}")
    return 1 if any(entry["state"] in ("failed", "wrong") for entry in done) else 0


def _parser() -> argparse.ArgumentParser:
    wide = argparse.RawDescriptionHelpFormatter
    it = argparse.ArgumentParser(description=DESCRIPTION, epilog=EPILOG, formatter_class=wide)
    it.add_argument("--minutes", type=positive, default=25, metavar="N", help="time for all (default: %(default)s)")
    it.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="default: %(default)s")
    it.add_argument("--small", action="store_true", help="as little of everything as there can be")
    names = ", ".join(part.name for part in parts("cuda", False))
    it.add_argument("--only", nargs="+", metavar="PART", help=f"some parts of {names}")
    folder = ROOT / "outputs" / "gpu_kit"
    it.add_argument("--folder", type=Path, default=folder, metavar="DIR", help="default: outputs/gpu_kit")
    return it


def attempt(part: Part, folder: Path, ends: float) -> dict[str, Any]:
    """Run a part unless it is done, and return its name, its state, and what is to be shown of it."""
    mark = folder / "done.json"
    if mark.is_file():
        return json.loads(mark.read_text(encoding="utf-8"))
    left = ends - time.monotonic()
    if left < 60 * AGAIN:
        return {"part": part.name, "state": "not run", "lines": ["no time was left"]}
    folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    state = _run(part.command(folder), folder / "log.txt", min(left, 60 * part.minutes))
    entry = {"part": part.name, "state": state, "seconds": round(time.monotonic() - began, 1)}
    entry["lines"] = _found(part, folder) if state != "failed" else _found(part, folder) + _last_words(folder)
    if any(line.startswith("WRONG") for line in entry["lines"]):
        entry["state"] = "wrong"
    if entry["state"] == "done":
        write_json(mark, entry)
    return entry


def _run(command: list[str], log: Path, seconds: float) -> str:
    """Run a command, with all that it starts, for so long at most; return how it ended."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
        try:
            return "done" if process.wait(seconds) == 0 else "failed"
        except subprocess.TimeoutExpired:
            return "out of time"
        finally:
            if process.poll() is None:  # also where this command is interrupted
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _found(part: Part, folder: Path) -> list[str]:
    """Say what a part wrote, be it cut off."""
    try:
        return part.lines(json.loads((folder / part.result).read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError) as error:
        return [f"no results: {type(error).__name__}"]


def _last_words(folder: Path) -> list[str]:
    said = (folder / "log.txt").read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return [f"log: {line.strip()[:160]}" for line in said[-2:]]


def table(done: list[dict[str, Any]]) -> str:
    """Return a table of Markdown with a row for every line of every part."""
    rows = ["| part | state | s | seen |", "| --- | --- | ---: | --- |"]
    for entry in done:
        for number, line in enumerate(entry["lines"]):
            head = (entry["part"], entry["state"], entry.get("seconds", "")) if number == 0 else ("", "", "")
            rows.append(f"| {head[0]} | {head[1]} | {head[2]} | {line} |")
    return "\n".join(rows)

#!/usr/bin/env python3
"""Rounds against one round, on the demo world: `python scripts/rounds_trial.py`."""

import argparse
import json
import os
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml

from common import ROOT, ToolError, positive, write_json
from demo.pairs import prompts
from demo.writers import save_image
from study.statistics import Estimate, difference, over_seeds


DESCRIPTION = """Do three rounds help more than one, or than one with three times the questions?

Rounds of examples/uni_dpo/rounds.sh from the demo's checkpoint, with a rule that compares with the right answer, none
stopped early; the first of three rounds is the one round. Every seed has questions, samples and an order of its own,
and the same held-out questions. A table comes last. What is done is kept: the same command goes on."""
WAYS = {"rounds": (3, 1), "more": (1, 3)}  # rounds, times the questions
SHOWN = ("start", "one round", "two rounds", "three rounds", "one round, three times the questions")
SCRIPT = ROOT / "LlamaFactory" / "examples" / "uni_dpo" / "rounds.sh"


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    options = _parser().parse_args(argv)
    jobs = [(seed, way) for seed in range(options.seeds) for way in WAYS]
    with ThreadPoolExecutor(options.jobs) as pool:
        tables = list(pool.map(lambda job: rounds(*job, options), jobs))
    found = scores(dict(zip(jobs, tables, strict=True)), options.seeds)
    write_json(options.output / "rounds_trial.json", found)
    print(table(found))
    return 0


def _parser() -> argparse.ArgumentParser:
    it = argparse.ArgumentParser(description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    it.add_argument("--seeds", type=positive, default=3, metavar="N", help="default: %(default)s")
    it.add_argument("--questions", type=positive, default=150, metavar="N", help="of a round (default: %(default)s)")
    it.add_argument("--held-out", type=positive, default=300, metavar="N", help="default: %(default)s")
    it.add_argument("--jobs", type=positive, default=os.cpu_count(), metavar="N", help="runs at once (default: cores)")
    it.add_argument("--start", type=Path, default=ROOT / "data" / "demo" / "checkpoint", help="default: %(default)s")
    folder = ROOT / "outputs" / "rounds_trial"
    it.add_argument("--output", type=Path, default=folder, metavar="DIR", help="default: outputs/rounds_trial")
    return it


def rounds(seed: int, way: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Do the rounds of one way to spend the questions, and return what table.json says of each.

    Raises:
        ToolError: they ended early; the log is named.
    """
    count, times = WAYS[way]
    folder = options.output / f"{way}_{seed}"
    plan = {
        "start": str(options.start),
        "questions": questions(folder, "questions", "train", times * options.questions, seed),
        "validation": questions(folder, "held_out", "val", options.held_out, 0),
        "recipe": str(ROOT / "LlamaFactory" / "examples" / "uni_dpo" / "demo_uni_dpo.yaml"),
        "output": str(folder / "out"),
        "rounds": count,
        "patience": count,
        "seed": seed,
        "sample": {"count": 6, "max-tokens": 32, "batch-size": 48},
        "score": {"rule": "exact-match", "workers": 1},
        "pairs": {"pairs": "best-worst"},
        "train": {"GLOBAL_BATCH": 16, "GPUS": 0, "uni_dpo_tau_good": 1.0},  # points are 0 or 1
    }
    (folder / "rounds.yaml").write_text(yaml.safe_dump(plan), encoding="utf-8")
    variables = {"OMP_NUM_THREADS": "1", "PYTHON": sys.executable} | os.environ
    with open(folder / "log.txt", "a", encoding="utf-8") as log:
        done = subprocess.run(
            ["bash", str(SCRIPT), str(folder / "rounds.yaml")], stdout=log, stderr=subprocess.STDOUT, env=variables
        )
    if done.returncode:
        raise ToolError(f"rounds ended with exit status {done.returncode}, see {folder / 'log.txt'}")
    print(f"{way}, seed {seed}: done", file=sys.stderr, flush=True)
    return json.loads((folder / "out" / "table.json").read_text(encoding="utf-8"))["rounds"]


def questions(folder: Path, name: str, split: str, count: int, seed: int) -> str:
    """Write questions of the demo world with their pictures and right answers, once; return the file."""
    folder.mkdir(parents=True, exist_ok=True)
    file, rows = folder / f"{name}.jsonl", []
    if not file.exists():
        for number, (question, _) in enumerate(prompts(split, count, seed)):
            _, image = save_image(folder, f"{name}_{number}", question.scene, random.Random(f"{seed} {number}"))
            rows.append(json.dumps({"question": question.text, "image": image, "answer": question.answer}) + "\n")
        file.write_text("".join(rows), encoding="utf-8")
    return str(file)


def scores(tables: dict[tuple[int, str], list[dict[str, Any]]], seeds: int) -> dict[str, dict[int, float]]:
    """Collect the mean score of the held-out questions, in percent, of what is compared, each by seed."""
    found: dict[str, dict[int, float]] = {name: {} for name in SHOWN}
    for seed in range(seeds):
        kept = [*tables[seed, "rounds"], tables[seed, "more"][1]]
        for name, row in zip(SHOWN, kept, strict=True):
            found[name][seed] = 100 * row["validation"]["mean"]
    return found


def table(found: dict[str, dict[int, float]]) -> str:
    """Return means over seeds with their intervals, and differences by seed to one round, as Markdown."""
    lines = ["| | held-out questions, % | against one round |", "| --- | ---: | ---: |"]
    for name, values in found.items():
        against = _shown(difference(values, found[SHOWN[1]])) if name not in SHOWN[:2] else ""
        lines.append(f"| {name} | {_shown(over_seeds(list(values.values())))} | {against} |")
    return "\n".join(lines)


def _shown(it: Estimate) -> str:
    return f"{it.mean:.1f} [{it.mean - it.half:.1f}, {it.mean + it.half:.1f}]"


if __name__ == "__main__":
    sys.exit(main())

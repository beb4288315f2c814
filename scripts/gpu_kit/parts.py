"""The parts of the kit, the most valuable first, and what of their results is shown."""

import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench_eval.report import compared
from common import ROOT


OURS = ("ours", "ours, joined", "ours, joined, one kernel")


@dataclass(frozen=True)
class Part:
    """A command that writes JSON.

    Attributes:
        name: of its folder and of its rows in the table.
        words: the command after the Python.
        result: the file that it writes into its folder.
        minutes: most that it may take.
        lines: says what was found.
    """

    name: str
    words: tuple[str, ...]
    result: str
    minutes: float
    lines: Callable[[dict[str, Any]], list[str]]

    def command(self, folder: Path) -> list[str]:
        """Return the command; `{}` in its words is the folder."""
        return [sys.executable, *(word.replace("{}", str(folder)) for word in self.words)]


def parts(device: str, small: bool) -> list[Part]:
    """List what is to be run; `small` is what a CPU does in minutes."""
    scripts = ROOT / "scripts"
    exact = (str(scripts / "gpu_kit" / "exact.py"), "{}", "--device", device)
    step = (str(scripts / "bench_train_step.py"), "--output", "{}")
    runs = (str(scripts / "bench_runs.py"), "--output", "{}/results.json")
    answers = (str(scripts / "bench_eval.py"), "--out", "{}/results.json")
    if small:
        once = ("--shapes", "64/8", "--repeats", "1", "--variants", "everything", "both_cached", "--no-memory")
        few = ("--vocabulary", "800", "--batch", "1", "--steps", "2", "--only", "LlamaFactory", "ours")
        return [
            Part("exact", (*exact, "--kinds", "qwen2_vl"), "results.json", 10, of_exact),
            Part("step", (*step, *once), "results.json", 10, of_steps),
            Part("runs", (*runs, *few), "results.json", 10, of_runs),
            Part("answers", (*answers, "--rows", "4", "--repeats", "1"), "results.json", 10, of_answers),
        ]
    main = ("--variants", "everything", "reference_cached", "both_cached")
    whole = ("--device", "gpu", "--shape", "Qwen2-VL-2B", "--batch", "1", "--accumulation", "16", "--steps", "6")
    others = [
        Part(f"step {kind}", (*step, "--model", kind, *main), "results.json", 5, of_steps)
        for kind in ("qwen3_vl", "qwen3_5", "internvl")
    ]
    return [
        Part("exact", exact, "results.json", 5, of_exact),
        Part("step qwen2_vl 2b", (*step, "--size", "2b", *main), "results.json", 6, of_steps),
        Part("runs 2B", (*runs, *whole, "--only", "LlamaFactory", *OURS), "results.json", 9, of_runs),
        others[0],
        Part("step qwen2_vl 7b", (*step, "--size", "7b", *main), "results.json", 6, of_steps),
        Part("answers", (*answers, "--rows", "256", "--repeats", "3"), "results.json", 4, of_answers),
        *others[1:],
    ]


def of_exact(result: dict[str, Any]) -> list[str]:
    """Count the checks, and name those that failed."""
    wrong = [f"WRONG: {check['name']}: {check['seen']}" for check in result["checks"] if not check["ok"]]
    return [f"{len(result['checks']) - len(wrong)} of {len(result['checks'])} checks hold", *wrong]


def of_steps(result: dict[str, Any]) -> list[str]:
    """Give the ratio to LlamaFactory's forward of each variant, and the counted ceiling."""
    lines = []
    for shape in result["shapes"]:
        found = [
            f"{name} {variant['ratio']['median']:.2f} ({variant['ceiling']:.2f})"
            for name, variant in shape["variants"].items()
            if name != "upstream"
        ]
        lines.append(f"{shape['shape']}: " + ", ".join(found))
    return lines


def of_runs(result: dict[str, Any]) -> list[str]:
    """Give peak memory and steps of each trainer."""
    lines = []
    for entry in result["runs"]:
        above = statistics.median(run["peak"] - run["loaded"] for run in entry["runs"])
        first = statistics.median(run["steps"][0] for run in entry["runs"])
        later = statistics.median(step for run in entry["runs"] for step in run["steps"][1:])
        lines.append(
            f"{entry['trainer']}, batch {entry['batch']}: {above:,.0f} MiB, {first:.2f} s, then {later:.2f} s"
        )
    return lines


def of_answers(result: dict[str, Any]) -> list[str]:
    """Give how many questions a second each way answers for each of the loop."""
    lines = []
    for name in result["ways"]:
        ratios, same, count = compared(result, name)
        spread = f"{statistics.median(ratios):.1f} times the loop's questions a second"
        lines.append(f"{name}: {spread} [{min(ratios):.1f}, {max(ratios):.1f}], {same} of {count} answers equal")
    return lines[1:]

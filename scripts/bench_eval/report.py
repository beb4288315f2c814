"""What is shown of the comparison of answers."""

import statistics
from typing import Any

from tabulate import tabulate

from bench_common import spread

from .counts import PARTS


def compared(result: dict[str, Any], name: str) -> tuple[list[float], int, int]:
    """Compare a way with the loop.

    Returns:
        How many times its speed each turn had, how many answers are the same, and of how many.
    """
    theirs, its = (result["ways"][way]["turns"] for way in ("loop", name))
    pairs = list(zip(theirs, its, strict=True))
    answers = [pair for loop, way in pairs for pair in zip(loop["answers"], way["answers"], strict=True)]
    same = sum(loop == way for loop, way in answers)
    return [loop["seconds"] / way["seconds"] for loop, way in pairs], same, len(answers)


def table(result: dict[str, Any]) -> str:
    """Return the result as text."""
    head = (
        f"{result['model']} on {result['data']}, {result['rows']} questions a turn, up to {result['max_new_tokens']} "
        f"tokens, {result['device']}, {result['threads']} threads; medians, of speeds [least, most]"
    )
    lines = [_line(name, result) for name in result["ways"]]
    titles = ["", "questions/s", "times the loop", "CPU ms an answer", "times less", "peak MiB"]
    titles += ["start s", "its CPU s", "same answers"]
    counted = [_counted(name, counts, result) for name, counts in result["counts"].items()]
    return "\n".join([f"\n{head}", tabulate(lines, titles, "github", disable_numparse=True), *counted])


def _line(name: str, result: dict[str, Any]) -> list[str]:
    way = result["ways"][name]
    speed = spread([result["rows"] / turn["seconds"] for turn in way["turns"]])
    cpu = _cpu(way, result)
    ratio, less, same = "", "", ""
    if "loop" in result["ways"]:
        ratios, equal, count = compared(result, name)
        ratio, same = _shown(spread(ratios)), f"{equal} of {count}"
        less = f"{_cpu(result['ways']['loop'], result) / cpu:.1f}"
    numbers = (f"{way['peak']:,.0f}", f"{way['start']['seconds']:.1f}", f"{way['start']['cpu']:.1f}")
    return [name, _shown(speed), ratio, f"{1000 * cpu:.1f}", less, *numbers, same]


def _cpu(way: dict[str, Any], result: dict[str, Any]) -> float:
    """Return CPU seconds an answer."""
    return statistics.median(turn["cpu"] for turn in way["turns"]) / result["rows"]


def _shown(values: dict[str, float]) -> str:
    return f"{values['median']:.1f} [{values['least']:.1f}, {values['most']:.1f}]"


def _counted(name: str, counts: dict[str, Any], result: dict[str, Any]) -> str:
    """Say where an answer's time went, and what its computing would take at this machine's rates."""
    rows, seconds, calls = result["rows"], counts["seconds"], counts["calls"]
    rest = seconds["all"] - sum(seconds[part] for part in PARTS)
    parts = {**{part: seconds[part] for part in PARTS}, "rest": rest}
    times = ", ".join(f"{part} {1000 * value / rows:.1f}" for part, value in parts.items())
    computing = counts["operations"] / result["rates"]["operations"]
    reading = counts["weights"] * (calls["prefill"] + calls["decode"]) / result["rates"]["bytes"]
    positions = counts["positions"]
    return (
        f"\n{name}, ms of CPU an answer: {times}\n"
        f"  {calls['prefill']} calls of {positions['prefill'] / calls['prefill']:.0f} positions and {calls['decode']} "
        f"of {positions['decode'] / max(1, calls['decode']):.1f}; {counts['operators'] / rows:,.0f} operators and "
        f"{counts['operations'] / rows / 1e9:.3f}e9 operations an answer\n"
        f"  at this machine's rates computing takes {1000 * computing / rows:.1f} ms an answer, reading the weights "
        f"{1000 * reading / rows:.1f}"
    )

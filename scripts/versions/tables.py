"""What came of all cells: tables in Markdown."""

from collections.abc import Sequence
from typing import Any

from packaging.version import Version

from install_overlay.supported import supported

from .cells import Cell


WORDS = {"works": "works", "refused": "refused by name", "fails": "**fails**"}
NOT_TRIED = "–"


def tables(results: Sequence[tuple[Cell, dict[str, Any]]]) -> str:
    """Return a table for each upstream, and under it what failed with what.

    Args:
        results: Cells and what `Trial.outcome` said of them.
    """
    parts = []
    for package in dict.fromkeys(cell.kind.package for cell, _ in results):
        parts += [_table([(cell, found) for cell, found in results if cell.kind.package == package]), ""]
        ranges = ", ".join(f"{name} {wanted}" for name, wanted in supported(package).items())
        parts += [f"Supported: {ranges}.", ""]
    noted = [(cell, found) for cell, found in results if found["state"] != "works"]
    parts += [f"- {cell.upstream}, transformers {cell.transformers}: {found['note']}" for cell, found in noted]
    return "\n".join(parts).strip()


def summary(results: Sequence[tuple[Cell, dict[str, Any]]]) -> str:
    """Return counts of each state, in words."""
    states = [found["state"] for _, found in results]
    counts = ", ".join(f"{states.count(state)} {WORDS[state].strip('*')}" for state in WORDS if state in states)
    losses = [loss for _, found in results for loss in zip(found.get("losses", ()), strict=False)]
    firsts = {len(found["losses"]) for _, found in results if "losses" in found}
    spread = ""
    if losses and len(firsts) == 1:
        steps = zip(*(found["losses"] for _, found in results if "losses" in found), strict=True)
        spread = f"; losses of uni_dpo differ by at most {max(max(step) - min(step) for step in steps):.1e}"
    return f"{len(results)} cells: {counts}{spread}"


def _table(results: list[tuple[Cell, dict[str, Any]]]) -> str:
    versions = sorted({cell.transformers for cell, _ in results}, key=Version)
    state = {(cell.upstream, cell.transformers): WORDS[found["state"]] for cell, found in results}
    lines = [["", *(f"transformers {version}" for version in versions)], ["---"] * (len(versions) + 1)]
    for upstream in dict.fromkeys(cell.upstream for cell, _ in results):
        lines.append([upstream, *(state.get((upstream, version), NOT_TRIED) for version in versions)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)

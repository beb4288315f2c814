"""The summary of a check."""

from collections.abc import Iterator

from .findings import ADVICE, ERROR, LEVEL, LEVELS, NOTE, WARNING
from .plan import Checked


HEADINGS = {
    ERROR: "Errors (training stops, or learns something false)",
    WARNING: "Warnings (spoil quietly)",
    NOTE: "Notes",
}


def summary(checked: Checked) -> str:
    """Return the findings by level and kind, with the first rows of each and what to do; and what was not checked."""
    plan, conclusion = checked.plan, []
    if not plan.images:
        conclusion = ["Images were not opened."]
    if not (plan.training and plan.tokens and plan.images):
        conclusion.append("Tokens were not counted: that takes a model.")
    if 2 * checked.found.counts["score-reversed"] > sum(checked.found.ends):
        conclusion.append("Most pairs are reversed: chosen and rejected, or their scores, look swapped.")
    levels = checked.found.level_counts
    totals = ", ".join(_count(levels[level], level) for level in LEVELS if levels[level]) or "Nothing to report"
    return "\n".join([*_data(checked), "", *_kinds(checked), *conclusion, f"{totals}."])


def _data(checked: Checked) -> Iterator[str]:
    query = """SELECT use, count(DISTINCT number) FROM shown JOIN media USING (number) WHERE source = ? GROUP BY use"""
    for number, source in enumerate(checked.found.sources):
        rows, wrong = checked.found.ends[number], len(checked.found.rows(number))
        use = "held out, " if number >= len(checked.plan.sources) else ""
        media = dict(checked.found.db.execute(query, (number,)))
        nouns = {"images": "image", "videos": "video", "audios": "audio"}
        counts = [_count(media.get(use, 0), noun) for use, noun in nouns.items() if use in media or noun == "image"]
        yield f"{source.name}: {use}{_count(rows, 'row')}, {wrong:,} with errors; {', '.join(counts)}"


def _kinds(checked: Checked) -> Iterator[str]:
    counts = checked.found.counts
    for level in LEVELS:
        kinds = [(-count, kind) for kind, count in counts.items() if LEVEL[kind] == level]
        if not kinds:
            continue
        yield HEADINGS[level]
        for _, kind in sorted(kinds):
            examples = list(checked.found.examples(kind))
            yield f"  {kind}: {counts[kind]:,} x. {ADVICE[kind][0].upper()}{ADVICE[kind][1:]}."
            yield from (f"      {example}" for example in examples)
            if counts[kind] > len(examples):
                yield f"      ... and {counts[kind] - len(examples):,} more"
        yield ""


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")

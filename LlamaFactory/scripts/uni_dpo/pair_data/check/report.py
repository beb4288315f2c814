"""The summary of a check."""

from collections.abc import Iterator

from .kinds import ERROR, KINDS, LEVELS, WARNING
from .run import Checked


HEADINGS = {ERROR: "Errors (training stops, or learns something false)", WARNING: "Warnings (spoil quietly)"}


def summary(checked: Checked, skipped: list[str]) -> str:
    """Return the findings by level and kind, with the first rows of each and what to do.

    Args:
        checked: what was found.
        skipped: what was not checked, in words.
    """
    return "\n".join([*_data(checked), "", *_kinds(checked), *skipped, _conclusion(checked)])


def _data(checked: Checked) -> Iterator[str]:
    for number, (source, table) in enumerate(zip(checked.found.sources, checked.tables, strict=True)):
        rows, wrong = checked.found.ends[number], len(checked.found.with_errors[number])
        use = "held out, " if table.held_out else ""
        media = [checked.gallery.uses[number] for number in {*table.images.numbers, *table.media.numbers}]
        seen = {noun: media.count(f"{noun}s") for noun in ("image", "video", "audio")}
        counts = ", ".join(_count(count, noun) for noun, count in seen.items() if count or noun == "image")
        yield f"{source.name}: {use}{_count(rows, 'row')}, {wrong:,} with errors; {counts}"


def _kinds(checked: Checked) -> Iterator[str]:
    counts, examples = checked.found.counts, checked.found.examples
    for level in LEVELS:
        kinds = [(count, kind) for kind, count in counts.items() if KINDS[kind].level == level]
        if not kinds:
            continue
        yield HEADINGS.get(level, "Notes")
        for count, kind in sorted(kinds, key=lambda item: (-item[0], item[1])):
            yield f"  {kind}: {count:,} x. {KINDS[kind].advice[0].upper()}{KINDS[kind].advice[1:]}."
            yield from (f"      {example}" for example in examples[kind])
            if count > len(examples[kind]):
                yield f"      ... and {count - len(examples[kind]):,} more"
        yield ""


def _conclusion(checked: Checked) -> str:
    counts = checked.found.level_counts()
    if 2 * checked.found.counts["score-reversed"] > sum(checked.found.ends):
        return f"Most pairs are reversed: chosen and rejected, or their scores, look swapped.\n{_totals(counts)}"
    return _totals(counts)


def _totals(counts: dict[str, int]) -> str:
    parts = [_count(counts[level], level) for level in LEVELS if counts[level]]
    return f"{', '.join(parts)}." if parts else "Nothing to report."


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")

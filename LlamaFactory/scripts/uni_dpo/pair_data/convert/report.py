"""What became of the rows."""

from collections import Counter, defaultdict
from dataclasses import dataclass, field


EXAMPLES = 3  # rows named for each reason
UNUSED = 20  # columns named, the most frequent


@dataclass
class Report:
    """Counts of a conversion.

    Attributes:
        read: rows looked at.
        pairs: pairs made.
        scored: those with two scores.
        contradictions: those whose scores say the opposite of rank or source.
        by_rank: whether ranks made any of these.
        moved: whether the first row with an image became the first of all.
        unscored: pairs left out for want of scores.
        answers: answers left out, by reason.
        answer_places: rows that these are of.
        unused: columns that did nothing for the pairs, and in how many rows they had something.
        left: rows left out on purpose (videos, ties), by reason: their places.
        skipped: rows that could not be understood, by reason: their places.
    """

    read: int = 0
    pairs: int = 0
    scored: int = 0
    contradictions: int = 0
    by_rank: bool = False
    moved: bool = False
    unscored: int = 0
    answers: Counter[str] = field(default_factory=Counter)
    answer_places: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    unused: Counter[str] = field(default_factory=Counter)
    left: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    skipped: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    counts: Counter[str] = field(default_factory=Counter)

    def leave_out(self, reason: str, place: str, understood: bool) -> None:
        """Count a row that gives no pair."""
        self.counts[reason] += 1
        examples = (self.left if understood else self.skipped)[reason]
        if len(examples) < EXAMPLES:
            examples.append(place)

    def leave_out_answers(self, counts: Counter[str], place: str) -> None:
        """Count answers of a row that are in no pair, by reason."""
        for reason, count in counts.items():
            self.answers[reason] += count
            if len(self.answer_places[reason]) < EXAMPLES:
                self.answer_places[reason].append(place)

    @property
    def not_understood(self) -> int:
        """How many rows could not be understood."""
        return sum(self.counts[reason] for reason in self.skipped)

    def reasons(self) -> list[str]:
        """Return a line for each reason for which rows were left out, most frequent first."""
        lines = []
        for title, rows in (("left out", self.left), ("not understood", self.skipped)):
            for reason in sorted(rows, key=lambda reason: -self.counts[reason]):
                lines.append(f"  {self.counts[reason]:>9,} {title}: {reason} ({', '.join(rows[reason])})")
        return lines

    def text(self, output: str) -> str:
        """Return the report."""
        scores = "with scores" if self.scored else "without scores (data.py score adds them)"
        lines = [f"{self.read:>11,} questions read", f"{self.pairs:>11,} pairs in {output}, {scores}"]
        if self.moved:
            lines.append(
                "            the first with an image comes first, or training would take the images for empty"
            )
        lines += self.reasons()
        lines += [f"  {self.unscored:>9,} pairs left out: no scores"] if self.unscored else []
        for reason, count in sorted(self.answers.items()):
            lines.append(f"  {count:>9,} answers left out: {reason} ({', '.join(self.answer_places[reason])})")
        if self.contradictions:
            advice = "--min-margin 0 leaves them out" + (", --by score lets scores decide" if self.by_rank else "")
            lines.append(f"  {self.contradictions:>9,} pairs whose chosen answer has the lower score: {advice}")
        if self.unused:
            named = self.unused.most_common(UNUSED)
            names = [f"{name} ({count:,} row{'s' if count > 1 else ''})" for name, count in named]
            more = [f"{len(self.unused) - UNUSED} more"] if len(self.unused) > UNUSED else []
            lines.append(f"columns that nothing was taken from: {', '.join(names + more)}")
        return "\n".join(lines)

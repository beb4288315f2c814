"""What became of the rows."""

from collections import Counter, defaultdict
from dataclasses import dataclass, field

from .mixing import Mixed


EXAMPLES = 3  # rows named for each reason
UNUSED = 20  # columns named, the most frequent
LEFT, NOT_UNDERSTOOD, PAIRS, ANSWERS = "left out", "not understood", "pairs left out", "answers left out"


@dataclass
class Report:
    """Counts of a conversion; what is left out, with rows as examples, is counted by what it is and why."""

    read: int = 0  # rows
    pairs: int = 0
    scored: int = 0  # pairs with two scores
    pictured: int = 0  # pairs with images
    contradictions: int = 0  # pairs whose scores say the opposite of rank or source
    by_rank: bool = False  # whether ranks made any of these
    moved: bool = False  # whether the first row with an image became the first of all
    mixed: Mixed | None = None  # what became of old pairs, where some are mixed in
    means: dict[str, None] = field(default_factory=dict)  # what scores are the mean of
    unused: Counter[str] = field(default_factory=Counter)
    left: Counter[tuple[str, str]] = field(default_factory=Counter)
    places: dict[tuple[str, str], list[str]] = field(default_factory=lambda: defaultdict(list))

    def leave_out(self, what: str, reason: str, place: str, count: int = 1) -> None:
        """Count what gives no pair."""
        self.left[what, reason] += count
        if len(self.places[what, reason]) < EXAMPLES:
            self.places[what, reason].append(place)

    @property
    def not_understood(self) -> int:
        """How many rows could not be understood."""
        return sum(count for (what, _), count in self.left.items() if what == NOT_UNDERSTOOD)

    def reasons(self) -> str:
        """Return what scores are, and a line for each reason for which something was left out, most frequent first."""
        kinds = (LEFT, NOT_UNDERSTOOD, PAIRS, ANSWERS)
        left = sorted(self.left.items(), key=lambda item: (kinds.index(item[0][0]), -item[1]))
        lines = (f"  {count:>9,} {what}: {why} ({', '.join(self.places[what, why])})" for (what, why), count in left)
        return "\n".join([*(f"{'':12}{mean}" for mean in self.means if mean), *lines])

    def text(self, output: str) -> str:
        """Return the report."""
        scores = "with scores" if self.scored else "without scores (data.py score adds them)"
        lines = [f"{self.read:>11,} questions read", f"{self.pairs:>11,} pairs in {output}, {scores}"]
        lines.append(f"{'':12}{self.pictured:,} of them with images, {self.pairs - self.pictured:,} without")
        if self.mixed:
            lines.insert(2, self.mixed.text(self.pairs - self.mixed.taken))
        if self.moved:
            lines.append(f"{'':12}the first with an image comes first, or training would take the images for empty")
        lines.append(self.reasons())
        if self.contradictions:
            advice = "--min-margin 0 leaves them out" + (", --by score lets scores decide" if self.by_rank else "")
            lines.append(f"  {self.contradictions:>9,} pairs whose chosen answer has the lower score: {advice}")
        if self.unused:
            named = self.unused.most_common(UNUSED)
            names = [f"{name} ({count:,} row{'s' if count > 1 else ''})" for name, count in named]
            more = [f"{len(self.unused) - UNUSED} more"] if len(self.unused) > UNUSED else []
            lines.append(f"columns that nothing was taken from: {', '.join(names + more)}")
        return "\n".join(filter(None, lines))

"""What came of sampling: how many answers there are to a question, how long they are, how many were cut."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..stats.measures import summary


FEW = 0.3  # share of questions with one answer, from which something is said
CUT = 0.05  # and share of answers that were cut


@dataclass
class Tally:
    """Counts of the rows as they are written."""

    answers: int = 0  # drawn
    questions: int = 0
    cut: int = 0
    pictured: int = 0
    referenced: int = 0
    distinct: Counter[int] = field(default_factory=Counter)  # how many questions have so many distinct answers
    left: Counter[str] = field(default_factory=Counter)  # answers left out, by reason
    tokens: list[int] = field(default_factory=list)
    characters: list[int] = field(default_factory=list)

    def add(self, row: dict[str, Any], drawn: list[Any]) -> None:
        """Take in a row with its answers, and all that were drawn for it."""
        self.questions += 1
        self.answers += len(drawn)
        self.cut += sum(not answer.ended for answer in drawn)
        self.pictured += bool(row["images"])
        self.referenced += bool(row.get("reference"))
        self.distinct[len(row["answers"])] += 1
        self.tokens += [answer.tokens for answer in drawn if answer.tokens is not None]
        self.characters += [len(answer.text) for answer in drawn]

    def summary(self) -> dict[str, Any]:
        """Return all of it as JSON takes it."""
        counts = np.repeat(list(self.distinct), list(self.distinct.values()))
        return {
            "questions": self.questions,
            "with_images": self.pictured,
            "with_reference": self.referenced,
            "answers": self.answers,
            "cut": self.cut,
            "answers_left_out": dict(self.left),
            "distinct": {str(number): self.distinct[number] for number in sorted(self.distinct)},
            "distinct_mean": float(counts.mean()) if len(counts) else None,
            "tokens": summary(np.asarray(self.tokens, dtype=float)),
            "characters": summary(np.asarray(self.characters, dtype=float)),
        }


def page(found: dict[str, Any], most: int) -> list[str]:
    """Return lines for people.

    Args:
        found: a summary.
        most: the limit of an answer in tokens.
    """
    questions, answers = found["questions"], found["answers"]
    lines = [f"{questions:>9,} questions, {found['with_images']:,} with images, {found['with_reference']:,} with a "]
    lines[0] += "right answer"
    lines.append(f"{answers:>9,} answers, {found['distinct_mean']:.2f} distinct ones a question")
    shares = (f"{number}: {count / questions:.0%}" for number, count in found["distinct"].items())
    lines.append(f"{'':10}questions by how many distinct answers they have: {', '.join(shares)}")
    for unit in ("tokens", "characters"):
        if spread := found[unit]:
            whole = {name: round(value) for name, value in spread.items()}
            lines.append(
                f"{'':10}{unit} of an answer: median {whole['median']}, 80 % from {whole['p10']} to {whole['p90']}, "
                f"longest {whole['most']}"
            )
    lines.append(f"{found['cut']:>9,} answers cut at {most} tokens")
    lines += [f"{count:>9,} answers left out: {reason}" for reason, count in found["answers_left_out"].items()]
    return lines


def hints(found: dict[str, Any]) -> list[str]:
    """Say in words what should be looked at before pairs are made."""
    said, questions = [], found["questions"]
    alone = sum(count for number, count in found["distinct"].items() if int(number) < 2)
    if found["answers"] > questions and alone / questions >= FEW:
        said.append(
            f"{alone / questions:.0%} of the questions have less than two distinct answers, and give no pair: more "
            "answers (-n) or a higher --temperature would."
        )
    if found["answers"] and found["cut"] / found["answers"] >= CUT:
        said.append(
            f"{found['cut'] / found['answers']:.0%} of the answers were cut, and pairs are made of whole ones: raise "
            "--max-tokens, or see whether they ramble."
        )
    return said

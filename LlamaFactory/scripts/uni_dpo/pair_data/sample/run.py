"""A run: what is asked, in which company and by which seed; the answers, kept as soon as they are there; the rows."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tqdm import tqdm

from ..convert.ratings import Unusable
from ..convert.report import LEFT
from ..errors import DataError
from ..images import ImageError
from ..kept import Kept
from ..writing import write_rows
from .asked import Answered, Drawn, Failed, Ready, Sampler, Unit
from .merging import merged
from .questions import Questions
from .report import Tally


UNITS_SORTED = 32  # units whose questions are sorted by length: rows put after them change nothing in them
EXAMPLES = 5
FAILURES_IN_A_ROW = 20


class Run:
    """One run over some questions.

    Attributes:
        tally: counts of what was written.
        sampled: questions that were answered in this run; the answers to the others were there.
    """

    def __init__(self, questions: Questions, sampler: Sampler, cache: Kept, options: SimpleNamespace):
        """Prepare, with the `seed`, `similar`, `exact` and `on_error` of `data.py sample`."""
        self.questions, self.sampler, self.cache, self.options = questions, sampler, cache, options
        self.tally, self.sampled = Tally(), 0
        self._identity = json.dumps(sampler.identity, sort_keys=True, default=str)

    def write(self, output: Path) -> None:
        """Ask, and write a row for each question when all have their answers."""
        ready = list(self._ready())
        if not ready:
            raise DataError(f"no question can be asked:\n{self.questions.report.reasons()}")
        units = list(self._units(ready))
        missing = [unit for unit in units if any(self.cache.get(key) is None for key in self._keys(unit))]
        failed = self._sample(missing) if missing else {}
        if failed and self.options.on_error != "skip":
            raise self._unanswered(failed, len(ready))
        # The same question may be asked twice: what tells its answers apart is the object itself.
        keys = {id(one): key for unit in units for one, key in zip(unit.questions, self._keys(unit), strict=True)}
        for reason in failed.values():
            self.questions.report.leave_out(LEFT, reason[1], reason[0])
        written = write_rows(
            output, self._rows([(one, keys[id(one)]) for one in ready if keys[id(one)] not in failed])
        )
        if not written:
            raise self._unanswered(failed, len(ready))

    def _ready(self) -> Iterator[Ready]:
        """Yield what can be asked, and count what cannot."""
        for asked in self.questions.read():
            try:
                yield self.sampler.ready(asked)
            except (Unusable, ImageError) as error:
                if self.questions.reader.options.strict and not getattr(error, "understood", False):
                    raise DataError(f"{asked.where}: {error}. Leave --strict out to skip it.") from error
                self.questions.report.leave_out(LEFT, str(error), asked.where)

    def _units(self, ready: list[Ready]) -> Iterator[Unit]:
        """Cut questions into units, those of like length together: the same for every run, killed or not.

        The seed of a unit comes from all that its answers depend on, so that no two units draw alike.
        """
        size = self.sampler.together
        for start in range(0, len(ready), size * UNITS_SORTED):
            window = sorted(ready[start : start + size * UNITS_SORTED], key=lambda one: -one.length)
            for place in range(0, len(window), size):
                questions = tuple(window[place : place + size])
                content = "\n".join([self._identity, str(self.options.seed), *(one.digest for one in questions)])
                yield Unit(int(hashlib.sha256(content.encode()).hexdigest()[:8], 16) % 2**31, questions)

    def _keys(self, unit: Unit) -> list[bytes]:
        """Return what the answers to each question of a unit are filed under."""
        digests = [one.digest for one in unit.questions]
        content = json.dumps([self._identity, self.options.seed, digests]).encode()
        return [hashlib.blake2b(content + b"%d" % place, digest_size=16).digest() for place in range(len(digests))]

    def _sample(self, units: list[Unit]) -> dict[bytes, tuple[str, str]]:
        """Have units answered; return the row and the reason of each question that could not be."""
        failed: dict[bytes, tuple[str, str]] = {}
        row = 0
        with (
            tqdm(total=sum(len(unit.questions) for unit in units), desc="sampling", unit=" questions") as bar,
            closing(self.sampler.sample(iter(units))) as answered,
        ):
            for one in answered:
                keys = self._keys(one.unit)
                self.cache.put(self._stored(one, keys))
                bar.update(len(keys))
                for key, ready, answers in zip(keys, one.unit.questions, one.answers, strict=True):
                    row = row + 1 if isinstance(answers, Failed) else 0
                    if row:
                        failed[key] = (ready.asked.where, answers.reason)
                if failed and self.options.on_error == "stop" or row >= FAILURES_IN_A_ROW:
                    raise self._unanswered(failed, bar.n, "nobody was asked any further")
        self.sampled = bar.n - len(failed)
        return failed

    def _stored(self, one: Answered, keys: list[bytes]) -> Iterator[tuple[bytes, str]]:
        for key, answers in zip(keys, one.answers, strict=True):
            if not isinstance(answers, Failed):
                yield key, json.dumps({"by": one.by, "answers": [answer.stored() for answer in answers]})

    def _rows(self, ready: list[tuple[Ready, bytes]]) -> Iterator[dict[str, Any]]:
        """Yield rows with their answers, all with the same columns."""
        has = {"history": False, "system": False, "reference": False}
        extras: dict[str, None] = {}
        for one, _ in ready:
            asked = one.asked
            has["history"] |= len(asked.messages) > 1
            has["system"] |= bool(asked.system)
            has["reference"] |= bool(asked.reference)
            extras |= dict.fromkeys(asked.extras)
        for one, key in ready:
            asked, kept = one.asked, json.loads(self.cache.get(key))
            texts = [text for _, text in asked.messages]
            history = [list(turn) for turn in zip(texts[:-1:2], texts[1::2], strict=True)]
            row = {name: asked.extras.get(name, "") for name in extras} | {"instruction": texts[-1]}
            told = {"history": history, "system": asked.system, "reference": list(asked.reference)}
            row |= {name: value for name, value in told.items() if has[name]}
            drawn = [Drawn(**answer) for answer in kept["answers"]]
            answers = merged(drawn, self.options.similar, self.tally.left, self.options.exact)
            row |= {"images": list(asked.images), "answers": [answer | {"by": kept["by"]} for answer in answers]}
            self.tally.add(row, drawn)
            yield row

    def _unanswered(
        self, failed: dict[bytes, tuple[str, str]], of: int, what: str = "nothing is written"
    ) -> DataError:
        shown = list(failed.values())[:EXAMPLES]
        lines = "".join(f"\n  {where}: {reason}" for where, reason in shown)
        more = f"\n  and {len(failed) - len(shown)} more" if len(failed) > len(shown) else ""
        return DataError(
            f"{len(failed)} of {of} questions could not be asked, and {what}:{lines}{more}\n"
            f"All other answers are kept in {self.cache.path}: the same command asks only what is left. "
            "--on-error skip leaves such questions out."
        )

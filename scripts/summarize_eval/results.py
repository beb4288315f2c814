"""One result for each checkpoint and data set, and the differences to the baseline."""

from collections.abc import Sequence
from dataclasses import dataclass

from tqdm import tqdm

from common import ToolError

from .bootstrap import Difference, paired_difference
from .folders import Checkpoint, Run
from .rules import NINE, POSTER, Rule, Score, rule_for
from .samples import Samples, StaleScores, read_samples


OFFLINE_JUDGE = "exact_matching"
JUDGED = ("choice", "yes_no", "f1", "mme")  # the kinds for which VLMEvalKit may ask an API model what an answer means


@dataclass
class Result:
    """What is known of one checkpoint on one data set.

    Attributes:
        state: "scored", "failed" (VLMEvalKit gave up on it), "unfinished", or "missing".
        note: what is wrong, in words; empty if nothing is.
        rule: how the metric file was read; None without one.
        score: the headline number; None without one.
        samples: results of single questions; None if they cannot be had.
        difference: to the baseline; None for the baseline itself and where either side is lacking.
        unasked: the judge that read the answers, or was to, although nobody named it; empty if there is none.
    """

    state: str
    note: str = ""
    rule: Rule | None = None
    score: Score | None = None
    samples: Samples | None = None
    difference: Difference | None = None
    unasked: str = ""

    @property
    def complete(self) -> bool:
        """Scored, and on answers the model gave."""
        return self.state == "scored" and not (self.samples and self.samples.failed)


Results = dict[tuple[str, str], Result]


def data_sets(checkpoints: Sequence[Checkpoint], wanted: Sequence[str] | None) -> list[str]:
    """The rows of the table: those wanted, or all that were found; one of the nine calls for all nine."""
    if wanted:
        return list(dict.fromkeys(wanted))
    found = set().union(*(checkpoint.data_sets() for checkpoint in checkpoints))
    nine = NINE if found & set(NINE) else ()
    poster = [data for data in POSTER if data in found]
    return [*nine, *poster, *sorted(found.difference(NINE, POSTER))]


def collect(checkpoints: Sequence[Checkpoint], data: Sequence[str]) -> Results:
    """Read every checkpoint's result on every data set. What is wrong with one is its note, not an exception."""
    pairs = [(checkpoint, name) for checkpoint in checkpoints for name in data]
    progress = tqdm(pairs, "reading results", unit="set", leave=False)
    return {(checkpoint.label, name): _result(checkpoint, name) for checkpoint, name in progress}


def compare(results: Results, baseline: str, resamples: int, seed: int) -> None:
    """Add to every other checkpoint's results the difference to the baseline's."""
    others = [(label, name) for label, name in results if label != baseline]
    for label, name in tqdm(others, "bootstrap", unit="set", leave=False):
        base, other = results[baseline, name], results[label, name]
        if base.samples is None or other.samples is None:
            continue
        try:
            other.difference = paired_difference(base.samples, other.samples, resamples, seed)
        except ToolError as error:
            other.note = _joined(other.note, f"no difference to {baseline}: {error}")


def _result(checkpoint: Checkpoint, data: str) -> Result:
    run = checkpoint.run_of(data)
    if run is None:
        return Result("missing", "was not evaluated")
    state, note = _status(run.status.get(data, {}))
    if state != "scored":
        return Result(state, note)
    return _scored(run, data)


def _status(entry: dict) -> tuple[str, str]:
    """What status.json says. A metric file beside an error is an earlier run's, so it does not count."""
    if entry.get("error_message"):
        return "failed", str(entry["error_message"]).strip().splitlines()[0][:200]
    if entry.get("skip_reason"):
        return "failed", f"skipped by VLMEvalKit: {entry['skip_reason']}"
    if entry.get("status", "done") != "done":
        return "unfinished", f'stopped in state "{entry["status"]}": run the same command again'
    return "scored", ""


def _scored(run: Run, data: str) -> Result:
    path = run.metric_file(data)
    if path is None:
        return Result("missing", f"no metric file {run.stem(data)}_acc or _score in {run.folder}")
    try:
        rule = rule_for(data, path)
        score = rule.read(path)
    except ToolError as error:
        return Result("failed", str(error))
    result = Result("scored", rule=rule, score=score)
    try:
        result.samples = read_samples(run, data, rule, score.value)
    except StaleScores as error:
        return Result("failed", str(error))
    except ToolError as error:
        result.note = f"no interval: {error}"
    if result.samples and result.samples.failed:
        result.note = f"{result.samples.failed} of {result.samples.rows} questions have no answer: the model failed"
    judge = run.judge(data)
    if judge and judge != OFFLINE_JUDGE and rule.kind in JUDGED and not run.judge_was_asked(data):
        result.unasked = judge
        told = f"the judge {judge} was not asked for: VLMEvalKit's run.py takes it without --judge {OFFLINE_JUDGE}"
        reached = ", and matches exactly where it cannot be reached"
        result.note = _joined(result.note, told + reached)
    return result


def _joined(*notes: str) -> str:
    return "; ".join(note for note in notes if note)

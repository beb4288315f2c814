"""One result for each checkpoint and data set, and the differences to the baseline with their intervals."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from common import ToolError

from .folders import Checkpoint, Run
from .rules import NINE, POSTER, Rule, Score, read_score
from .samples import Samples, StaleScores, read_samples


OFFLINE_JUDGE = "exact_matching"
JUDGED = ("choice", "yes_no", "f1", "mme")  # the kinds for which VLMEvalKit may ask an API model what an answer means
LEVEL = 0.95
_CELLS = 4_000_000  # how many resampled units are held at once, 32 MB a term


@dataclass(frozen=True)
class Difference:
    """A difference of headline numbers with its 95 % interval, on the benchmark's scale."""

    value: float
    low: float
    high: float

    @property
    def clear(self) -> bool:
        """Whether the interval lies on one side of zero."""
        return self.low > 0 or self.high < 0


@dataclass
class Result:
    """What is known of one checkpoint on one data set. What cannot be had is None, or an empty text."""

    state: str  # "scored", "failed" (VLMEvalKit gave up on it), "unfinished", or "missing"
    note: str = ""  # what is wrong, in words
    rule: Rule | None = None  # how the metric file was read
    score: Score | None = None
    samples: Samples | None = None  # results of single questions
    difference: Difference | None = None  # to the baseline, if this is another
    unasked: str = ""  # the judge that read the answers, or was to, although nobody named it

    @property
    def complete(self) -> bool:
        """Scored, and on answers the model gave."""
        return self.state == "scored" and not (self.samples and self.samples.failed)

    def add_note(self, note: str) -> None:
        """Say one thing more."""
        self.note = "; ".join(filter(None, (self.note, note)))


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


def _result(checkpoint: Checkpoint, data: str) -> Result:
    run = checkpoint.run_of(data)
    if run is None:
        return Result("missing", "was not evaluated")
    # A metric file beside an error is an earlier run's, so it does not count.
    entry = run.status.get(data, {})
    if entry.get("error_message"):
        first, *_ = *str(entry["error_message"]).strip().splitlines(), ""
        return Result("failed", first[:200])
    if entry.get("skip_reason"):
        return Result("failed", f"skipped by VLMEvalKit: {entry['skip_reason']}")
    if entry.get("status", "done") != "done":
        return Result("unfinished", f'stopped in state "{entry["status"]}": run the same command again')
    path = run.metric_file(data)
    if path is None:
        return Result("missing", f"no metric file {run.model}_{data}_acc or _score in {run.folder}")
    try:
        rule, score = read_score(data, path)
    except ToolError as error:
        return Result("failed", str(error))
    result = Result("scored", "", rule, score)
    try:
        result.samples = read_samples(run, data, rule, score.value)
    except StaleScores as error:
        return Result("failed", str(error))
    except ToolError as error:
        result.add_note(f"no interval: {error}")
    if result.samples and result.samples.failed:
        counts = f"{result.samples.failed} of {result.samples.rows}"
        result.add_note(f"{counts} questions have no answer: the model failed")
    _note_judge(run, data, result)
    return result


def _note_judge(run: Run, data: str, result: Result) -> None:
    judge = run.judge(data) if result.rule.kind in JUDGED else None
    if judge and judge != OFFLINE_JUDGE and not run.judge_was_asked(data):
        result.unasked = judge
        taken = f"the judge {judge} was not asked for: VLMEvalKit's run.py takes it without --judge {OFFLINE_JUDGE}"
        result.add_note(f"{taken}, and matches exactly where it cannot be reached")


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
            other.add_note(f"no difference to {baseline}: {error}")


def paired_difference(base: Samples, other: Samples, resamples: int = 2000, seed: int = 0) -> Difference:
    """The difference other - base with a paired percentile-bootstrap interval.

    Every resample draws the same questions for both checkpoints, within strata, with replacement (Efron & Tibshirani,
    An Introduction to the Bootstrap, chapter 13). scipy.stats.bootstrap knows neither strata nor statistics of sums.
    With 2000 resamples the ends of an interval vary by a few hundredths of its width.
    """
    if base.keys != other.keys:
        shared = len(set(base.keys) & set(other.keys))
        raise ToolError(f"not the same questions: {len(base.keys)} and {len(other.keys)}, {shared} in both")
    sums = np.concatenate([base.sums, other.sums], axis=1)
    rng = np.random.default_rng(seed)
    totals = [_resampled(sums[base.strata == stratum], resamples, rng) for stratum in range(base.strata.max() + 1)]
    before, after = np.split(np.stack(totals, axis=1), [base.sums.shape[1]], axis=-1)
    with np.errstate(invalid="ignore"):
        differences = other.statistic(after) - base.statistic(before)
    low, high = np.quantile(differences, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Difference(other.value() - base.value(), float(low), float(high))


def _resampled(sums: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Totals of `resamples` draws of as many units as there are: (units, terms) to (resamples, terms)."""
    units = len(sums)
    step = max(1, _CELLS // units)
    counts = [min(step, resamples - start) for start in range(0, resamples, step)]
    return np.concatenate([sums[rng.integers(units, size=(count, units))].sum(axis=1) for count in counts])

"""The results of single questions that VLMEvalKit leaves beside its metric files, ready to be resampled.

A statistic is a function of sums over units: for most benchmarks a unit is a question, for MME an image with its two
questions, in strata by category. Keeping the sums, not the scores, is what makes one bootstrap serve all.
"""

import ast
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from pandas._libs.parsers import STR_NA_VALUES

from common import ToolError, reason_of

from .folders import Run
from .rules import Rule


FAILED = "Failed to obtain answer"  # what VLMEvalKit writes as the answer of a model that raised
MME_CATEGORIES = (
    *("OCR", "artwork", "celebrity", "color", "count", "existence", "landmark", "position", "posters", "scene"),
    *("code_reasoning", "commonsense_reasoning", "numerical_calculation", "text_translation"),
)
MATHEMATICS = "Handwritten Mathematical Expression Recognition"
# The end of the file's name, a regular expression. Multiple choice has its judge there; scored with two judges, one of
# the files agrees with the headline.
_SUFFIXES = {"choice": "_.+_result", "yes_no": "_auxmatch", "f1": "_auxmatch", "mme": "_auxmatch", "ocrbench": ""}


class StaleScores(ToolError):
    """The metric file was made from other answers than those beside it: VLMEvalKit reuses results without a word."""


@dataclass(frozen=True)
class Samples:
    """Units of one checkpoint on one data set."""

    keys: tuple[str, ...]  # what was asked, one a unit; two checkpoints are paired by it
    strata: np.ndarray  # (units,) ints from 0; units are resampled within their stratum
    sums: np.ndarray  # (units, terms) what each unit adds
    statistic: Callable[[np.ndarray], np.ndarray]  # from totals (..., strata, terms) to headline numbers (...)
    rows: int  # questions
    failed: int  # questions without an answer, because the model raised

    def value(self) -> float:
        """The headline number, from the units."""
        totals = [self.sums[self.strata == stratum].sum(axis=0) for stratum in range(self.strata.max() + 1)]
        return float(self.statistic(np.stack(totals)))


def read_samples(run: Run, data: str, rule: Rule, value: float) -> Samples:
    """Read the results of single questions and make sure that they give the headline number."""
    paths = run.tables(data, _SUFFIXES.get(rule.kind, "_results"))
    if not paths:
        raise ToolError("this VLMEvalKit leaves no results of single questions for it")
    problems = []
    for path in paths:
        try:
            table = _read(path)
            samples = _UNITS.get(rule.kind, _open)(table, rule)
            found = samples.value()
        except Exception as error:  # a damaged file makes the libraries that read it raise all kinds
            problems.append(f"{path.name} cannot be read ({reason_of(error)})")
            continue
        if path.stem.endswith("_auxmatch"):
            _refuse_stale(run, data, path, table)
        if abs(found - value) <= 1e-6 * rule.full:
            return samples
        problems.append(f"{path.name} gives {found:.6g}, not {value:.6g}: it scores other answers")
    raise ToolError("; ".join(problems))


def _refuse_stale(run: Run, data: str, path: Path, table: pd.DataFrame) -> None:
    """Yes/no results are kept when a folder is used again; they must be of the answers that are there now."""
    predictions = run.tables(data, "")
    try:
        stale = bool(predictions) and _answers(table) != _answers(_read(predictions[0]))
    except Exception as error:
        raise StaleScores(f"{predictions[0].name} cannot be read ({reason_of(error)}): answer again") from error
    if stale:
        raise StaleScores(
            f"{path.name} holds results of other answers than {predictions[0].name}: VLMEvalKit reused it; "
            "remove it and score again with --mode eval"
        )


def _answers(table: pd.DataFrame) -> dict[str, str]:
    """Answers by index, as they look when VLMEvalKit has read them: "None" as empty, and "007" as 7."""

    def as_pandas_reads(text: str) -> str:
        text = text.strip()
        try:
            return "" if text in STR_NA_VALUES else repr(float(text))
        except ValueError:
            return text

    return dict(zip(table["index"], map(as_pandas_reads, table["prediction"]), strict=True))


def _read(path: Path) -> pd.DataFrame:
    """Every value as text, as pandas shows it."""
    if path.suffix == ".xlsx":
        return pd.read_excel(path, dtype=str, keep_default_na=False)
    if path.suffix == ".tsv":
        return pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
    return pd.DataFrame(json.loads(path.read_text(encoding="utf-8"))).astype(str)


def _choice(table: pd.DataFrame, rule: Rule) -> Samples:
    if rule.split and "split" in table and table["split"].nunique() > 1:
        table = table[table["split"] == rule.split]
    return _mean(table, _numbers(table["hit"]))


def _open(table: pd.DataFrame, rule: Rule) -> Samples:
    """`eval_match` lists how well the answer matches each reference; for "anls" it lists distances."""
    matches = [[float(value) for value in ast.literal_eval(text)] for text in table["eval_match"]]
    if rule.kind == "anls":
        scores = [score if (score := 1 - min(distances)) >= 0.5 else 0.0 for distances in matches]
    else:
        scores = list(map(max if rule.kind == "best" else np.mean, matches))
    return _mean(table, np.array(scores, dtype=float))


def _mean(table: pd.DataFrame, scores: np.ndarray) -> Samples:
    sums = np.stack([scores, np.ones(len(table))], axis=1)
    return _by_question(table, sums, lambda totals: 100 * totals[..., 0, 0] / totals[..., 0, 1])


def _f1(table: pd.DataFrame, rule: Rule) -> Samples:
    """A question counts once for each of its categories, as VLMEvalKit counts it."""
    times = table["category"].str.count(",").to_numpy() + 1 if "category" in table else 1
    true, said = (table[column].to_numpy() == "Yes" for column in ("answer", "extracted"))
    counts = np.stack([times * (true & said), times * (~true & said), times * (true & ~said)], axis=1)

    def f1(totals: np.ndarray) -> np.ndarray:
        hits, false_alarms, misses = (totals[..., 0, term] for term in range(3))
        return 200 * hits / np.maximum(2 * hits + false_alarms + misses, 1)

    return _by_question(table, counts.astype(float), f1)


def _ocrbench(table: pd.DataFrame, rule: Rule) -> Samples:
    """VLMEvalKit leaves no single scores: an answer is right if it contains a reference, whatever the case.

    Formulas are compared without spaces and with their case.
    """
    hits = []
    for answer, said, category in zip(table["answer"], table["prediction"], table["category"], strict=True):
        texts = [str(text).strip().replace("\n", " ") for text in (said, *ast.literal_eval(answer))]
        said, *references = [text.replace(" ", "") if category == MATHEMATICS else text.lower() for text in texts]
        hits.append(any(reference in said for reference in references))
    return _by_question(table, np.array(hits, dtype=float)[:, None], lambda totals: totals[..., 0, 0])


def _mme(table: pd.DataFrame, rule: Rule) -> Samples:
    """A category's points: the share of right answers plus the share of images with both right, each times 100."""
    table = table[table["category"].isin(MME_CATEGORIES)].assign(hit=lambda rows: _numbers(rows["score"]))
    images = table.groupby(["category", "image_path"], sort=True)["hit"]
    sums = images.agg(["sum", "count", lambda hits: hits.iloc[0] * hits.iloc[1]]).assign(images=1.0)
    _, strata = np.unique(sums.index.get_level_values("category"), return_inverse=True)

    def points(totals: np.ndarray) -> np.ndarray:
        hits, rows, both, count = (totals[..., term] for term in range(4))
        return 100 * (hits / rows + both / count).sum(axis=-1)

    keys = tuple("\n".join(key) for key in sums.index)
    return Samples(keys, strata, sums.to_numpy(float), points, len(table), _failed(table))


def _by_question(table: pd.DataFrame, sums: np.ndarray, statistic: Callable) -> Samples:
    keys = (table["index"] + "\n" + table["question"]).to_numpy(dtype=object)
    order = np.argsort(keys, kind="stable")
    return Samples(tuple(keys[order]), np.zeros(len(keys), int), sums[order], statistic, len(keys), _failed(table))


def _failed(table: pd.DataFrame) -> int:
    return int(table["prediction"].str.contains(FAILED, regex=False).sum())


def _numbers(column: pd.Series) -> np.ndarray:
    return column.replace({"True": "1", "False": "0"}).astype(float).to_numpy()


_UNITS: dict[str, Callable[[pd.DataFrame, Rule], Samples]] = {
    "choice": _choice,
    "yes_no": lambda table, rule: _mean(table, _numbers(table["score"])),
    "f1": _f1,
    "mme": _mme,
    "ocrbench": _ocrbench,
}

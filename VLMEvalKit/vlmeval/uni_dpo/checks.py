"""Benchmarks that cannot score, found before anything is answered; and scores that are none.

VLMEvalKit gives 0.0 where no answer can match, takes one of several rows that share an index, and writes NaN where
nothing was scored, each without a word. The rules are those of its scoring; they are asked of your own benchmarks
only, since those that it offers are as their authors want them.
"""

import math
import string
from collections.abc import Callable, Iterable
from typing import Any

import pandas as pd

from .. import dataset as datasets
from .. import smp
from .errors import UniDPOError
from .reading import is_offered, literal


NAMED = 8  # rows that a message names
ENOUGH = 4  # equal answers that make a full score where three other people have to agree
HEADLINES = ("Overall", "perception", "reasoning", "Final Score", "aAcc")
# Test sets whose authors keep the answers, or score by themselves.
SUBMITTED = ("MMMU_TEST", "AesBench_TEST", "DocVQA_TEST", "InfoVQA_TEST", "Q-Bench1_TEST", "A-Bench_TEST")
SUBMITTED_PARTS = ("MMT-Bench_ALL", "MLLMGuard_DS")
MMBENCH = [f"MMBench{kind}{end}" for kind in ("_TEST_EN", "_TEST_CN", "", "_CN") for end in ("", "_V11")]
# Open questions whose names have one of these are not scored by agreement.
SCORED_OTHERWISE = ("ChartQA", "OCRVQA", "GQA", "DocVQA", "InfoVQA")


def require_rows(name: str, written: pd.DataFrame | None, dataset: Any) -> None:
    """Refuse a data set with rows that would be left out, mixed up, or scored as wrong whatever the answer.

    Args:
        name: What the config calls the data set.
        written: The table as it is in the file, if one was read.
        dataset: The data set that VLMEvalKit made of it.

    Raises:
        UniDPOError: There are such rows; it names them by their number, the first row being 0.
    """
    table = dataset.data
    if not len(table):
        raise UniDPOError(f"data set {name} has no rows" + ("" if written is None else " with a picture"))
    again = table["index"].astype(str).duplicated(keep=False)
    _refuse(name, table.index[again], "have an index that another row has as well; answers are kept by index")
    if is_offered(dataset.dataset_name):
        return
    if written is not None and "image" in written:
        _refuse(name, written.index[written["image"].isna()], "have no picture, and VLMEvalKit would leave them out")
    if "answer" in table and (rule := _rule_of(dataset)):
        fits, why = rule
        _refuse(name, (number for number, row in table.iterrows() if not fits(row)), why)


def why_not_scored(dataset: Any) -> str:
    """Say why nothing can score a data set here, as VLMEvalKit's run.py does; empty if it can be scored."""
    name, table = dataset.dataset_name, dataset.data
    if "answer" not in table or (table["answer"].isna() | (table["answer"].astype(str) == "")).all():
        return "no_answers_in_data_set"
    if name in SUBMITTED or any(part in name for part in SUBMITTED_PARTS):
        return "official_submission_only"
    if name in MMBENCH and not smp.MMBenchOfficialServer(name):
        return "mmbench_evaluation_requires_official_server"
    return ""


def _refuse(name: str, rows: Iterable[Any], why: str) -> None:
    rows = list(rows)
    if rows:
        more = f" and {len(rows) - NAMED} more" if len(rows) > NAMED else ""
        numbers = ", ".join(map(str, rows[:NAMED])) + more
        raise UniDPOError(f"data set {name}: rows {numbers} (the first is 0) {why}\n  correct them in its TSV")


def _rule_of(dataset: Any) -> tuple[Callable[[Any], bool], str] | None:
    """Return what a row has to have to be ever scored as right, and the words for rows that have not."""
    name = dataset.dataset_name

    def scores_by(method: Any) -> bool:
        ours, theirs = (getattr(it, "__func__", it) for it in (type(dataset).evaluate, method))
        return ours is theirs

    if scores_by(datasets.ImageMCQDataset.evaluate):
        return _names_an_option, "have an answer that is none of their options' letters"
    if scores_by(datasets.ImageYORNDataset.evaluate) and "AMBER" not in name:
        return lambda row: row["answer"] in ("Yes", "No"), "have an answer that is neither Yes nor No, so written"
    if scores_by(datasets.OCRBench.evaluate):
        return _has_texts, """have an answer that is no list of texts, such as ["12", "twelve"]"""
    if scores_by(datasets.ImageVQADataset.evaluate) and any(part in name for part in SCORED_OTHERWISE):
        return lambda row: bool(_answers_of(row)), "have no answer"
    if scores_by(datasets.ImageVQADataset.evaluate):
        return lambda row: len(_answers_of(row)) >= ENOUGH, (
            "can never get a full score: this class asks that three other people gave the same answer, so write a"
            f' list of {ENOUGH} equal ones, ["12", "12", "12", "12"], or give the data set a name with ChartQA in it'
        )
    return None


def _names_an_option(row: Any) -> bool:
    letter = row["answer"]
    return letter in tuple(string.ascii_uppercase) and letter in row and not pd.isna(row[letter])


def _answers_of(row: Any) -> list[Any]:
    """Return the reference answers as VLMEvalKit reads them: a list, or one plain answer."""
    if pd.isna(row["answer"]):
        return []
    try:
        answers = literal(str(row["answer"]))
    except ValueError:
        answers = None
    return answers if isinstance(answers, list) else [row["answer"]]


def _has_texts(row: Any) -> bool:
    """Tell whether the answer is a list of texts, none of them empty, since an empty one is in every answer."""
    answers = _answers_of(row)
    written_as_list = str(row["answer"]).strip().startswith("[")
    return bool(answers) and written_as_list and all(isinstance(it, str) and it.strip() for it in answers)


def require_numbers(name: str, scores: Any) -> None:
    """Refuse scores of VLMEvalKit, a table or a dictionary, that are empty or whose headline is not a number.

    Raises:
        UniDPOError: They are.
    """
    if not isinstance(scores, pd.DataFrame | dict):
        return
    rows = scores.to_dict("records") if isinstance(scores, pd.DataFrame) else [scores]
    headlines = [row[name] for row in rows for name in HEADLINES if name in row]
    values = headlines or [value for row in rows for value in row.values()]
    finite = [math.isfinite(number) for number in map(_number, values) if number is not None]
    if not finite or not (all(finite) if headlines else any(finite)):
        raise UniDPOError(
            f"data set {name}: VLMEvalKit's score is no number: no row was scored, or none of some split\n{scores}\n"
            "  does every row have what this class scores by: answer, category, split?"
        )


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None

"""Benchmarks that cannot score, found before anything is answered; and scores that are none.

VLMEvalKit gives 0.0 where no answer can match, takes one of several rows that share an index, and writes NaN where
nothing was scored, each without a word. The rules are those of its scoring; they are asked of your own benchmarks
only, since those that it offers are as their authors want them.
"""

import ast
import math
import string
from collections.abc import Callable, Iterable
from typing import Any

import pandas as pd

from .. import dataset as datasets
from . import RunError


NAMED = 8  # rows that a message names
ENOUGH = 4  # equal answers that make a full score where three other people have to agree
HEADLINES = ("Overall", "perception", "reasoning", "Final Score", "aAcc")
# Open questions whose names have one of these are not scored by agreement.
SCORED_OTHERWISE = ("ChartQA", "OCRVQA", "GQA", "DocVQA", "InfoVQA")


def require_rows(name: str, written: pd.DataFrame | None, dataset: Any) -> None:
    """Refuse a data set with rows that would be left out, mixed up, or scored as wrong whatever the answer.

    Args:
        name: What the config calls the data set.
        written: The table as it is in the file, if one was read.
        dataset: The data set that VLMEvalKit made of it.

    Raises:
        RunError: There are such rows; it names them by their number, the first row being 0.
    """
    table = dataset.data
    if not len(table):
        raise RunError(f"data set {name} has no rows" + ("" if written is None else " with a picture"))
    again = table["index"].astype(str).duplicated(keep=False)
    refuse(name, table.index[again], "have an index that another row has as well; answers are kept by index")
    if is_offered(dataset.dataset_name):
        return
    if written is not None and "image" in written:
        refuse(name, written.index[written["image"].isna()], "have no picture, and VLMEvalKit would leave them out")
    if "answer" in table and (rule := rule_of(dataset)):
        fits, why = rule
        refuse(name, (number for number, row in table.iterrows() if not fits(row)), why)


def refuse(name: str, rows: Iterable[Any], why: str) -> None:
    """Raise if there are any rows.

    Raises:
        RunError: There are.
    """
    rows = list(rows)
    if rows:
        more = f" and {len(rows) - NAMED} more" if len(rows) > NAMED else ""
        numbers = ", ".join(map(str, rows[:NAMED])) + more
        raise RunError(f"data set {name}: rows {numbers} (the first is 0) {why}\n  mend them in its TSV")


def is_offered(name: str) -> bool:
    """Tell whether VLMEvalKit has a data set of that name."""
    return name in datasets.SUPPORTED_DATASETS


def rule_of(dataset: Any) -> tuple[Callable[[Any], bool], str] | None:
    """Return what a row has to have to be ever scored as right, and the words for rows that have not."""
    scoring = plain(type(dataset).evaluate)
    if scoring is plain(datasets.ImageMCQDataset.evaluate):
        return names_an_option, "have an answer that is none of their options' letters"
    if scoring is plain(datasets.ImageYORNDataset.evaluate) and "AMBER" not in dataset.dataset_name:
        return says_yes_or_no, "have an answer that is neither Yes nor No, so written"
    if scoring is plain(datasets.OCRBench.evaluate):
        return has_texts, """have an answer that is no list of texts, such as ["12", "twelve"]"""
    if scoring is plain(datasets.ImageVQADataset.evaluate):
        if any(part in dataset.dataset_name for part in SCORED_OTHERWISE):
            return has_an_answer, "have no answer"
        return (
            has_answers_that_agree,
            f"can never get a full score: this class asks that three other people gave the same answer, so write a"
            f' list of {ENOUGH} equal ones, ["12", "12", "12", "12"], or give the data set a name with ChartQA in it',
        )
    return None


def plain(method: Any) -> Any:
    """Return the function of a method or of a class method."""
    return getattr(method, "__func__", method)


def names_an_option(row: Any) -> bool:
    """Tell whether the answer is the letter of an option that is there."""
    letter = row["answer"]
    return letter in tuple(string.ascii_uppercase) and letter in row and not pd.isna(row[letter])


def says_yes_or_no(row: Any) -> bool:
    """Tell whether the answer is Yes or No, which are compared with their case."""
    return row["answer"] in ("Yes", "No")


def answers_of(row: Any) -> list[Any]:
    """Return the reference answers as VLMEvalKit reads them: a list, or one plain answer."""
    if pd.isna(row["answer"]):
        return []
    try:
        answers = ast.literal_eval(str(row["answer"]))
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        answers = None
    return answers if isinstance(answers, list) else [row["answer"]]


def has_an_answer(row: Any) -> bool:
    """Tell whether there is an answer at all."""
    return bool(answers_of(row))


def has_answers_that_agree(row: Any) -> bool:
    """Tell whether there are enough answers for three others to agree with one."""
    return len(answers_of(row)) >= ENOUGH


def has_texts(row: Any) -> bool:
    """Tell whether the answer is a list of texts, none of them empty, since an empty one is in every answer."""
    answers = answers_of(row)
    written_as_list = str(row["answer"]).strip().startswith("[")
    return bool(answers) and written_as_list and all(isinstance(it, str) and it.strip() for it in answers)


def require_numbers(name: str, scores: Any) -> None:
    """Refuse scores that are empty or whose headline is not a number.

    Args:
        name: The data set's name.
        scores: What VLMEvalKit's scoring returned: a table, a dictionary, or something that we do not know.

    Raises:
        RunError: They are.
    """
    if not isinstance(scores, pd.DataFrame | dict):
        return
    rows = scores.to_dict("records") if isinstance(scores, pd.DataFrame) else [scores]
    headlines = [row[name] for row in rows for name in HEADLINES if name in row]
    values = headlines or [value for row in rows for value in row.values()]
    numbers = [number for value in values for number in read(value)]
    finite = [math.isfinite(number) for number in numbers]
    if not (all(finite) if headlines else any(finite)) or not numbers:
        raise RunError(
            f"data set {name}: VLMEvalKit's score is no number: no row was scored, or none of some split\n{scores}\n"
            "  does every row have what this class scores by: answer, category, split?"
        )


def read(value: Any) -> tuple[float, ...]:
    """Return a value as a number, alone in a tuple; an empty one for what is no number."""
    try:
        return (float(value),)
    except (TypeError, ValueError):
        return ()

"""Recognising what the rows of a source are."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from ..errors import DataError
from . import answers, preferences
from .fields import IMAGES, MM_RLHF_FOLDERS, VIDEOS, Fields, first
from .question import Question


Row = dict[str, Any]


@dataclass(frozen=True)
class Shape:
    """A way in which people write preference data.

    Attributes:
        name: what `--from` calls it.
        says: what is in a row.
        fits: whether a row that has its fields looks like it; shapes are tried in order.
        find: says where its fields are, None if the row has no such fields.
        read: makes a question of a row.
        kind_of: the more general shape that its rows may also seem to be of.
        more: columns that it reads besides its fields.
    """

    name: str
    says: str
    fits: Callable[[Row], bool]
    find: Callable[[Row, Fields], Fields | None]
    read: Callable[[Row, Fields], Question]
    kind_of: str = ""
    more: tuple[str, ...] = ()

    @property
    def reads(self) -> set[str]:
        """The columns that are read besides the fields."""
        return {"system", "history", "tools", "is_tie", *preferences.RANKS.split(","), *self.more}

    @property
    def of_mm_rlhf(self) -> bool:
        """Whether its image paths start in MM-RLHF's own folder."""
        return self.name.startswith("mm-rlhf")


def _has_fields(row: Row) -> bool:
    return True


def _sides(row: Row) -> list[Any]:
    columns = preferences.find_sides(row)
    return [row[column] for column in columns.split(",")] if columns else []


def _is_pair(row: Row, question: str, side: type) -> bool:
    return bool(row.get(question)) and bool(_sides(row)) and all(isinstance(answer, side) for answer in _sides(row))


def _is_mm_rlhf_pair(row: Row) -> bool:
    return _is_pair(row, "prompt", str) and ("is_tie" in row or "chosen_reason" in row or _in_mm_rlhf(row))


def _in_mm_rlhf(row: Row) -> bool:
    media = row.get(first(row, (*IMAGES, *VIDEOS)))
    media = media[0] if isinstance(media, list) else media
    return isinstance(media, str) and media.removeprefix("MM-RLHF/").split("/")[0] in (*MM_RLHF_FOLDERS, "video")


def _is_sharegpt(row: Row) -> bool:
    return _is_pair(row, "conversations", dict) or _is_pair(row, "messages", dict)


def _is_trl(row: Row) -> bool:
    return bool(_sides(row)) and all(isinstance(answer, (str, list, dict)) for answer in _sides(row))


SHAPES = (
    Shape(
        "ms-swift",
        "messages whose last is preferred, and rejected_response or rejected_messages",
        _has_fields,
        preferences.find_swift,
        preferences.read_swift,
        more=("response",),
    ),
    Shape(
        "mm-rlhf-pairs",
        "MM-RLHF's dpo_pairs.jsonl: prompt, chosen, rejected, image, is_tie",
        _is_mm_rlhf_pair,
        preferences.find,
        preferences.read,
        kind_of="trl",
    ),
    Shape(
        "alpaca",
        "instruction, chosen, rejected as text (LlamaFactory's alpaca, and what this command writes)",
        lambda row: _is_pair(row, "instruction", str),
        preferences.find,
        preferences.read,
        more=("input",),
    ),
    Shape(
        "sharegpt",
        "conversations or messages, and a message each in chosen and rejected (LlamaFactory's sharegpt, openai)",
        _is_sharegpt,
        preferences.find,
        preferences.read,
    ),
    Shape(
        "rlaif-v",
        "question, chosen, rejected as text",
        lambda row: _is_pair(row, "question", str),
        preferences.find,
        preferences.read,
    ),
    Shape(
        "trl",
        "chosen and rejected as text or messages, with or without a prompt",
        _is_trl,
        preferences.find,
        preferences.read,
    ),
    Shape(
        "rlhf-v",
        "text, JSON with question, chosen, rejected",
        _has_fields,
        preferences.find_rlhf_v,
        preferences.read_rlhf_v,
        more=("text",),
    ),
    Shape(
        "mm-rlhf",
        "MM-RLHF's data.jsonl: a question, answers with scores and ranks, an image in long/, short/, mcq/ or safety/",
        _in_mm_rlhf,
        answers.find,
        answers.read,
        kind_of="answers",
    ),
    Shape(
        "answers",
        "a question, and a list (or dictionary by model) of answers with scores or ranks (VLFeedback, UltraFeedback)",
        _has_fields,
        answers.find,
        answers.read,
    ),
)
NAMES = tuple(shape.name for shape in SHAPES)


def recognise(rows: Iterable[Any], where: str, given: Fields, name: str = "") -> tuple[Shape, Fields]:
    """Tell the shape of a source from its first rows, and where its fields are.

    Args:
        rows: the first rows; what is not a row is passed over.
        where: what messages call the source.
        given: fields named by the user.
        name: the shape, if the user said it.

    Raises:
        DataError: no shape fits, or rows fit several.
    """
    rows = [row for row in rows if isinstance(row, dict)]
    if given.answers and not name:
        name = "mm-rlhf" if any(map(_in_mm_rlhf, rows)) else "answers"
    found = {name or _shape_of(row, given) for row in rows}
    general = {shape.kind_of for shape in SHAPES if shape.name in found}
    fitting = [shape for shape in SHAPES if shape.name in found - general]
    fields = [fitting[0].find(row, given) for row in rows] if len(fitting) == 1 else []
    fields = [one for one in fields if one]
    if not fields:
        raise DataError(_unknown(rows, where, [shape.name for shape in fitting]))
    return fitting[0], max(fields, key=answers.filled)


def _shape_of(row: Row, given: Fields) -> str:
    return next((shape.name for shape in SHAPES if shape.fits(row) and shape.find(row, given)), "")


def _unknown(rows: list[Row], where: str, fitting: list[str]) -> str:
    columns = ", ".join(dict.fromkeys(str(column) for row in rows for column in row)) or "none"
    problem = "its first rows are of no shape that is known here"
    if len(fitting) > 1:
        problem = f"its first rows are of several shapes: {', '.join(fitting)}"
    elif fitting:
        problem = f"its first rows do not have what {fitting[0]} needs"
    known = "\n".join(f"  {shape.name:14}{shape.says}" for shape in SHAPES)
    return (
        f"{where}: {problem}. It has the columns: {columns}.\nKnown shapes, to choose one with --from:\n{known}\n"
        "For answers, say where things are: --question, --answers, --text, --score, --rank, --image."
    )

"""Recognising what the rows of a source are."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from ..errors import DataError
from . import answers, battles, preferences
from .fields import IMAGES, MM_RLHF_FOLDERS, QUESTIONS, SIDE_RANKS, VIDEOS, Fields, first
from .given import Given, names_in
from .question import Question


Row = dict[str, Any]

SHAPES = {
    "ms-swift": "messages whose last is preferred, and rejected_response or rejected_messages",
    "mm-rlhf-pairs": "MM-RLHF's dpo_pairs.jsonl: prompt, chosen, rejected, image, is_tie",
    "alpaca": "instruction, chosen, rejected as text (LlamaFactory's alpaca, and what this command writes)",
    "sharegpt": "conversations or messages, chosen and rejected a message each (LlamaFactory's sharegpt, openai)",
    "rlaif-v": "question, chosen, rejected as text",
    "battles": "two answers, such as response_a and response_b, and a column that says which one won",
    "trl": "chosen and rejected as text or messages, with or without a prompt",
    "rlhf-v": "text, JSON with question, chosen, rejected",
    "mm-rlhf": "MM-RLHF's data.jsonl: a question, answers with scores and ranks, an image in long/, short/, ...",
    "answers": "a question, and answers in a list or by model, with scores or ranks (VLFeedback, UltraFeedback)",
}
KINDS = {"mm-rlhf-pairs": "trl", "mm-rlhf": "answers"}  # some of their rows seem to be of the more general shape
# Columns that are read besides the fields: of every shape, and of some.
READ = {"system", "history", "tools", "is_tie", "reference", *SIDE_RANKS.split(",")}
MORE = {"alpaca": {"input"}}

_READERS = dict.fromkeys(SHAPES, (preferences.find, preferences.read))
_READERS |= dict.fromkeys(("mm-rlhf", "answers"), (answers.find, answers.read))
_READERS["battles"] = (battles.find, battles.read)
_READERS["ms-swift"] = (preferences.find_swift, preferences.read_swift)
_READERS["rlhf-v"] = (preferences.find_in_text, preferences.read)


def find(row: Row, shape: str, given: Fields) -> Fields | None:
    """Return where a row of a shape has its fields, None if it has not what the shape needs."""
    return _READERS[shape][0](row, given)


def opened(row: Row, shape: str) -> Row:
    """Return a row with the columns that its fields are in; raises `Unusable`."""
    return preferences.opened(row) if shape == "rlhf-v" else row


def read(row: Row, shape: str, fields: Fields) -> Question:
    """Read an opened row of a shape; raises `Unusable`."""
    return _READERS[shape][1](row, fields)


def recognise(rows: Iterable[Any], where: str, given: Fields, name: str = "") -> tuple[str, Fields]:
    """Tell the shape of a source from its first rows, and where its fields are.

    Args:
        rows: the first rows; what is not a row is passed over.
        where: what messages call the source.
        given: fields named by the user.
        name: the shape, if the user said it.
    """
    rows = [row for row in rows if isinstance(row, dict)]
    if given.winner and name not in ("", "battles"):
        raise DataError(f"--winner is about the shape battles, and --from says {name}: leave one of them out.")
    if given.winner:  # whatever else a row looks like
        name = "battles"
    elif given.answers and not name:
        name = "mm-rlhf" if any(map(_in_mm_rlhf, rows)) else "answers"
    shapes = [name or _shape_of(row, given) for row in rows]
    votes = Counter(shapes)
    del votes[""]
    for special, general in KINDS.items():
        if votes[special]:
            votes[special] += votes.pop(general, 0)
    most = [shape for shape, count in votes.items() if 2 * count > votes.total()]
    fitting = most or [shape for shape in SHAPES if votes[shape]]
    kinds = (fitting[0], KINDS.get(fitting[0])) if len(fitting) == 1 else ()
    alike = [row for row, shape in zip(rows, shapes, strict=True) if shape in kinds]
    fields = [find(row, fitting[0], given) for row in alike]
    if not any(fields):
        raise DataError(_unknown(rows, where, fitting, given))
    best = max(filter(None, fields), key=lambda one: len(one.paths))
    return fitting[0], answers.with_mean(rows, best, bool(given.score))


def _shape_of(row: Row, given: Fields) -> str:
    """Return the first shape that a row looks like and whose fields it has."""
    columns = preferences.find_sides(row)
    sides = [row[column] for column in columns.split(",")] if columns else [None]
    texts, messages = (all(isinstance(side, kind) for side in sides) for kind in (str, dict))
    in_mm_rlhf = _in_mm_rlhf(row)
    looks = {
        "mm-rlhf-pairs": texts and row.get("prompt") and ({"is_tie", "chosen_reason"} & row.keys() or in_mm_rlhf),
        "alpaca": texts and row.get("instruction"),
        "sharegpt": messages and (row.get("conversations") or row.get("messages")),
        "rlaif-v": texts and row.get("question"),
        "trl": all(isinstance(side, (str, list, dict)) for side in sides),
        "mm-rlhf": in_mm_rlhf,
    }
    return next((shape for shape in SHAPES if looks.get(shape, True) and find(row, shape, given)), "")


def _in_mm_rlhf(row: Row) -> bool:
    media = row.get(first(row, (*IMAGES, *VIDEOS)))
    media = media[0] if isinstance(media, list) else media
    return isinstance(media, str) and media.removeprefix("MM-RLHF/").split("/")[0] in (*MM_RLHF_FOLDERS, "video")


def _unknown(rows: list[Row], where: str, fitting: list[str], given: Fields) -> str:
    options = Given(given)
    for row in rows:
        options.look_for(row, given.answers)
    problem = "its first rows are of no shape that is known here"
    if len(fitting) > 1:
        problem = f"its first rows are of several shapes: {', '.join(fitting)}"
    elif fitting:
        problem = f"its first rows do not have what {fitting[0]} needs"
        if _READERS[fitting[0]][0] is answers.find and not (
            given.question or any(first(row, QUESTIONS) for row in rows)
        ):
            problem += ": no question is found, name it with --question"
    if rows and len(fitting) < 2 and (wrong := options.wrong()):
        return f"{where}: {problem}.\n{wrong}"
    known = "\n".join(f"  {name:14}{says}" for name, says in SHAPES.items())
    return (
        f"{where}: {problem}. It has the columns: {names_in(rows)}.\n"
        f"Known shapes, to choose one with --from:\n{known}\n"
        "For answers, say where things are: --question, --answers, --text, --score, --rank, --image."
    )

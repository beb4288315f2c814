"""Finding things in rows: by dotted paths, and by the names that they commonly have."""

import json
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from .question import Unusable


QUESTION = (
    "question",
    "prompt",
    "instruction",
    "query",
    "problem",
    "conversations",
    "messages",
    "user_input",
    "input",
)
IMAGES = ("images", "image", "image_path", "image_paths", "img_path", "img", "image_file", "image_files", "picture")
VIDEOS = ("video", "videos", "video_path")
AUDIOS = ("audio", "audios", "audio_path")
SCORES = ("overall_score", "score", "overall", "overall_rating", "rating", "reward", "human_score", "total_score")
OBJECTS = ("annotations", "annotation", "evaluations", "evaluation")  # may hold scores, ranks, or both
SCORES += ("Rating", "Score", "scores", "ratings", "rewards", *OBJECTS)
RANKS = ("rank", "ranking", "overall_rank", "human_rank", "ranks", "rankings")
IDS = ("id", "question_id", "prompt_id", "idx", "uid", "sample_id", "index")
PART = re.compile(r"[-+\d.,]+\s*(?:/|out of|of|%).*")
MM_RLHF_FOLDERS = ("long", "short", "mcq", "safety")
SUBSETS = ("subset", "category", "ds_name", "origin_dataset", "dataset", "source")


@dataclass(frozen=True)
class Fields:
    """Where a source keeps what: dotted paths, empty where there is nothing; commas make a list of several.

    Attributes:
        question: text or messages.
        image: paths, bytes, or lists of them.
        answers: a list, a dictionary by model, or two columns for the preferred answer and the other.
        text: within an answer that is an object, its text.
        score: within an answer, or a list beside the answers; two columns for two answers.
        rank: the same for its rank.
    """

    question: str = ""
    image: str = ""
    answers: str = ""
    text: str = ""
    score: str = ""
    rank: str = ""

    def __str__(self) -> str:
        """Name all that was found."""
        return ", ".join(f'{use} in "{path}"' for use, path in vars(self).items() if path)


def look(value: Any, path: str) -> Any:
    """Return what stands at a path, None where there is nothing.

    Args:
        value: a row, or a part of one.
        path: names and numbers joined by dots (a column whose name has dots goes first); paths joined by commas give
            a list; the empty path gives nothing.
    """
    if "," in path:
        return [look(value, one.strip()) for one in path.split(",")]
    if isinstance(value, dict) and path in value:
        return value[path]
    for name in path.split("."):
        if isinstance(value, list) and name.isdigit() and int(name) < len(value):
            value = value[int(name)]
        elif isinstance(value, dict):
            value = value.get(name)
        else:
            return None
    return value


def first(row: dict[str, Any], names: Iterable[str]) -> str:
    """Return the first of some names under which a row has something, or the empty string."""
    return next((name for name in names if row.get(name) not in (None, "", [], {})), "")


def unused(row: dict[str, Any], fields: Fields, used: Iterable[str]) -> Iterator[str]:
    """Yield the columns of a row that have something in them and do nothing for its pairs.

    Args:
        row: a row.
        fields: where things were found.
        used: columns that are read besides these.
    """
    paths = [path.strip() for paths in vars(fields).values() for path in paths.split(",")]
    known = {*used, *paths, *(path.split(".")[0] for path in paths)}
    known |= {first(row, names) for names in (IDS, SUBSETS, *(() if fields.image else (IMAGES,)))}
    yield from (name for name, value in row.items() if name not in known and value not in (None, "", [], {}))


def number(value: Any) -> float | None:
    """Return a finite number, also from text; None for all else."""
    try:
        read = None if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return read if read is not None and math.isfinite(read) else None


def refuse_parts(values: Iterable[Any]) -> None:
    """Refuse scores that say how much of how much, over which all others would be taken for missing.

    Raises:
        Unusable: one does.
    """
    if any(isinstance(value, str) and PART.fullmatch(value.strip()) for value in values):
        raise Unusable("a score such as 8/10 or 80 %: write the number alone")


def score_of(value: Any) -> float | None:
    """Return a score: a number, the one that an object names, or the mean of an object's or list's ratings.

    Ratings that are no numbers ("N/A") do not count.
    """
    if not isinstance(value, (dict, list)):
        return number(value)
    if isinstance(value, dict):
        named = first(value, SCORES)
        if named:
            return score_of(value[named])
        value = [part for name, part in value.items() if name not in RANKS]
    ratings = [rating for rating in map(score_of, value) if rating is not None]
    return sum(ratings) / len(ratings) if ratings else None


def rank_of(value: Any) -> float | None:
    """Return a rank: a number, or the one that an object names."""
    return number(value.get(first(value, RANKS))) if isinstance(value, dict) else number(value)


def extras_of(row: dict[str, Any], images: Iterable[str]) -> dict[str, Any]:
    """Return the further columns of the output: a row's tools, and what names it, its id and the subset it is from.

    MM-RLHF has a folder of images for each subset, which is what tells them apart.
    """
    tools = row.get("tools")
    extras = {"tools": tools if isinstance(tools, str) else json.dumps(tools, ensure_ascii=False)} if tools else {}
    if identity := first(row, IDS):
        extras["id"] = str(row[identity])
    folder = next((path.split("MM-RLHF/")[-1].split("/")[0] for path in images if isinstance(path, str)), "")
    named = first(row, SUBSETS)
    if folder in MM_RLHF_FOLDERS:
        extras["subset"] = folder
    elif named and isinstance(row[named], str):
        extras["subset"] = row[named]
    return extras

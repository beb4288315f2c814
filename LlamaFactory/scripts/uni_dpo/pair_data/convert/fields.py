"""Where rows keep things: the names that columns commonly have, and dotted paths."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any


QUESTIONS = "question prompt instruction query problem conversations messages user_input input".split()
IMAGES = "images image image_path image_paths img_path img image_file image_files picture".split()
VIDEOS = "video videos video_path".split()
AUDIOS = "audio audios audio_path".split()
ANSWERS = "responses answers completions candidates outputs model_outputs model_responses model_answers".split()
ANSWERS += "generations replies response answer annotations results".split()
TEXTS = "response text answer output content value completion generation model_output generated_text".split()
TEXTS += "model_response model_answer prediction reply".split()
OBJECTS = "annotations annotation evaluations evaluation".split()  # may hold scores, ranks, or both
SCORES = "overall_score score overall overall_rating rating reward human_score total_score Rating Score".split()
SCORES += ["scores", "ratings", "rewards", *OBJECTS]
RANKS = "rank ranking overall_rank human_rank ranks rankings".split()
# Of rows that say which answer is preferred: both answers, their scores, and ranks as this command writes them.
SIDES = (("chosen", "rejected"), ("chosen_response", "rejected_response"), ("preferred", "dispreferred"))
SIDE_SCORES = "score_{} {}_score {}_rating {}-rating rating_{} {}_reward reward_{} {}_avg_rating {}_rm_score".split()
SIDE_RANKS = "rank_chosen,rank_rejected"
IDS = "id question_id prompt_id idx uid sample_id index".split()
SUBSETS = "subset category ds_name origin_dataset dataset source".split()
MM_RLHF_FOLDERS = ("long", "short", "mcq", "safety")
# What both answers of our pairs have in common; a column such as ms-swift's rejected_images is about one of them.
SHARED = (IMAGES, VIDEOS, AUDIOS, ["system"], ["tools"], ["objects"])
NOTHING = (None, "", [], {})


@dataclass(frozen=True)
class Fields:
    """Where a source keeps what: dotted paths, empty where there is nothing; commas make a list of several."""

    question: str = ""  # text or messages
    image: str = ""  # paths, bytes, or lists of them
    answers: str = ""  # a list, a dictionary by model, or two columns for the preferred answer and the other
    text: str = ""  # within an answer that is an object, its text
    score: str = ""  # within an answer, or a list beside the answers; two columns for two answers
    rank: str = ""  # as the score
    winner: str = ""  # which of two answers is preferred
    # If the user named the score: the numbers in it by their names inside, "" for itself, to what messages call them.
    parts: dict[str, str] = field(default_factory=dict)
    mean: str = ""  # what is to be said of a score that is a mean

    @property
    def paths(self) -> dict[str, str]:
        """All that there are."""
        uses = ("question", "image", "answers", "text", "score", "rank", "winner")
        return {use: getattr(self, use) for use in uses if getattr(self, use)}

    def __str__(self) -> str:
        """Name all that was found."""
        return ", ".join(f'{use} in "{path}"' for use, path in self.paths.items())


def look(value: Any, path: str) -> Any:
    """Return what stands at a path of names and numbers joined by dots, None where there is nothing.

    A column whose name has dots goes first. Paths joined by commas give a list, and so does a name inside a list of
    objects: what each of them has there.
    """
    if "," in path:
        return [look(value, one.strip()) for one in path.split(",")]
    if isinstance(value, dict) and path in value:
        return value[path]
    name, _, rest = path.partition(".")
    if isinstance(value, list) and not name.isdigit():
        inside = [look(item, path) for item in value]
        return None if value and all(item is None for item in inside) else inside
    if isinstance(value, list):
        inside = value[int(name)] if int(name) < len(value) else None
    else:
        inside = value.get(name) if isinstance(value, dict) else None
    return look(inside, rest) if rest else inside


def first(row: dict[str, Any], names: Iterable[str]) -> str:
    """Return the first of some names under which a row has something, or the empty string."""
    return next((name for name in names if row.get(name) not in NOTHING), "")


def listed(value: Any) -> list[Any]:
    """Return a list of one thing or of several, also in lists of lists, without those that are nothing."""
    if isinstance(value, list):
        return [item for part in value for item in listed(part)]
    return [] if value in (None, "") else [value]


def of_side(side: str, names: Iterable[str]) -> list[str]:
    """Return what columns are called that have some name and are about one side, "chosen" or "rejected"."""
    return [column for name in names for column in (f"{side}_{name}", f"{name}_{side}")]


ONE_SIDED = {column for names in SHARED for side in ("chosen", "rejected") for column in of_side(side, names)}


def unused(row: dict[str, Any], fields: Fields, used: Iterable[str]) -> list[str]:
    """Return the columns of a row that have something in them and are neither in `fields` nor among those `used`."""
    paths = [path.strip() for paths in fields.paths.values() for path in paths.split(",")]
    known = {*used, *ONE_SIDED, *paths, *(path.split(".")[0] for path in paths), first(row, IDS), first(row, SUBSETS)}
    known |= set() if fields.image else {first(row, IMAGES)}
    return [name for name, value in row.items() if name not in known and value not in NOTHING]


def extras_of(row: dict[str, Any], images: Iterable[Any]) -> dict[str, str]:
    """Return a row's tools, its id, and the subset it is from, which in MM-RLHF is the folder of its image."""
    tools = row.get("tools")
    extras = {"tools": tools if isinstance(tools, str) else json.dumps(tools, ensure_ascii=False)} if tools else {}
    if identity := first(row, IDS):
        extras["id"] = str(row[identity])
    folder = next((path.split("MM-RLHF/")[-1].split("/")[0] for path in images if isinstance(path, str)), "")
    named = row.get(first(row, SUBSETS))
    if folder in MM_RLHF_FOLDERS or isinstance(named, str):
        extras["subset"] = folder if folder in MM_RLHF_FOLDERS else named
    return extras

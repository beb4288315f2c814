"""The preference pair in a row, read as LlamaFactory's converters read it."""

import json
import math
from dataclasses import dataclass
from typing import Any

from .errors import excerpt
from .sources import Source, listed
from .tables import Broken


# What an entry of a column of media may be. A video is a file, or a list of its frames.
MEDIA = {"images": (str, bytes, dict), "videos": (str, list), "audios": (str,)}
FLOAT32_MAX = 3.4028234663852886e38  # training carries scores in float32


class RowError(ValueError):
    """A row in which there is no pair that training could use.

    Attributes:
        column: where to look, None for the whole row.
        kind: what is wrong, as `check` calls it.
    """

    def __init__(self, column: str | None, message: str, kind: str = "column-type"):
        """Say what is wrong with a column."""
        super().__init__(message)
        self.column, self.kind = column, kind

    @property
    def where(self) -> str:
        """The column as messages name it."""
        return f'column "{self.column}"' if self.column else "the whole row"


@dataclass(frozen=True)
class Pair:
    """One preference pair.

    Attributes:
        messages: the dialogue up to the question, its last message: (role, text), role "user" or "assistant".
        chosen: the preferred answer.
        rejected: the other one.
        images: paths, or whatever else the data set has for images, in order.
        system: the system prompt, empty if there is none; without what upstream adds to those of "openai".
        tools: the description of tools, as JSON; empty if there is none.
        videos: paths, or lists of the images that are their frames.
        audios: paths.
        roles: of the messages and of the two answers, where one of them is of a tool or calls one; otherwise empty.
    """

    messages: tuple[tuple[str, str], ...]
    chosen: str
    rejected: str
    images: tuple[Any, ...]
    system: str = ""
    tools: str = ""
    videos: tuple[Any, ...] = ()
    audios: tuple[Any, ...] = ()
    roles: tuple[str, ...] = ()

    @property
    def prompt(self) -> str:
        """The text of the whole dialogue up to the answers."""
        return "\n".join(text for _, text in self.messages)


def read_pair(row: Any, source: Source) -> Pair:
    """Read the pair of a row, as `rows.read_values` gives it; its scores are read by `read_score`.

    Raises:
        RowError: it is no row, or a column is missing or holds something else than training expects.
    """
    if isinstance(row, Broken):
        raise RowError(None, row.reason, "row-unreadable")
    if not isinstance(row, dict):
        raise RowError(None, f"{type(row).__name__} instead of an object", "row-not-object")
    read = _read_alpaca if source.formatting == "alpaca" else _read_conversation
    messages, chosen, rejected, system, *roles = read(row, source)
    images, videos, audios = (_media(row, source, use) for use in MEDIA)
    return Pair(tuple(messages), chosen, rejected, images, system, _tools(row, source), videos, audios, *roles)


def read_score(row: dict[str, Any], source: Source, side: str) -> float:
    """Read "score_chosen", "score_rejected" or "weight" as training does: numbers and numeric text, finite in float32.

    Raises:
        RowError: there is no such number.
    """
    column = source.columns[side]
    value = row.get(column)
    if value is None:
        raise RowError(column, f"there is no {side.partition('_')[0]}", "score-missing")
    if isinstance(value, bool):
        raise RowError(column, f"{value} is not a number", "score-boolean")
    try:
        score = float(value)
    except OverflowError:
        score = math.inf
    except (TypeError, ValueError):
        raise RowError(column, f"{excerpt(value)} is not a number", "score-text") from None
    if not abs(score) <= FLOAT32_MAX:  # also true for NaN
        raise RowError(column, f"{excerpt(value)} is not finite in float32", "score-not-finite")
    return score


def _read_alpaca(row: dict[str, Any], source: Source) -> tuple[Any, ...]:
    messages = []
    for turn in source.column(row, "history") or []:
        if not isinstance(turn, list) or len(turn) != 2 or not all(isinstance(text, str) for text in turn):
            raise RowError(source.columns["history"], f"a turn must be [question, answer], not {turn!r}")
        messages += [("user", turn[0]), ("assistant", turn[1])]
    asked = [_text(row, source, use) for use in ("prompt", "query") if source.column(row, use) is not None]
    if not any(asked):
        raise RowError(source.columns.get("prompt", "prompt"), "there is no question", "question-empty")
    messages.append(("user", "\n".join(filter(None, asked))))
    answers = [_text(row, source, side) for side in ("chosen", "rejected")]
    return messages, *answers, _system(row, source)


def _text(row: dict[str, Any], source: Source, use: str) -> str:
    value = source.column(row, use)
    if value is None:
        raise RowError(source.columns.get(use, use), "there is no answer", "answer-missing")
    if not isinstance(value, str):
        raise RowError(source.columns[use], f"text expected, not {type(value).__name__}")
    return value


# Upstream's names, in the order of its tags for who asks and who answers.
_ROLES = ("user", "observation", "assistant", "function")


def _read_conversation(row: dict[str, Any], source: Source) -> tuple[Any, ...]:
    column, tags = source.columns.get("messages", "messages"), source.tags
    turns = row.get(column)
    if not isinstance(turns, list) or not turns:
        raise RowError(column, "a list of messages expected", "messages")
    openai = source.formatting == "openai"
    turns = _with_tools(turns, column, tags) if openai else [_message(turn, column, tags) for turn in turns]
    system = _system(row, source)
    if turns[0][0] == tags["system_tag"]:
        system, turns = turns[0][1], turns[1:]
    asks = (tags["user_tag"], tags["observation_tag"])
    answers = (tags["assistant_tag"], tags["function_tag"])
    for number, (role, _) in enumerate(turns):
        if role not in (answers if number % 2 else asks):
            wrong = f"message {number} is from {role!r}; questions and answers must take turns"
            raise RowError(column, wrong, "messages")
    if len(turns) % 2 == 0:
        wrong = "the last message must be the question; the answers are columns of their own"
        raise RowError(column, wrong, "messages")
    given = []
    for use in ("chosen", "rejected"):
        side = source.columns.get(use, use)
        if row.get(side) is None:
            raise RowError(side, "there is no answer", "answer-missing")
        given.append(_message(row[side], side, tags, "column-type"))
        if given[-1][0] not in answers:
            raise RowError(side, f"the answer is from {given[-1][0]!r}, not from {tags['assistant_tag']!r}")
    messages = [("assistant" if role in answers else "user", text) for role, text in turns]
    roles = tuple(_ROLES[(*asks, *answers).index(role)] for role, _ in (*turns, *given))
    roles = roles if {"observation", "function"} & set(roles) else ()
    return messages, *(text for _, text in given), system, roles


def _message(turn: Any, column: str, tags: dict[str, str | None], kind: str = "messages") -> tuple[str, str]:
    role, text = (turn.get(tags["role_tag"]), turn.get(tags["content_tag"])) if isinstance(turn, dict) else (0, 0)
    if not isinstance(role, str) or not isinstance(text, str):
        raise RowError(column, f'a message needs text in "{tags["role_tag"]}" and "{tags["content_tag"]}"', kind)
    return role, text


def _with_tools(turns: list[Any], column: str, tags: dict[str, str | None]) -> list[tuple[str, str]]:
    """Read OpenAI's messages: the calls of tools are text, and what several tools answered is one message."""
    answer, calls = tags["observation_tag"], (tags["assistant_tag"], tags["function_tag"])
    joined = []
    for turn in turns:
        if isinstance(turn, dict) and turn.get("tool_calls") and turn.get(tags["role_tag"]) in calls:
            text = json.dumps([call["function"] for call in turn["tool_calls"]], ensure_ascii=False)
            turn = {tags["role_tag"]: tags["function_tag"], tags["content_tag"]: text}
        role, text = _message(turn, column, tags)
        if role == answer and joined and joined[-1][0] == answer:
            text = joined.pop()[1] + "\n</tool_response>\n<tool_response>\n" + text
        joined.append((role, text))
    if joined[-1][0] == answer:
        wrong = 'as "openai", training drops the answer of a tool that comes last; use "sharegpt"'
        raise RowError(column, wrong, "messages")
    return joined


def _system(row: dict[str, Any], source: Source) -> str:
    system = source.column(row, "system") or ""
    if not isinstance(system, str):
        raise RowError(source.columns["system"], f"text expected, not {type(system).__name__}")
    return system


def _tools(row: dict[str, Any], source: Source) -> str:
    tools = source.column(row, "tools") or ""
    if source.formatting == "openai" and isinstance(tools, (list, dict)):
        tools = json.dumps(tools, ensure_ascii=False)
    if not isinstance(tools, str):
        raise RowError(source.columns["tools"], f"text expected (the JSON of the tools), not {type(tools).__name__}")
    return tools


def _media(row: dict[str, Any], source: Source, use: str) -> tuple[Any, ...]:
    media = listed(source.column(row, use))
    for item in media:
        if not isinstance(item, MEDIA[use]):
            kind = "image-entry" if use == "images" else "column-type"
            raise RowError(source.columns[use], f"a path expected, not {type(item).__name__}", kind)
    return tuple(media)

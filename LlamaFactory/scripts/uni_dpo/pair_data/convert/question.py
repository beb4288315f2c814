"""What every shape is read into: a question with its answers; and dialogues, as people write them."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from .fields import AUDIOS, IMAGES, SHARED, VIDEOS, Fields, extras_of, first, listed, look, of_side
from .ratings import Answer, TooFew, Unusable


MEDIA = ("<image>", "<video>", "<audio>")  # what training counts against images, videos and sounds
IMAGE = MEDIA[0]
GROUNDING = ("<bbox>", "<ref-object>")  # ms-swift puts boxes and names from the column "objects" there
ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "model": "assistant"}
ROLES |= {"bot": "assistant", "system": "system"}
OTHER_FOR_REJECTED = "something else to look at, or to go by, for the rejected answer than for the chosen"


@dataclass(frozen=True)
class Turn:
    """One message: role "user", "assistant" or "system", text with `<image>` where a picture is, images inside it."""

    role: str
    text: str
    images: tuple[Any, ...] = field(default=(), compare=False)


@dataclass(frozen=True)
class Question:
    """A question with its answers.

    Attributes:
        turns: the dialogue up to the question: user, assistant, ..., user; `<image>` once for each image.
        answers: two or more; of a plain question none.
        images: paths, bytes or dictionaries of them, in the order of their `<image>`.
        system: the system prompt, empty if there is none.
        given: whether the source says that the first answer is preferred to the second, whatever the scores.
        extras: further columns of the output.
    """

    turns: tuple[Turn, ...]
    answers: tuple[Answer, ...]
    images: tuple[Any, ...] = ()
    system: str = ""
    given: bool = False
    extras: dict[str, Any] = field(default_factory=dict)


def make_question(
    row: dict[str, Any], fields: Fields, dialogue: list[Turn], answers: Iterable[Answer], given: bool, least: int = 2
) -> Question:
    """Return the question that a dialogue and a row's other columns make, with its answers, `least` or more.

    Raises:
        Unusable: training could not use it.
    """
    turns, system = _split_system(dialogue, row.get("system"))
    images = _images(row, turns, fields)
    if not turns or not turns[-1].text.strip():
        raise Unusable("there is no question")
    if len(turns) % 2 == 0 or any(turn.role != ("user", "assistant")[n % 2] for n, turn in enumerate(turns)):
        raise Unusable("questions and answers do not take turns, or the question is not last")
    answers = tuple(answers)
    if len(answers) < least:
        raise TooFew("less than two answers")
    placed = _with_placeholders(turns, len(images))
    return Question(placed, answers, tuple(images), system, given, extras_of(row, images))


def asked(row: dict[str, Any], fields: Fields) -> list[Turn]:
    """Return what was said up to the answers: alpaca's "history", and the question with alpaca's "input"."""
    turns = []
    history = row.get("history") or []
    for pair in history if isinstance(history, list) else [history]:
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise Unusable("a turn of the history is not [question, answer]")
        turns += [Turn("user", pair[0]), Turn("assistant", pair[1])]
    prompt = turns_of(look(row, fields.question) if fields.question else None)
    if len(prompt) == 1 and fields.question == "instruction" and isinstance(row.get("input"), str):
        prompt = [Turn("user", "\n".join(filter(None, (prompt[0].text, row["input"]))))]
    return turns + prompt


def turns_of(value: Any, role: str = "user") -> list[Turn]:
    """Read text said by `role`, a message, or messages ({role, content} or {from, value}; content text or parts)."""
    if value is None:
        return []
    if isinstance(value, str):
        return [Turn(role, value)]
    messages = [value] if isinstance(value, dict) else value
    if isinstance(messages, list) and all(isinstance(turn, list) for turn in messages):  # of LMArena's sets
        messages = sum(messages, [])
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise Unusable("neither text nor messages where a dialogue was expected")
    turns = []
    for message in messages:
        role = ROLES.get(str(message.get("role") or message.get("from")).lower())
        if role is None:
            raise Unusable("a message that is neither from user, assistant nor system")
        turns.append(Turn(role, *_content(message["content"] if "content" in message else message.get("value"))))
    return turns


def text_of(value: Any) -> str | None:
    """Return text, also from content parts or from a single message; None for all else."""
    if isinstance(value, str):
        return value
    try:
        if isinstance(value, list) and value and all(isinstance(part, dict) and "type" in part for part in value):
            return _content(value)[0]
        turns = turns_of(value)
    except Unusable:
        return None
    return turns[0].text if len(turns) == 1 else None


def _content(content: Any) -> tuple[str, tuple[Any, ...]]:
    """Join the parts of a message as chat templates do, an `<image>` for each image."""
    if isinstance(content, str):
        return content, ()
    if not isinstance(content, list):
        raise Unusable("a message without text")
    text, images = "", []
    for part in content:
        part = part if isinstance(part, dict) else {"text": part}
        if part.get("type") in ("image", "image_url"):
            text += IMAGE
            found = part.get(first(part, ("image", "image_url", "path", "url", "bytes")))
            found = found.get("url", found) if isinstance(found, dict) else found
            images += [found] if found is not None else []
        elif isinstance(part.get("text"), str):
            text += part["text"]
        else:
            raise Unusable("a message with something else than text and images")
    return text, tuple(images)


def _split_system(turns: list[Turn], system: Any) -> tuple[list[Turn], str]:
    """Take the system prompt from the dialogue's start, or from a column of its own."""
    if turns and turns[0].role == "system":
        if system and system != turns[0].text:
            raise Unusable("a system prompt in its column, and another one in its messages")
        return turns[1:], turns[0].text
    if system is not None and not isinstance(system, str):
        raise Unusable("a system prompt that is not text")
    return turns, system or ""


def _images(row: dict[str, Any], turns: list[Turn], fields: Fields) -> list[Any]:
    """Return the images of a row, of its image column or else of its messages; both answers must be about them."""
    for names in SHARED:
        both = look(row, fields.image) if names is IMAGES and fields.image else row.get(first(row, names))
        chosen, rejected = (row.get(first(row, of_side(side, names)), both) for side in ("chosen", "rejected"))
        if listed(chosen) != listed(rejected):
            raise Unusable(OTHER_FOR_REJECTED, understood=True)
    if any(row.get(name) for name in VIDEOS):
        raise Unusable("a video, and videos are not supported", understood=True)
    if any(row.get(name) for name in AUDIOS):
        raise Unusable("a sound, and sounds are not supported", understood=True)
    names = (*IMAGES, *of_side("chosen", IMAGES))
    images = listed(look(row, fields.image) if fields.image else row.get(first(row, names)))
    inside = [image for turn in turns for image in turn.images]
    if images and inside and images != inside:
        raise Unusable("other images in its column than inside its messages")
    return images or inside


def _with_placeholders(turns: list[Turn], images: int) -> tuple[Turn, ...]:
    """Put an `<image>` for each image before the dialogue, unless it says itself where they are."""
    text = "\n".join(turn.text for turn in turns)
    if any(mark in text for mark in MEDIA[1:]):
        raise Unusable("a dialogue with <video> or <audio>", understood=True)
    if any(mark in text for mark in GROUNDING):
        raise Unusable("<bbox> or <ref-object>, which nothing fills in here", understood=True)
    if text.count(IMAGE) not in (0, images):
        raise Unusable("another number of <image> than of images")
    if IMAGE not in text:
        turns = [replace(turns[0], text=IMAGE * images + turns[0].text), *turns[1:]]
    return tuple(turns)

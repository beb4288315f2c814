"""Messages of all kinds, and where in them the images belong."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from .fields import AUDIOS, IMAGES, VIDEOS, Fields, first, look
from .question import MEDIA, Turn, Unusable
from .sides import listed, of_side, require_same


ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "model": "assistant"}
ROLES |= {"bot": "assistant", "system": "system"}
IMAGE = MEDIA[0]
GROUNDING = ("<bbox>", "<ref-object>")  # ms-swift puts boxes and names from the column "objects" there


def turns_of(value: Any, role: str = "user") -> list[Turn]:
    """Read text, a message, or a list of messages ({role, content} or {from, value}; content text or parts).

    Args:
        value: any of these; None gives no turns.
        role: who says what is text alone.

    Raises:
        Unusable: it is something else, or somebody else speaks (tools).
    """
    if value is None:
        return []
    if isinstance(value, str):
        return [Turn(role, value)]
    messages = [value] if isinstance(value, dict) else value
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise Unusable("neither text nor messages where a dialogue was expected")
    return [_turn(message) for message in messages]


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


def _turn(message: dict[str, Any]) -> Turn:
    role = ROLES.get(str(message.get("role") or message.get("from")).lower())
    if role is None:
        raise Unusable("a message that is neither from user, assistant nor system")
    content = message.get("content") if "content" in message else message.get("value")
    return Turn(role, *_content(content))


def _content(content: Any) -> tuple[str, tuple[Any, ...]]:
    """Join the parts of a message as chat templates do, an `<image>` for each image."""
    if isinstance(content, str):
        return content, ()
    text, images = "", []
    if not isinstance(content, list):
        raise Unusable("a message without text")
    for part in content:
        if isinstance(part, str) or not isinstance(part, dict):
            part = {"type": "text", "text": part}
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


def split_system(turns: list[Turn], system: Any = None) -> tuple[list[Turn], str]:
    """Take the system prompt from the dialogue's start, or from a column of its own."""
    if turns and turns[0].role == "system":
        if system and system != turns[0].text:
            raise Unusable("a system prompt in its column, and another one in its messages")
        return turns[1:], turns[0].text
    if system is not None and not isinstance(system, str):
        raise Unusable("a system prompt that is not text")
    return turns, system or ""


def require_question(turns: list[Turn]) -> None:
    """Refuse a dialogue that training could not use: user, assistant, ..., user is what it expects.

    Raises:
        Unusable: it is otherwise, or empty.
    """
    if not turns or not turns[-1].text.strip():
        raise Unusable("there is no question")
    if len(turns) % 2 == 0 or any(turn.role != ("user", "assistant")[n % 2] for n, turn in enumerate(turns)):
        raise Unusable("questions and answers do not take turns, or the question is not last")


def asked(row: dict[str, Any], fields: Fields) -> list[Turn]:
    """Return the question, or the dialogue up to it; alpaca's "input" belongs to its "instruction"."""
    prompt = turns_of(look(row, fields.question) if fields.question else None)
    if len(prompt) == 1 and fields.question == "instruction" and isinstance(row.get("input"), str):
        return [Turn("user", "\n".join(filter(None, (prompt[0].text, row["input"]))))]
    return prompt


def history_of(row: dict[str, Any]) -> Iterator[Turn]:
    """Yield what was said before, in alpaca's column "history".

    Raises:
        Unusable: it is something else than [question, answer] each.
    """
    history = row.get("history") or []
    for pair in history if isinstance(history, list) else [history]:
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
            raise Unusable("a turn of the history is not [question, answer]")
        yield from (Turn("user", pair[0]), Turn("assistant", pair[1]))


def images_of(row: dict[str, Any], turns: list[Turn], fields: Fields) -> list[Any]:
    """Return the images of a row: of its image column, or else those inside its messages.

    Raises:
        Unusable: it is about a video or a sound, its images are in doubt, or its two answers are not about the same.
    """
    require_same(row, fields)
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


def with_placeholders(turns: list[Turn], images: int) -> tuple[Turn, ...]:
    """Put an `<image>` for each image before the dialogue, unless it says itself where they are.

    Raises:
        Unusable: it says so for another number of images.
    """
    placed = sum(turn.text.count(IMAGE) for turn in turns)
    if any(mark in turn.text for turn in turns for mark in MEDIA[1:]):
        raise Unusable("a dialogue with <video> or <audio>", understood=True)
    if any(mark in turn.text for turn in turns for mark in GROUNDING):
        raise Unusable("<bbox> or <ref-object>, which nothing fills in here", understood=True)
    if placed not in (0, images):
        raise Unusable("another number of <image> than of images")
    if placed == 0 and images:
        turns = [replace(turns[0], text=IMAGE * images + turns[0].text), *turns[1:]]
    return tuple(turns)

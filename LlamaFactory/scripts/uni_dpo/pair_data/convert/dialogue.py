"""Messages of all kinds, and where in them the images belong."""

from dataclasses import replace
from typing import Any

from .fields import IMAGES, VIDEOS, Fields, first, look
from .question import MEDIA, Turn, Unusable


ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "model": "assistant"}
ROLES |= {"bot": "assistant", "system": "system"}
IMAGE = MEDIA[0]


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


def images_of(row: dict[str, Any], turns: list[Turn], fields: Fields) -> list[Any]:
    """Return the images of a row: of its image column, or else those inside its messages.

    Raises:
        Unusable: it is about a video, alone or beside images.
    """
    if any(row.get(name) for name in VIDEOS):
        raise Unusable("a video, and videos are not supported", understood=True)
    images = look(row, fields.image) if fields.image else row.get(first(row, IMAGES))
    images = images if isinstance(images, list) else [images]
    images = [image for image in images if image not in (None, "")]
    return images or [image for turn in turns for image in turn.images]


def with_placeholders(turns: list[Turn], images: int) -> tuple[Turn, ...]:
    """Put an `<image>` for each image before the dialogue, unless it says itself where they are.

    Raises:
        Unusable: it says so for another number of images.
    """
    placed = sum(turn.text.count(IMAGE) for turn in turns)
    if any(mark in turn.text for turn in turns for mark in MEDIA[1:]):
        raise Unusable("a dialogue with <video> or <audio>", understood=True)
    if placed not in (0, images):
        raise Unusable("another number of <image> than of images")
    if placed == 0 and images:
        turns = [replace(turns[0], text=IMAGE * images + turns[0].text), *turns[1:]]
    return tuple(turns)

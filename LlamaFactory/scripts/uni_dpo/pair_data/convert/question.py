"""What every shape is read into, and what is raised where a row is of no use."""

from dataclasses import dataclass, field
from typing import Any


MEDIA = ("<image>", "<video>", "<audio>")  # what training counts against images, videos and sounds


OTHER_FOR_REJECTED = "something else to look at, or to go by, for the rejected answer than for the chosen"


class Unusable(ValueError):
    """A row of which nothing can be made.

    Attributes:
        reason: what is wrong, in the same words for all rows alike; they are counted by it.
        understood: whether the row is as it should be, and left out all the same (a video, a tie).
    """

    def __init__(self, reason: str, understood: bool = False):
        """Say why."""
        super().__init__(reason)
        self.reason, self.understood = reason, understood


@dataclass(frozen=True)
class Turn:
    """One message of a dialogue.

    Attributes:
        role: "user", "assistant" or "system".
        text: what is said, with `<image>` where a picture is.
        images: pictures that came inside the message.
    """

    role: str
    text: str
    images: tuple[Any, ...] = field(default=(), compare=False)


@dataclass(frozen=True)
class Answer:
    """One answer and what was said about it.

    Attributes:
        text: the answer.
        score: higher is better; None if unknown.
        rank: 1 is best; None if unknown.
    """

    text: str
    score: float | None = None
    rank: float | None = None


@dataclass(frozen=True)
class Question:
    """A question with its answers.

    Attributes:
        turns: the dialogue up to the question: user, assistant, ..., user; `<image>` once for each image.
        answers: two or more.
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

"""What passes between reading, sampling and writing: a question as it is asked, and an answer as it came."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True)
class Asked:
    """A question that a model is asked.

    Attributes:
        where: how reports call its row.
        messages: the dialogue up to the question, its last message: (role, text), `<image>` for each image.
        images: their paths, as they will stand in the output.
        system: the system prompt, empty if there is none.
        reference: right answers, as far as the row has any.
        extras: further columns of the output.
    """

    where: str
    messages: tuple[tuple[str, str], ...]
    images: tuple[str, ...] = ()
    system: str = ""
    reference: tuple[str, ...] = ()
    extras: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Ready:
    """A question that a sampler has looked at.

    Attributes:
        asked: the question.
        digest: a hash of all that the model will see of it.
        length: about how many tokens it has, to put like ones together.
        prompt: the question as the sampler takes it.
    """

    asked: Asked
    digest: str
    length: int = 0
    prompt: Any = field(default=None, compare=False)


@dataclass(frozen=True)
class Drawn:
    """One sampled answer: its text, how many tokens were drawn, and whether it ended by itself."""

    text: str
    tokens: int | None
    ended: bool

    def stored(self) -> dict[str, Any]:
        """Return it as JSON takes it."""
        return asdict(self)


@dataclass(frozen=True)
class Unit:
    """Questions that are asked together, with one seed: what is done whole or again.

    Attributes:
        seed: of its draws.
        questions: at least one.
    """

    seed: int
    questions: tuple[Ready, ...]


@dataclass(frozen=True)
class Failed:
    """What stands for the answers to a question that could not be asked, for a `reason`."""

    reason: str


@dataclass(frozen=True)
class Answered:
    """A unit with the answers to each of its questions, and what is to be said of who gave them."""

    unit: Unit
    answers: list[list[Drawn] | Failed]
    by: dict[str, Any]


class Sampler(Protocol):
    """What gives answers: a checkpoint on this machine, or a model behind an address.

    Attributes:
        identity: everything besides question and seed that answers depend on, as JSON takes it.
        together: how many questions make a unit.
    """

    identity: dict[str, Any]
    together: int

    def ready(self, asked: Asked) -> Ready:
        """Look at a question; raises `Unusable` or ImageError if it cannot be asked."""

    def sample(self, units: Iterable[Unit]) -> Iterator[Answered]:
        """Answer units, in whatever order, and yield each as soon as it is answered."""

"""Questions about a scene, with the answer a careful annotator would give.

Eight kinds: "yes_no", "choice", five short answers ("colour", "count", "position", "number", "chart") and
"description". `ask` makes every question a scene allows; a `Question` carries all that the scoring rule needs.
"""

import random
from collections.abc import Iterable
from dataclasses import dataclass, replace

from .scene import COLOURS, MAX_HEIGHT, PLACES, SHAPES, Chart, Number, Scene, Shapes, Thing


KINDS = ("yes_no", "choice", "colour", "count", "position", "number", "chart", "description")
LETTERS = "ABCD"

# What VLMEvalKit appends to its own questions. A share of ours is asked that way, so that both forms are familiar.
BENCHMARK_SHARE = 0.2
CHOICE_SUFFIX = "Please select the correct answer from the options above. \n"
YES_NO_SUFFIX = " Please answer yes or no."
SHORT_SUFFIX = "\nPlease try to answer the question with short words or phrases if possible."


@dataclass(frozen=True)
class Question:
    """One question about one scene.

    Attributes:
        kind: one of `KINDS`.
        text: the question as asked, without the image.
        answer: the careful annotator's answer.
        truth: the bare value that decides: "yes", "B", "red", "3", "top left", "472"; "" for a description.
        options: the four options of a choice, in order of their letters; otherwise empty.
        scene: what is in the picture.
        near_miss: whether a true "no" is about something that is almost there.
        reasons: places that an answer may give as its reason; those in the careful answer may be given anyway.
    """

    kind: str
    text: str
    answer: str
    truth: str
    scene: Scene
    options: tuple[str, ...] = ()
    near_miss: bool = False
    reasons: tuple[str, ...] = ()


def ask(scene: Scene, rng: random.Random) -> list[Question]:
    """Every question we have for this scene, some asked twice with other wording, in a fixed order of kinds."""
    maker = {Shapes: _about_shapes, Number: _about_number, Chart: _about_chart}[type(scene)]
    return [_phrase(question, rng) for question in maker(scene, rng)]


def describe(scene: Scene) -> str:
    """The complete description of a scene, in one sentence."""
    if isinstance(scene, Shapes):
        return "I see " + ", ".join(phrase(thing) for thing in scene.things) + "."
    if isinstance(scene, Number):
        return f"I see the number {scene.digits} in {scene.colour}."
    return "I see bars: " + ", ".join(f"{colour} {height}" for colour, height in scene.bars) + "."


def phrase(thing: Thing) -> str:
    """One thing in words, as descriptions put it: "a red circle at the top left"."""
    return f"{_a(f'{thing.colour} {thing.shape}')} at the {thing.place}"


def _a(name: str) -> str:
    return f"an {name}" if name.startswith("orange") else f"a {name}"


def _about_shapes(scene: Shapes, rng: random.Random) -> list[Question]:
    questions = [_is_there(scene, rng, want_yes) for want_yes in (True, False)]
    shapes = [thing.shape for thing in scene.things]
    for ask_it, thing in _in_turns(rng, [thing for thing in scene.things if shapes.count(thing.shape) == 1]):
        text = f"What color is the {thing.shape}?"
        questions.append(ask_it("colour", text, thing.colour, COLOURS, scene, rng))
    named = [(_shortest_name(thing, scene.things), thing) for thing in scene.things]
    for ask_it, (name, thing) in _in_turns(rng, [pair for pair in named if pair[0]]):
        questions.append(ask_it("position", f"Where is the {name}?", thing.place, PLACES, scene, rng))
    questions += [_how_many(scene, rng), _how_many(scene, rng)]
    return [*questions, _describe_it(scene)]


def _in_turns(rng: random.Random, things: list) -> list[tuple]:
    """Up to two of the things, one to be asked about openly and one by a choice."""
    makers = rng.sample((_open, _choice), 2)
    return list(zip(makers, rng.sample(things, min(2, len(things))), strict=False))


def _shortest_name(thing: Thing, things: tuple[Thing, ...]) -> str:
    """The shortest name that fits this thing only; empty if there is its like."""
    if sum(other.colour == thing.colour for other in things) == 1:
        return f"{thing.colour} shape"
    if sum(other.shape == thing.shape for other in things) == 1:
        return thing.shape
    same = sum((other.colour, other.shape) == (thing.colour, thing.shape) for other in things)
    return f"{thing.colour} {thing.shape}" if same == 1 else ""


def _is_there(scene: Shapes, rng: random.Random, want_yes: bool) -> Question:
    """About a colour, a shape or both; a near miss is a colour and a shape that are there, but not together."""
    thing, by = rng.choice(scene.things), rng.choice(("colour", "shape", "both"))
    if want_yes:
        name = {"colour": f"{thing.colour} shape", "shape": thing.shape, "both": f"{thing.colour} {thing.shape}"}[by]
        places = [other.place for other in scene.things if _fits(other, name)]
        answer = f"Yes, at the {places[0]}."
        return Question("yes_no", f"Is there {_a(name)}?", answer, "yes", scene, reasons=tuple(places))
    colours, shapes = ({getattr(other, key) for other in scene.things} for key in ("colour", "shape"))
    absent = {
        "colour": [f"{colour} shape" for colour in COLOURS if colour not in colours],
        "shape": [shape for shape in SHAPES if shape not in shapes],
        "both": [f"{colour} {shape}" for colour in sorted(colours) for shape in sorted(shapes)],
    }
    near = [name for name in absent["both"] if not any(_fits(other, name) for other in scene.things)]
    name = rng.choice((near if by == "both" else absent[by]) or absent["colour"])
    return Question("yes_no", f"Is there {_a(name)}?", f"No, there is no {name}.", "no", scene, near_miss=name in near)


def _fits(thing: Thing, name: str) -> bool:
    return name in (f"{thing.colour} shape", thing.shape, f"{thing.colour} {thing.shape}")


def _how_many(scene: Shapes, rng: random.Random) -> Question:
    thing = rng.choice(scene.things)
    if rng.random() < 0.5:
        name = "crosses" if thing.shape == "cross" else f"{thing.shape}s"
        count = sum(other.shape == thing.shape for other in scene.things)
    else:
        name = f"{thing.colour} shapes"
        count = sum(other.colour == thing.colour for other in scene.things)
    return Question("count", f"How many {name} are there?", str(count), str(count), scene)


def _about_number(scene: Number, rng: random.Random) -> list[Question]:
    digits = scene.digits
    similar = [digits]
    while len(similar) < 4:
        changed = _change_digit(digits, rng)
        similar += [changed] if changed not in similar else []
    other, reading = similar[1], f"It is {digits}, "
    what = rng.choice((_open, _choice))("number", "What number is shown?", digits, similar, scene, rng)
    return [
        what,
        Question("yes_no", f"Is the number {digits}?", reading + "yes.", "yes", scene),
        Question("yes_no", f"Is the number {other}?", reading + "no.", "no", scene, near_miss=True),
        _describe_it(scene),
    ]


def _change_digit(digits: str, rng: random.Random) -> str:
    at = rng.randrange(len(digits))
    new = rng.choice([digit for digit in "123456789" if digit != digits[at]])
    return digits[:at] + new + digits[at + 1 :]


def _about_chart(scene: Chart, rng: random.Random) -> list[Question]:
    questions = []
    heights = range(1, MAX_HEIGHT + 1)
    for ask_it, (colour, height) in _in_turns(rng, list(scene.bars)):
        questions.append(ask_it("chart", f"How tall is the {colour} bar?", str(height), map(str, heights), scene, rng))
    for _ in range(2):
        (first, height), (second, than) = rng.sample(scene.bars, 2)
        text, values = f"Is the {first} bar taller than the {second} bar?", f"{height} against {than}, "
        if height > than:
            questions.append(Question("yes_no", text, values + "yes.", "yes", scene))
        else:
            questions.append(Question("yes_no", text, values + "no.", "no", scene, near_miss=than - height <= 2))
    colours = [colour for colour, _ in scene.bars]
    tallest = max(scene.bars, key=lambda bar: bar[1])[0]
    stranger = rng.choice([colour for colour in COLOURS if colour not in colours])
    ask_it = rng.choice((_open, _choice))
    questions.append(ask_it("chart", "Which bar is the tallest?", tallest, [*colours, stranger], scene, rng))
    return [*questions, _describe_it(scene)]


def _open(kind: str, text: str, right: str, values: Iterable[str], scene: Scene, rng: random.Random) -> Question:
    """Ask for a short answer. Same arguments as `_choice`, so that callers can draw one of the two."""
    return Question(kind, text, right, right, scene)


def _choice(kind: str, text: str, right: str, values: Iterable[str], scene: Scene, rng: random.Random) -> Question:
    """Ask the same with four options, to be answered with one of them; letters are beyond so small a model.

    VLMEvalKit finds an option in an answer by its text, so no option may be a part of the right one or the reverse.
    """
    others = [value for value in values if value not in right and right not in value]
    options = [right, *rng.sample(others, 3)]
    rng.shuffle(options)
    letter = LETTERS[options.index(right)]
    lines = [f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=True)]
    prompt = " ".join((text, *lines))
    if rng.random() < BENCHMARK_SHARE:
        prompt = "\n".join((f"Question: {text}", "Options:", *lines, CHOICE_SUFFIX))
    return Question("choice", prompt, right, letter, scene, options=tuple(options))


def _describe_it(scene: Scene) -> Question:
    return Question("description", "Describe the picture.", describe(scene), "", scene)


def _phrase(question: Question, rng: random.Random) -> Question:
    """Ask some questions the way VLMEvalKit does; choices have been phrased with their options."""
    if question.kind in ("choice", "description") or rng.random() >= BENCHMARK_SHARE:
        return question
    suffix = YES_NO_SUFFIX if question.kind == "yes_no" else SHORT_SUFFIX
    return replace(question, text=question.text + suffix)

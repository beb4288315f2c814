"""Questions about a scene, with the answer a careful annotator would give.

Eight kinds: "yes_no", "choice", five short answers ("colour", "count", "position", "number", "chart") and
"description". `ask` makes every question a scene allows; a `Question` carries all that the scoring rule needs.
"""

import random
from dataclasses import dataclass, replace

from .scene import COLOURS, MAX_HEIGHT, PLACES, SHAPES, Chart, Number, Scene, Shapes, Thing


KINDS = ("yes_no", "choice", "colour", "count", "position", "number", "chart", "description")
LETTERS = "ABCD"

# What VLMEvalKit appends to its own questions. A share of ours is asked that way, so that both forms are familiar.
BENCHMARK_SHARE = 0.2
CHOICE_SUFFIX = "Please select the correct answer from the options above."
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
    """

    kind: str
    text: str
    answer: str
    truth: str
    scene: Scene
    options: tuple[str, ...] = ()
    near_miss: bool = False


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
    return f"{_a(thing.colour)} {thing.shape} at the {thing.place}"


def _a(colour: str) -> str:
    return f"an {colour}" if colour == "orange" else f"a {colour}"


def _about_shapes(scene: Shapes, rng: random.Random) -> list[Question]:
    things = scene.things
    questions = [_is_there(scene, rng, want_yes) for want_yes in (True, False)]
    names = [(thing.colour, thing.shape) for thing in things]
    shapes = [thing.shape for thing in things]
    for thing in rng.sample(things, len(things)):
        if shapes.count(thing.shape) == 1:
            which = f"What color is the {thing.shape}?"
            questions.append(Question("colour", which, thing.colour, thing.colour, scene))
            questions.append(_choice(which, thing.colour, COLOURS, scene, rng))
            break
    for thing in rng.sample(things, len(things)):
        if names.count((thing.colour, thing.shape)) == 1:
            where = f"Where is the {thing.colour} {thing.shape}?"
            questions.append(Question("position", where, thing.place, thing.place, scene))
            questions.append(_choice(where, thing.place, PLACES, scene, rng))
            break
    questions += [_how_many(scene, rng), _how_many(scene, rng)]
    return [*questions, _describe_it(scene)]


def _is_there(scene: Shapes, rng: random.Random, want_yes: bool) -> Question:
    thing = rng.choice(scene.things)
    if want_yes:
        text = f"Is there {_a(thing.colour)} {thing.shape}?"
        return Question("yes_no", text, f"Yes, at the {thing.place}.", "yes", scene)
    present = {(other.colour, other.shape) for other in scene.things}
    absent = [(colour, shape) for colour in COLOURS for shape in SHAPES if (colour, shape) not in present]
    near = [pair for pair in absent if any(pair[0] == c or pair[1] == s for c, s in present)]
    near_miss = rng.random() < 0.6
    colour, shape = rng.choice(near if near_miss else absent)
    answer = f"No, there is no {colour} {shape}."
    return Question(
        "yes_no", f"Is there {_a(colour)} {shape}?", answer, "no", scene, near_miss=(colour, shape) in near
    )


def _how_many(scene: Shapes, rng: random.Random) -> Question:
    thing = rng.choice(scene.things)
    if rng.random() < 0.5:
        name, count = f"{thing.shape}s" if thing.shape != "cross" else "crosses", _count(scene, shape=thing.shape)
    else:
        name, count = f"{thing.colour} shapes", _count(scene, colour=thing.colour)
    return Question("count", f"How many {name} are there?", str(count), str(count), scene)


def _count(scene: Shapes, **wanted: str) -> int:
    return sum(all(getattr(thing, key) == value for key, value in wanted.items()) for thing in scene.things)


def _about_number(scene: Number, rng: random.Random) -> list[Question]:
    digits = scene.digits
    what = "What number is shown?"
    other = _change_digit(digits, rng)
    similar = {digits, other}
    while len(similar) < 4:
        similar.add(_change_digit(digits, rng))
    return [
        Question("number", what, digits, digits, scene),
        Question("yes_no", f"Is the number {digits}?", f"Yes, it is {digits}.", "yes", scene),
        Question("yes_no", f"Is the number {other}?", f"No, it is {digits}.", "no", scene, near_miss=True),
        _choice(what, digits, sorted(similar), scene, rng),
        _describe_it(scene),
    ]


def _change_digit(digits: str, rng: random.Random) -> str:
    at = rng.randrange(len(digits))
    new = rng.choice([digit for digit in "123456789" if digit != digits[at]])
    return digits[:at] + new + digits[at + 1 :]


def _about_chart(scene: Chart, rng: random.Random) -> list[Question]:
    colours = [colour for colour, _ in scene.bars]
    tallest = max(scene.bars, key=lambda bar: bar[1])[0]
    questions = []
    for colour, height in rng.sample(scene.bars, 2):
        questions.append(Question("chart", f"How tall is the {colour} bar?", str(height), str(height), scene))
    for _ in range(2):
        (first, height), (second, than) = rng.sample(scene.bars, 2)
        text, values = f"Is the {first} bar taller than the {second} bar?", f"{height} against {than}."
        if height > than:
            questions.append(Question("yes_no", text, f"Yes, {values}", "yes", scene))
        else:
            questions.append(Question("yes_no", text, f"No, {values}", "no", scene, near_miss=than - height <= 2))
    which = "Which bar is the tallest?"
    stranger = rng.choice([colour for colour in COLOURS if colour not in colours])
    colour, height = rng.choice(scene.bars)
    questions += [
        Question("chart", which, tallest, tallest, scene),
        _choice(which, tallest, [*colours, stranger], scene, rng),
        _choice(f"How tall is the {colour} bar?", str(height), map(str, range(1, MAX_HEIGHT + 1)), scene, rng),
        _describe_it(scene),
    ]
    return questions


def _choice(text: str, right: str, values, scene: Scene, rng: random.Random) -> Question:
    options = [right, *rng.sample([value for value in values if value != right], 3)]
    rng.shuffle(options)
    letter = LETTERS[options.index(right)]
    lines = [f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=True)]
    prompt = " ".join((text, *lines))
    if rng.random() < BENCHMARK_SHARE:
        prompt = "\n".join((f"Question: {text}", "Options:", *lines, CHOICE_SUFFIX))
    return Question("choice", prompt, f"{letter}. {right}", letter, scene, options=tuple(options))


def _describe_it(scene: Scene) -> Question:
    return Question("description", "Describe the picture.", describe(scene), "", scene)


def _phrase(question: Question, rng: random.Random) -> Question:
    """Ask some questions the way VLMEvalKit does; choices have been phrased with their options."""
    if question.kind in ("choice", "description") or rng.random() >= BENCHMARK_SHARE:
        return question
    suffix = YES_NO_SUFFIX if question.kind == "yes_no" else SHORT_SUFFIX
    return replace(question, text=question.text + suffix)

"""Short instructions whose answers a rule can mark: format, length, arithmetic, lists, facts in the prompt.

Training, validation and test have words, names and numbers of their own, so what is held out was never seen.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from common import ToolError


@dataclass(frozen=True)
class Instruction:
    """What is asked, and what the rule has to know.

    Attributes:
        kind: a key of `KINDS`.
        text: the instruction.
        wanted: what `rule.points` reads, by names of its own for every kind.
    """

    kind: str
    text: str
    wanted: dict[str, Any] = field(default_factory=dict)


# Each list is cut in three: two quarters for training, one for validation, one for test.
NAMES = (
    *("Anna", "Ben", "Clara", "David", "Emma", "Frank", "Grace", "Henry", "Iris", "Jack", "Kate", "Leo"),
    *("Mary", "Nick", "Olga", "Paul", "Rosa", "Sam", "Tina", "Victor", "Wendy", "Zoe", "Peter", "Lucy"),
)
PLACES = (
    *("Paris", "London", "Rome", "Berlin", "Madrid", "Tokyo", "Boston", "Cairo", "Dublin", "Oslo", "Vienna", "Lisbon"),
    *("Moscow", "Chicago", "Athens", "Prague", "Sydney", "Toronto", "Delhi", "Seattle", "Geneva", "Lima", "Dallas"),
    "Milan",
)
THINGS = (
    *("river", "garden", "music", "winter", "bread", "ocean", "school", "forest", "coffee", "summer", "bridge"),
    *("horse", "island", "market", "doctor", "window", "butter", "camera", "castle", "desert", "engine", "flower"),
    *("guitar", "mountain", "letter", "kitchen", "thunder", "pencil", "village", "teacher", "rocket", "lemon"),
    *("blanket", "harbor", "mirror", "pepper", "soldier", "temple", "valley", "wagon", "candle", "hammer", "jacket"),
    *("ladder", "meadow", "needle", "orange", "pillow", "rabbit", "saddle", "tunnel", "violin", "wallet", "basket"),
    *("circle", "donkey", "feather", "ginger", "helmet", "insect", "jungle", "kettle", "lantern", "magnet", "napkin"),
    *("oyster", "parrot", "ribbon", "silver", "ticket", "turtle", "velvet", "walnut", "anchor", "barrel", "cotton"),
    *("dragon", "empire", "factory", "glacier", "hotel", "iron", "jewel", "king", "lake", "museum", "night", "owl"),
    *("palace", "queen", "rain", "storm", "tiger", "uncle", "wolf", "yard"),
)
GROUPS = (
    *("fruits", "animals", "colors", "countries", "vegetables", "sports", "cities", "birds", "languages", "tools"),
    *("drinks", "jobs", "flowers", "trees", "rivers", "toys", "clothes", "games", "metals", "insects", "desserts"),
    *("spices", "planets", "dances"),
)
NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five"}
QUARTERS = {"train": (0, 1), "val": (2,), "test": (3,)}

Draw = Callable[[random.Random, str], tuple[str, dict[str, Any]]]


def part(words: tuple[str, ...], split: str) -> list[str]:
    """The words of a split; every fourth one belongs to the same."""
    return [word for place, word in enumerate(words) if place % 4 in QUARTERS[split]]


def _sum(rng: random.Random, split: str) -> tuple[str, dict[str, Any]]:
    first, second = _number(rng, split, 2, 19), rng.randint(1, 9)
    if rng.random() < 0.5 or first < second:
        return f"What is {first} + {second}? Answer with the number only.", {"number": first + second}
    return f"What is {first} - {second}? Answer with the number only.", {"number": first - second}


def _largest(rng: random.Random, split: str) -> tuple[str, dict[str, Any]]:
    numbers = rng.sample(range(1, 60), 3)
    least = rng.random() < 0.5
    text = f"Which number is the {'smallest' if least else 'largest'}: {', '.join(map(str, numbers))}?"
    return f"{text} Answer with the number only.", {"number": min(numbers) if least else max(numbers)}


def _fact(rng: random.Random, split: str) -> tuple[str, dict[str, Any]]:
    people, towns = rng.sample(part(NAMES, split), 3), rng.sample(part(PLACES, split), 3)
    facts = " ".join(f"{person} lives in {town}." for person, town in zip(people, towns, strict=True))
    asked = rng.randrange(3)
    others = [town for place, town in enumerate(towns) if place != asked]
    return f"{facts} Where does {people[asked]} live? Answer with one word.", {"word": towns[asked], "not": others}


def _counted(rng: random.Random, split: str) -> tuple[str, dict[str, Any]]:
    first, second = rng.sample(part(NAMES, split), 2)
    mine, yours = rng.sample(range(2, 20), 2)
    text = f"{first} has {mine} books. {second} has {yours} books. Does {first} have more books than {second}?"
    return f"{text} Answer with yes or no.", {"word": "yes" if mine > yours else "no", "not": ["yes", "no"]}


def _capitals(rng: random.Random, split: str) -> tuple[str, dict[str, Any]]:
    thing = rng.choice(part(THINGS, split))
    return f'Write the word "{thing}" in capital letters, and nothing else.', {"text": thing.upper()}


def _repeat(rng: random.Random, split: str) -> tuple[str, dict[str, Any]]:
    thing, times = rng.choice(part(THINGS, split)), rng.choice(list(NUMBERS))
    wanted = " ".join([thing] * times)
    return f'Write the word "{thing}" {NUMBERS[times]} times, with spaces between.', {"text": wanted}


def _bullets(rng: random.Random, split: str) -> tuple[str, dict[str, Any]]:
    group, count = rng.choice(part(GROUPS, split)), rng.choice(list(NUMBERS))
    text = f'List {NUMBERS[count]} {group}. Write one on each line, and begin each line with "- ".'
    return text, {"lines": count}


def _commas(rng: random.Random, split: str) -> tuple[str, dict[str, Any]]:
    group, count = rng.choice(part(GROUPS, split)), rng.choice(list(NUMBERS))
    return f"Name {NUMBERS[count]} {group} in one line, with commas between, and nothing else.", {"items": count}


def _short(rng: random.Random, split: str) -> tuple[str, dict[str, Any]]:
    thing, most = rng.choice(part(THINGS, split)), rng.choice((6, 8, 10))
    return f"Write one sentence about {thing}, with at most {most} words.", {"most": most, "about": thing}


def _begins(rng: random.Random, split: str) -> tuple[str, dict[str, Any]]:
    thing, name = rng.choice(part(THINGS, split)), rng.choice(part(NAMES, split))
    text = f'Write one short sentence about {thing}. Begin with the words "Dear {name}".'
    return text, {"begins": f"Dear {name}", "most": 15, "about": thing}


# Each draws an instruction of its kind.
KINDS: dict[str, Draw] = {
    "sum": _sum,
    "largest": _largest,
    "fact": _fact,
    "counted": _counted,
    "capitals": _capitals,
    "repeat": _repeat,
    "bullets": _bullets,
    "commas": _commas,
    "short": _short,
    "begins": _begins,
}


def instructions(split: str, count: int, seed: int) -> list[Instruction]:
    """Draw different instructions, all kinds in turn.

    Args:
        split: "train", "val" or "test".
        count: how many.
        seed: of the draws.

    Raises:
        ToolError: there are not so many.
    """
    rng, found, kinds = random.Random(f"{split} {seed}"), {}, list(KINDS)
    for _ in range(100 * count):
        if len(found) == count:
            return list(found.values())
        kind = kinds[len(found) % len(kinds)]
        text, wanted = KINDS[kind](rng, split)
        found.setdefault(text, Instruction(kind, text, wanted))
    raise ToolError(f"there are no {count} different instructions for {split}: {len(found)} were found")


def _number(rng: random.Random, split: str, least: int, most: int) -> int:
    return rng.choice([number for number in range(least, most + 1) if number % 4 in QUARTERS[split]])

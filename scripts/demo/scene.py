"""Drawn scenes: what can be in a picture, how it is drawn, and which split it belongs to.

Every picture is 84 x 84 pixels, three by three cells of 28 x 28. Qwen2-VL makes one token of 28 x 28 pixels, so each
cell is one image token; that is what makes the world learnable on two CPU cores. The background is a gradient, so
that a token shows where it lies.
"""

import hashlib
import random
from dataclasses import dataclass

from PIL import Image, ImageDraw


CELL = 28
SIDE = 3 * CELL

COLOURS = {
    "red": (214, 40, 40),
    "orange": (245, 145, 30),
    "yellow": (240, 220, 30),
    "green": (40, 160, 60),
    "blue": (40, 80, 220),
    "purple": (140, 50, 170),
}
SHAPES = ("circle", "square", "triangle", "cross")
PLACES = (
    "top left",
    "top",
    "top right",
    "left",
    "center",
    "right",
    "bottom left",
    "bottom",
    "bottom right",
)
ROWS = ("top", "center", "bottom")
MAX_HEIGHT = 6

SPLITS = ("train", "val", "test")

# The segments of a seven-segment digit: a top, b and c right, d bottom, e and f left, g middle.
_SEGMENTS = {
    "a": (8, 4, 19, 7),
    "b": (17, 4, 20, 14),
    "c": (17, 14, 20, 24),
    "d": (8, 21, 19, 24),
    "e": (7, 14, 10, 24),
    "f": (7, 4, 10, 14),
    "g": (8, 12, 19, 15),
}
_LIT = ("abcdef", "bc", "abdeg", "abcdg", "bcfg", "acdfg", "acdefg", "abc", "abcdefg", "abcdfg")


@dataclass(frozen=True)
class Thing:
    """One coloured shape in one cell; `cell` counts 0 to 8 in reading order."""

    cell: int
    colour: str
    shape: str

    @property
    def place(self) -> str:
        """The cell's name, such as "top left"."""
        return PLACES[self.cell]


@dataclass(frozen=True)
class Shapes:
    """One to five coloured shapes, in reading order."""

    things: tuple[Thing, ...]

    @property
    def key(self) -> str:
        """What is shown, wherever it stands."""
        return "shapes " + " ".join(sorted(f"{thing.colour}-{thing.shape}" for thing in self.things))

    def draw(self, pen: ImageDraw.ImageDraw, rng: random.Random) -> None:
        """Draw every shape in its cell, a pixel or two off the middle."""
        for thing in self.things:
            x = thing.cell % 3 * CELL + CELL // 2 + rng.randint(-2, 2)
            y = thing.cell // 3 * CELL + CELL // 2 + rng.randint(-2, 2)
            _draw_shape(pen, thing.shape, x, y, rng.randint(9, 11), _shade(thing.colour, rng))


@dataclass(frozen=True)
class Number:
    """A number of two or three digits in one row, in one colour."""

    digits: str
    colour: str
    row: str
    first_column: int

    @property
    def key(self) -> str:
        """The number itself."""
        return f"number {self.digits}"

    def draw(self, pen: ImageDraw.ImageDraw, rng: random.Random) -> None:
        """Draw one seven-segment digit a cell."""
        fill, dy = _shade(self.colour, rng), rng.randint(-1, 1)
        for column, digit in enumerate(self.digits, start=self.first_column):
            x, y = column * CELL, ROWS.index(self.row) * CELL + dy
            for segment in _LIT[int(digit)]:
                left, top, right, bottom = _SEGMENTS[segment]
                pen.rectangle((x + left, y + top, x + right, y + bottom), fill=fill)


@dataclass(frozen=True)
class Chart:
    """Three bars, left to right, of different colours and heights 1 to `MAX_HEIGHT`."""

    bars: tuple[tuple[str, int], ...]

    @property
    def key(self) -> str:
        """The bars, in whatever order."""
        return "chart " + " ".join(sorted(f"{colour}-{height}" for colour, height in self.bars))

    def draw(self, pen: ImageDraw.ImageDraw, rng: random.Random) -> None:
        """Draw the bars from the bottom, half a cell for each unit of height."""
        for column, (colour, height) in enumerate(self.bars):
            left = column * CELL + 5 + rng.randint(-1, 1)
            pen.rectangle((left, SIDE - height * CELL // 2, left + 17, SIDE), fill=_shade(colour, rng))


Scene = Shapes | Number | Chart


def split_of(scene: Scene) -> str:
    """The split a scene belongs to: 80 % train, 10 % val, 10 % test.

    It depends on what the scene shows and on nothing else, neither seed nor places nor drawing: a combination that is
    in the test split is in no training set, whichever seed made either.
    """
    bucket = int(hashlib.sha256(scene.key.encode()).hexdigest(), 16) % 10
    return {8: "val", 9: "test"}.get(bucket, "train")


def sample_scene(rng: random.Random, split: str) -> Scene:
    """Draw a scene of the split at random: 60 % shapes, 20 % numbers, 20 % charts."""
    family = rng.choices((_sample_shapes, _sample_number, _sample_chart), weights=(3, 1, 1))[0]
    while True:
        scene = family(rng)
        if split_of(scene) == split:
            return scene


def draw(scene: Scene, rng: random.Random) -> Image.Image:
    """Draw a scene, with a little jitter of places, sizes and colours, as an RGB image of 84 x 84 pixels."""
    image = Image.new("RGB", (SIDE, SIDE))
    image.putdata([(150 + x, 150 + y, 200) for y in range(SIDE) for x in range(SIDE)])
    scene.draw(ImageDraw.Draw(image), rng)
    return image


def _sample_shapes(rng: random.Random) -> Shapes:
    cells = sorted(rng.sample(range(9), rng.choices((1, 2, 3, 4, 5), weights=(1, 3, 4, 4, 2))[0]))
    # Few colours and shapes a picture, so that counts above one are common.
    colours, shapes = rng.sample(list(COLOURS), rng.randint(1, 4)), rng.sample(SHAPES, rng.randint(1, 4))
    return Shapes(tuple(Thing(cell, rng.choice(colours), rng.choice(shapes)) for cell in cells))


def _sample_number(rng: random.Random) -> Number:
    length = rng.choice((2, 3, 3))
    digits = rng.choice("123456789") + "".join(rng.choice("0123456789") for _ in range(length - 1))
    return Number(digits, rng.choice(list(COLOURS)), rng.choice(ROWS), rng.randint(0, 3 - length))


def _sample_chart(rng: random.Random) -> Chart:
    heights = rng.sample(range(1, MAX_HEIGHT + 1), 3)
    return Chart(tuple(zip(rng.sample(list(COLOURS), 3), heights, strict=True)))


def _shade(colour: str, rng: random.Random) -> tuple[int, ...]:
    return tuple(min(255, max(0, channel + rng.randint(-10, 10))) for channel in COLOURS[colour])


def _draw_shape(pen: ImageDraw.ImageDraw, shape: str, x: int, y: int, r: int, fill: tuple[int, ...]) -> None:
    if shape == "circle":
        pen.ellipse((x - r, y - r, x + r, y + r), fill=fill)
    elif shape == "square":
        pen.rectangle((x - r + 1, y - r + 1, x + r - 1, y + r - 1), fill=fill)
    elif shape == "triangle":
        pen.polygon(((x, y - r), (x - r, y + r), (x + r, y + r)), fill=fill)
    else:
        pen.rectangle((x - r, y - 3, x + r, y + 3), fill=fill)
        pen.rectangle((x - 3, y - r, x + 3, y + r), fill=fill)

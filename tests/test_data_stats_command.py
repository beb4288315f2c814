"""`data.py stats` as it is used: what it writes, what it says of odd data, and whether its picture can be read."""

import itertools
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.transforms import Bbox
from pairs import ROOT, as_sharegpt, write_dataset
from PIL import Image
from transformers import AutoTokenizer

from pair_data.errors import DataError
from pair_data.stats.picture import picture
from pair_data.stats.report import make


PROGRAM = [sys.executable, str(ROOT / "scripts" / "uni_dpo" / "data.py"), "stats"]
GOOD = {
    "instruction": "<image>Is it?",
    "chosen": "Yes, it is.",
    "rejected": "No.",
    "score_chosen": 3.0,
    "score_rejected": 1.0,
    "images": ["x.png"],
}
UNSCORED = {name: value for name, value in GOOD.items() if not name.startswith("score")}
LARGE = GOOD | {"score_chosen": 3e38, "score_rejected": -3e38}
ODD = {
    "one": ([GOOD], "eta 0.55 is suggested"),
    "equal": ([GOOD | {"score_chosen": 1.0}] * 30, "100.0 % of the pairs are ties"),
    "reversed": ([GOOD | {"score_chosen": -4e8}] * 3, "columns swapped"),
    "unscored": ([UNSCORED] * 5, "run `data.py score` first"),
    "half": ([GOOD, GOOD | {"score_rejected": float("nan")}, UNSCORED], "2 pairs lack a finite score"),
    "negative": (
        [GOOD | {"score_chosen": -5.0 - i, "score_rejected": -9.5 - 2 * i} for i in range(40)],
        "above every",
    ),
    "large": ([GOOD | {"score_chosen": 2 + i / 9} for i in range(400)] + [LARGE], "above"),
    "flat": ([GOOD | {"score_chosen": 1 + i / 1e6} for i in range(50)], "almost nothing"),
    "constant side": (
        [GOOD | {"score_chosen": 2 + i / 9} for i in range(50)],
        "All rejected answers have the score 1",
    ),
    "default": ([GOOD | {"score_rejected": max(-1.0, 1 - i / 9)} for i in range(50)], "are exactly -1"),
    "broken": ([GOOD, [1], {"a": 1}, GOOD | {"chosen": 7}], "3 rows hold no pair and are left out (row 1"),
    "images": ([GOOD | {"images": ["a\0b"]}, GOOD | {"images": [{"path": None}]}, GOOD | {"images": None}], "1 pairs"),
    "names": ([GOOD | {"by": "$\\frac$ \ud800 \x1b[1m 图"}, GOOD], "(none)"),
}


def run(*arguments: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONIOENCODING": "utf-8"}
    command = [*PROGRAM, *map(str, arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment, timeout=120)


def made(folder: Path, name: str, **options) -> dict:
    """Run `stats` on a file in this process and return its stats.json."""
    defaults = {"by": None, "eta": 0.7, "tau_good": 2.5, "model": None, "with_images": False}
    make(str(folder / name), None, None, **(defaults | options), out=folder / "out")
    return json.loads((folder / "out" / "stats.json").read_text())


def test_what_is_written(tmp_path):
    """The page on the screen is the one in the file, which is where it says, and fits a terminal."""
    (tmp_path / "pairs.jsonl").write_text("\n".join(json.dumps(GOOD | {"score_chosen": i / 7}) for i in range(300)))
    done = run("pairs.jsonl", "--eta", "0.4", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "outputs" / "stats" / "pairs"
    assert sorted(os.listdir(folder)) == ["stats.json", "stats.png", "stats.txt"]
    assert (
        done.stdout.startswith((folder / "stats.txt").read_text()) and str(Path("outputs/stats/pairs")) in done.stdout
    )
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 100 and len(lines) <= 90
    assert "eta 0.4 *" in done.stdout and "300 references" in done.stdout
    assert Image.open(folder / "stats.png").size > (1500, 900)


@pytest.mark.parametrize("name", ODD)
def test_odd_data(name, tmp_path):
    """Odd data is described, in strict JSON and a picture; a crash or a silent page would leave the user alone."""
    rows, said = ODD[name]
    (tmp_path / "pairs.json").write_text(json.dumps(rows))
    report = made(tmp_path, "pairs.json", with_images=True, by="by" if name == "names" else None)
    text = (tmp_path / "out" / "stats.txt").read_text()
    assert said in " ".join(text.split()), text
    assert max(map(len, text.splitlines())) <= 100 and " nan" not in text
    assert report["rows"] == len(rows)
    Image.open(tmp_path / "out" / "stats.png").load()


def test_refusals(tmp_path):
    """Bad input ends in one message and exit status 2, and nothing is written."""
    (tmp_path / "pairs.json").write_text(json.dumps([GOOD]))
    (tmp_path / "other.json").write_text(json.dumps([{"question": "?"}]))
    for arguments, said in (
        (["other.json"], "data.py convert"),
        (["pairs.json", "--by", "nothing"], 'no column "nothing"'),
        (["pairs.json", "--eta", "-1"], "--eta"),
    ):
        done = run(*arguments, folder=tmp_path)
        assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr, arguments
        assert not done.stdout and not (tmp_path / "outputs").exists()
    for options, said in (({"eta": math.inf}, "finite"), ({"model": "nowhere"}, "--model nowhere")):
        with pytest.raises(DataError, match=said):
            made(tmp_path, "pairs.json", **options)
    (tmp_path / "out").write_text("")
    with pytest.raises(DataError, match="is a file"):
        made(tmp_path, "pairs.json")


def test_described_conversations_and_tokens(tmp_path, rows, tiny_model):
    """A data set of dataset_info.json is read as training reads it, and --model counts that tokenizer's tokens."""
    columns = {name: name for name in ("chosen", "rejected", "images")} | {"messages": "conversations"}
    columns |= {"score_chosen": "good", "score_rejected": "bad"}
    renamed = [as_sharegpt(row) | {"good": row["score_chosen"] + 100, "bad": row["score_rejected"]} for row in rows]
    write_dataset(tmp_path, renamed, "talks", columns, formatting="sharegpt")
    make("talks", tmp_path, None, None, 0.7, 2.5, str(tiny_model), False, tmp_path / "out")
    report = json.loads((tmp_path / "out" / "stats.json").read_text())
    assert report["all"]["margin"]["least"] > 50
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    counts = [len(tokenizer(row["rejected"], add_special_tokens=False)["input_ids"]) for row in rows]
    assert report["lengths"]["unit"] == "tokens"
    assert report["lengths"]["rejected"]["mean"] == pytest.approx(sum(counts) / len(counts))


def test_subsets_of_a_column(tmp_path):
    """The five largest have lines of their own, the others one together, and no row is lost among them."""
    names = [f"part {chr(97 + i)}" for i in range(9) for _ in range(20 - i)]
    rows = [GOOD | {"part": name, "score_chosen": ord(name[-1]) / 10} for name in names]
    (tmp_path / "pairs.json").write_text(json.dumps(rows))
    found = made(tmp_path, "pairs.json", by="part")["subsets"]
    assert list(found) == [*(f"part {letter}" for letter in "abcde"), "(others)"]
    assert [part["pairs"] for part in found.values()] == [20, 19, 18, 17, 16, 15 + 14 + 13 + 12]
    assert found["part c"]["chosen"]["median"] == ord("c") / 10
    with pytest.raises(DataError, match="no column"):
        made(tmp_path, "pairs.json", by="prat")


def test_picture_can_be_read(tmp_path):
    """With six long names no text of the picture lies over another, nor outside it."""
    names = [f"{topic}: {'visual questions with explanations ' * 4}" for topic in ("charts", "maps", "$x", *"def")]
    rows = [
        GOOD | {"part": names[i % 6], "score_chosen": (i * 37 % 101) / 9, "score_rejected": (i * 53 % 97) / 12}
        for i in range(600)
    ]
    (tmp_path / "pairs.json").write_text(json.dumps(rows + [LARGE | {"part": names[0]}]))
    figure = picture(made(tmp_path, "pairs.json", by="part"))
    renderer = Recorder(*figure.bbox.size.astype(int), figure.dpi)
    figure.draw(renderer)
    drawn = " ".join(text for text, _ in renderer.texts)
    assert all(name[:30] in drawn for name in names) and "further right" in drawn
    canvas = Bbox([[0, 0], figure.bbox.size])
    for text, box in renderer.texts:
        assert Bbox.intersection(box, canvas).size == pytest.approx(box.size), f"{text!r} is cut off"
    for (first, one), (second, other) in itertools.combinations(renderer.texts, 2):
        assert not one.overlaps(other), f"{first!r} lies over {second!r}"


class Recorder(RendererAgg):
    """Draws as usual, and remembers which text was drawn where."""

    def __init__(self, *arguments):
        """Start with none."""
        super().__init__(*arguments)
        self.texts = []

    def draw_text(self, gc, x, y, s, prop, angle, ismath=False, mtext=None):
        """Draw and remember."""
        width, height, descent = self.get_text_width_height_descent(s, prop, ismath)
        if angle:  # by 90 degrees, from its lower end up
            box = Bbox([[x - height + descent, y - width], [x + descent, y]])
        else:
            box = Bbox([[x, y - height + descent], [x + width, y + descent]])
        self.texts.append((s, box))
        super().draw_text(gc, x, y, s, prop, angle, ismath, mtext)

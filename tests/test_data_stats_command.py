"""`data.py stats` as it is used: what it writes, what it says of odd data, and whether its picture can be read."""

import io
import itertools
import json
import os
from pathlib import Path

import pytest
from data_cli import DATA, call, data
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from pairs import as_sharegpt, write_dataset
from PIL import Image
from transformers import AutoTokenizer

from pair_data.sources import open_source
from pair_data.stats.page import page
from pair_data.stats.picture import draw, picture
from pair_data.stats.report import describe


GOOD = {"instruction": "<image>Is it?", "chosen": "Yes, it is.", "rejected": "No.", "images": ["x.png"]}
GOOD |= {"score_chosen": 3.0, "score_rejected": 1.0}


def scored(chosen=3.0, rejected=1.0):
    return GOOD | {"score_chosen": chosen, "score_rejected": rejected}


UNSCORED = {name: value for name, value in GOOD.items() if not name.startswith("score")}
LARGE = GOOD | {"score_chosen": 3e38, "score_rejected": -3e38}
ODD = {
    "one": ([GOOD], "eta 0.55 is suggested"),
    "equal": ([GOOD | {"score_chosen": 1.0}] * 30, "100.0 % of the pairs are ties"),
    "reversed": ([GOOD | {"score_chosen": -4e8}] * 3, "columns swapped"),
    "unscored": ([UNSCORED] * 5, "run `data.py score` first"),
    "half": ([GOOD, GOOD | {"score_rejected": float("nan")}, UNSCORED], "2 pairs lack a finite score"),
    "negative": ([scored(-5.0 - i, -9.5 - 2 * i) for i in range(40)], "above every"),
    "large": ([GOOD | {"score_chosen": 2 + i / 9} for i in range(400)] + [LARGE], "above"),
    "flat": ([GOOD | {"score_chosen": 1 + i / 1e6} for i in range(50)], "almost nothing"),
    "constant side": ([scored(2 + i / 9) for i in range(50)], "All rejected answers have the score 1"),
    "default": ([GOOD | {"score_rejected": max(-1.0, 1 - i / 9)} for i in range(50)], "are exactly -1"),
    "broken": ([GOOD, [1], {"a": 1}, GOOD | {"chosen": 7}], "3 rows hold no pair and are left out (row 1"),
    "images": ([GOOD | {"images": ["a\0b"]}, GOOD | {"images": [{"path": None}]}, GOOD | {"images": None}], "1 pairs"),
    "names": ([GOOD | {"by": "$\\frac$ \ud800 \x1b[1m 图"}, GOOD], "(none)"),
}


def described(folder: Path, rows: list, **options) -> dict:
    (folder / "pairs.json").write_text(json.dumps(rows))
    return describe(open_source(str(folder / "pairs.json")), **options)


def test_what_is_written(tmp_path):
    """The page on the screen is the one in the file, which is where it says, and fits a terminal."""
    (tmp_path / "pairs.jsonl").write_text("\n".join(json.dumps(GOOD | {"score_chosen": i / 7}) for i in range(300)))
    status, shown, said = call(*DATA, "stats", "pairs.jsonl", "--eta", "0.4", cwd=tmp_path)
    assert status == 0, said
    folder = tmp_path / "outputs" / "stats" / "pairs"
    assert sorted(os.listdir(folder)) == ["stats.json", "stats.png", "stats.txt"]
    assert shown.startswith((folder / "stats.txt").read_text()) and str(Path("outputs/stats/pairs")) in shown
    lines = shown.splitlines()
    assert max(map(len, lines)) <= 100 and len(lines) <= 90
    assert "eta 0.4 *" in shown and "300 references" in shown
    assert json.loads((folder / "stats.json").read_text())["pairs"] == 300
    assert Image.open(folder / "stats.png").size > (1500, 900)


@pytest.mark.parametrize("name", ODD)
def test_odd_data(name, tmp_path):
    """Odd data is described, in strict JSON and a picture; a crash or a silent page would leave the user alone."""
    rows, said = ODD[name]
    report = described(tmp_path, rows, by="by" if name == "names" else None)
    text = page(report)
    assert said in " ".join(text.split()), text
    assert max(map(len, text.splitlines())) <= 100 and " nan" not in text
    assert report["rows"] == len(rows)
    json.dumps(report, allow_nan=False)
    if name in ("unscored", "large", "names"):  # no scores, values further out, names in other scripts
        draw(report, io.BytesIO())


def test_refusals(tmp_path, monkeypatch):
    """Bad input ends in one message and exit status 2, and nothing is written."""
    monkeypatch.chdir(tmp_path)
    Path("pairs.json").write_text(json.dumps([GOOD]))
    Path("other.json").write_text(json.dumps([{"question": "?"}]))
    Path("out").write_text("")
    for arguments, said in (
        (["other.json"], "data.py convert"),
        (["pairs.json", "--by", "nothing"], 'no column "nothing"'),
        (["pairs.json", "--eta", "-1"], "--eta"),
        (["pairs.json", "--eta", "inf"], "finite"),
        (["pairs.json", "--model", "nowhere"], "--model nowhere"),
        (["pairs.json", "--out", "out"], "is a file"),
    ):
        status, shown, message = data("stats", *arguments)
        assert status == 2 and said in message and "Traceback" not in message, arguments
        assert not shown and not Path("outputs").exists()


def test_described_conversations_and_tokens(tmp_path, rows, tiny_model):
    """A data set of dataset_info.json is read as training reads it, and --model counts that tokenizer's tokens."""
    columns = {name: name for name in ("chosen", "rejected", "images")} | {"messages": "conversations"}
    columns |= {"score_chosen": "good", "score_rejected": "bad"}
    renamed = [as_sharegpt(row) | {"good": row["score_chosen"] + 100, "bad": row["score_rejected"]} for row in rows]
    write_dataset(tmp_path, renamed, "talks", columns, formatting="sharegpt")
    report = describe(open_source("talks", tmp_path), model=str(tiny_model), with_images=False)
    assert report["all"]["margin"]["least"] > 50
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    counts = [len(tokenizer(row["rejected"], add_special_tokens=False)["input_ids"]) for row in rows]
    assert report["lengths"]["unit"] == "tokens"
    assert report["lengths"]["rejected"]["mean"] == pytest.approx(sum(counts) / len(counts))


def test_subsets_of_a_column(tmp_path):
    """The five largest have lines of their own, the others one together, and no row is lost among them."""
    names = [f"part {chr(97 + i)}" for i in range(9) for _ in range(20 - i)]
    rows = [GOOD | {"part": name, "score_chosen": ord(name[-1]) / 10} for name in names]
    found = described(tmp_path, rows, by="part", with_images=False)["subsets"]
    assert list(found) == [*(f"part {letter}" for letter in "abcde"), "(others)"]
    assert [part["pairs"] for part in found.values()] == [20, 19, 18, 17, 16, 15 + 14 + 13 + 12]
    assert found["part c"]["chosen"]["median"] == ord("c") / 10


def test_picture_can_be_read(tmp_path, monkeypatch):
    """With six long names no text of the picture lies over another, nor outside it."""
    names = [f"{topic}: {'visual questions with explanations ' * 4}" for topic in ("charts", "maps", "$x", *"def")]
    rows = [
        GOOD | {"part": names[i % 6], "score_chosen": (i * 37 % 101) / 9, "score_rejected": (i * 53 % 97) / 12}
        for i in range(600)
    ]
    report = described(tmp_path, rows + [LARGE | {"part": names[0]}], by="part", with_images=False)
    assert max(map(len, page(report).splitlines())) <= 100
    drawn, draw_text, figure = [], Text.draw, picture(report)
    monkeypatch.setattr(Text, "draw", lambda text, renderer: drawn.append(text) or draw_text(text, renderer))
    FigureCanvasAgg(figure).draw()
    texts = [(text.get_text(), text.get_window_extent()) for text in drawn if text.get_visible() and text.get_text()]
    said = " ".join(text for text, _ in texts)
    assert all(name[:30] in said for name in names) and "further right" in said
    for text, box in texts:
        assert Bbox.intersection(box, figure.bbox).size == pytest.approx(box.size), f"{text!r} is cut off"
    for (first, one), (second, other) in itertools.combinations(texts, 2):
        assert not one.overlaps(other), f"{first!r} lies over {second!r}"

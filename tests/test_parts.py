"""Tokenising that is killed goes on: parts that were done are not made again, and the result is the same."""

import json
import signal

import pytest
from datasets import Dataset, load_from_disk
from pairs import make_rows, options, write_dataset

from llamafactory.train.uni_dpo.data import parts
from llamafactory.train.uni_dpo.data.parts import in_parts


ROWS = 2100  # three parts


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("many")
    rows = make_rows(folder, 6)
    return write_dataset(folder, [rows[i % 6] | {"instruction": f"<image>Question {i}?"} for i in range(ROWS)])


@pytest.fixture
def start(host, tiny_model, data, tmp_path):
    """Start `llamafactory-cli train` for one step, with a cache of its own by this name; returns its ending."""

    def started(name, workers=1, **death):
        cache = tmp_path / name
        cache.mkdir(exist_ok=True)
        kept = {"cache_dir": str(cache), "tokenized_path": str(tmp_path / "tokens"), "overwrite_cache": None}
        run = options(tiny_model, data, tmp_path / "out", max_steps=1, preprocessing_num_workers=workers, **kept)
        config = tmp_path / "run.yaml"
        config.write_text(json.dumps(run | {"resume_from_checkpoint": False, "overwrite_output_dir": True}))
        return host.run("llamafactory.cli:main", "train", config, below=cache, **death)

    return started


def finished(folder):
    """What `datasets` keeps there, each with the file that it is."""
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.rglob("cache-*.arrow")}


def tokens(tmp_path):
    """Read the tokenised rows and put them out of the way."""
    folder = (tmp_path / "tokens").rename(tmp_path / f"tokens {len(list(tmp_path.iterdir()))}")
    return load_from_disk(str(folder))["train"].to_list()


def test_goes_on_after_a_kill(start, tmp_path):
    """Killed (-9) before the last part has its name: of three, two are there, and only the third is made."""
    whole = start("whole")
    assert whole.status == 0, whole.said[-2000:]
    expected, kept = tokens(tmp_path), finished(tmp_path / "whole")
    assert len(expected) == ROWS and "part 1 of 3" in whole.said
    killed = start("killed", change=whole.changes - 1)
    assert killed.signal == signal.SIGKILL and not (tmp_path / "tokens").exists()
    left = finished(tmp_path / "killed")
    assert left.keys() < kept.keys() and len(left) == len(kept) - 1  # names follow from the content
    again = start("killed")
    assert again.status == 0, again.said[-2000:]
    assert "part 3 of 3" in again.said and "part 1 of 3" not in again.said and "part 2 of 3" not in again.said
    now = finished(tmp_path / "killed")
    assert now.keys() == kept.keys() and now.items() >= left.items()
    assert tokens(tmp_path) == expected


def test_what_is_kept_is_made_again_once_an_image_or_the_code_is_another(tmp_path, monkeypatch):
    """Names of rows and functions stay the same then, and only what they stand for changes."""
    image = tmp_path / "a.png"
    image.write_bytes(b"small")
    rows = Dataset.from_dict({"_images": [[str(image)], None], "text": ["a", "b"]})
    mapped = in_parts(lambda dataset: dataset.map(len_of_text)._fingerprint)
    first = mapped(rows)
    assert mapped(rows) == first
    image.write_bytes(b"larger")
    second = mapped(rows)
    assert second != first and mapped(rows) == second
    monkeypatch.setattr(parts, "_deciding", lambda: ["other code"])
    assert mapped(rows) not in (first, second)


def len_of_text(row):
    return {"length": len(row["text"])}

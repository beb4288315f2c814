"""What commands write never replaces something else, and what cannot be written is said before any work."""

import json
import subprocess

import pytest
from chat_server import ChatServer
from data_cli import DATA, data
from pairs import make_rows

from pair_data import DataError


@pytest.fixture
def folder(tmp_path):
    rows = [
        {name: row[name] for name in ("instruction", "chosen", "rejected", "images")} for row in make_rows(tmp_path)
    ]
    (tmp_path / "in.json").write_text(json.dumps(rows))
    (tmp_path / "folder.json").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("-o", "in.json"), "is also read"),
        (("-o", "out.json", "--report", "in.json"), "is also read"),
        (("-o", "out.json", "--report", "out.json"), "written twice"),
        (("-o", "out.json", "--cache", "in.json"), "is also read"),
        (("-o", "out.json", "--cache", "out.json"), "written twice"),
        (("-o", "folder.json"), "a folder of that name"),
        (("-o", "out.txt"), "must end in"),
        (("-o", "in.json/out.json"), "is not a folder that you may write in"),
        (("-o", "out.json", "--report", "folder.json"), "a folder of that name"),
        (("-o", "out.json", "--report", "report"), "must end in .json"),
    ],
)
def test_score_asks_nobody_before_it_can_write(folder, options, message):
    """Hours of scoring are not spent on an output that cannot be written, and pairs are not replaced by a report."""
    before = (folder / "in.json").read_bytes()
    options = [option if option.startswith("-") else folder / option for option in options]
    with ChatServer(lambda *_: "Score: 1") as server:
        status, _, said = data("score", folder / "in.json", *options, "--endpoint", server.url, "--model", "judge")
    assert status == 2 and message in said
    assert not server.asked and (folder / "in.json").read_bytes() == before


def test_registering_at_the_same_time_loses_no_entry(folder):
    """Each run reads the entries, adds its own and writes them all: they have to take turns."""
    names = [f"pairs_{number}" for number in range(3)]
    runs = [subprocess.Popen([*map(str, DATA), "register", name, str(folder / "in.json")]) for name in names]
    assert [run.wait(60) for run in runs] == [0] * len(names)
    assert sorted(json.loads((folder / "dataset_info.json").read_text())) == names


def test_register_says_when_training_would_not_find_the_images(folder):
    assert "give training the media_dir" not in data("register", "here", folder / "in.json")[1]
    status, said, _ = data("register", "there", folder / "in.json", "--dataset-dir", folder / "elsewhere")
    assert status == 0 and "give training the media_dir" in said


def test_a_device_that_is_not_there_gets_one_message(folder):
    from pair_data.score.checkpoints import choose_device

    assert choose_device("auto") == choose_device("cpu") == "cpu"
    with pytest.raises(DataError, match="--device gpu: "):
        choose_device("gpu")

"""`kill -9` at random moments of the writing commands: the input is whole, the output absent or complete.

UNI_DPO_KILLS=100 kills each command a hundred times. A command is added by a line in `COMMANDS`: a function that puts
what it reads into a folder, and returns its command line; everything it writes has to be in that folder too.
"""

import os
import random
import sys
import textwrap
import zipfile

import pytest
from data_cli import DATA
from killed import survives
from pairs import ROOT

from pair_data.writing import write_rows


KILLS = int(os.environ.get("UNI_DPO_KILLS", 6))
ROWS = 3000


def pairs(folder):
    """Write scored pairs as they are downloaded, and return their file."""
    rng = random.Random(0)
    file = folder / "in.json"
    write_rows(
        file,
        (
            {
                "instruction": f"<image>Question {i}?",
                "chosen": f"{rng.random()} " * 40,
                "rejected": f"{rng.random()} " * 30,
                "score_chosen": rng.random(),
                "score_rejected": rng.random(),
                "images": [f"/somebody/MM-RLHF/long/{i}.png"],
            }
            for i in range(ROWS)
        ),
    )
    return file


def paths(folder):
    listed = ["--missing", folder / "missing.jsonl"]
    return [*DATA, "paths", pairs(folder), "-o", folder / "out.jsonl", "--image-dir", folder / "here", *listed]


def paths_to_parquet(folder):
    return [*DATA, "paths", pairs(folder), "-o", folder / "out.parquet", "--image-dir", folder / "here"]


def paths_in_place(folder):
    return [*DATA, "paths", pairs(folder), "--in-place", "--image-dir", folder / "here"]


def change_data_image_path(folder):
    options = ["--input_file", pairs(folder), "--image_dir", folder / "here", "--output_file", folder / "out.json"]
    return [sys.executable, ROOT / "scripts" / "change_data_image_path.py", *options]


def register(folder):
    others = ", ".join(f'"data_{i}": {{"file_name": "{i}.json"}}' for i in range(2000))
    (folder / "dataset_info.json").write_text(f"{{{others}}}")
    return [*DATA, "register", "mine", pairs(folder)]


def unpack(folder):
    rng = random.Random(0)
    with zipfile.ZipFile(folder / "long.zip", "w") as archive:
        for i in range(400):
            archive.writestr(f"long/{i}.png", rng.randbytes(20_000))
    return [*DATA, "download", "--archive", folder / "long.zip", "--to", folder]


COMMANDS = {
    "paths": paths,
    "paths to Parquet": paths_to_parquet,
    "paths in place": paths_in_place,
    "change_data_image_path": change_data_image_path,
    "register": register,
    "unpack": unpack,
}


@pytest.mark.parametrize("name", COMMANDS)
def test_killed_at_any_moment(tmp_path, name):
    """Of a killed run nothing half written is left under a real name, and the next run needs no tidying up."""
    outcome = survives(tmp_path, COMMANDS[name](tmp_path), KILLS)
    print(f"{name}: {KILLS} kills, {outcome}")
    assert outcome.hit > 0, "no run was killed before its end"


CARELESS = {
    "in pieces": """
        with open("out", "w") as file:
            for _ in range(50):
                print("line", file=file, flush=True)
                time.sleep(0.01)
    """,
    "the input first": """
        open("in", "w").close()
        time.sleep(0.5)
        open("in", "w").write("new")
    """,
    "a scratch file of its own name each time": """
        name = f".{time.time()}.part"
        open(name, "w").close()
        time.sleep(0.5)
        os.replace(name, "out")
    """,
}


@pytest.mark.parametrize("way", CARELESS)
def test_careless_commands_are_found_out(tmp_path, way):
    """The helper sees a half-written output, an input that was emptied, and what a killed run leaves for ever."""
    (tmp_path / "in").write_text("old")
    program = f"import os, time\nos.chdir({str(tmp_path)!r})\n{textwrap.dedent(CARELESS[way])}"
    with pytest.raises(AssertionError, match="neither as before nor complete|did not give the same files"):
        survives(tmp_path, [sys.executable, "-c", program], 6)

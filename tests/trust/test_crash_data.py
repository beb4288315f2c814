"""`kill -9` at random moments of the writing commands: the input is whole, the output absent or complete.

UNI_DPO_KILLS=100 kills each command a hundred times. A command is added by a line in `COMMANDS`: a function that puts
what it reads into a folder, and returns its command line; everything it writes has to be in that folder too.
"""

import io
import os
import random
import sys
import textwrap
import zipfile

import pytest
from chat_server import ChatServer
from data_cli import DATA
from figures import times
from killed import contents, survives
from pairs import ROOT
from PIL import Image

from pair_data.rows import read_rows
from pair_data.writing import write_rows


KILLS = int(os.environ.get("UNI_DPO_KILLS", times(2, 30)))
ROWS = 3000
HARMLESS = "input whole, output absent or complete, and the next run mends it"


def pairs(folder, count=ROWS, images=True):
    """Write scored pairs as they are downloaded, and return their file."""
    rng = random.Random(0)
    file = folder / "in.json"
    write_rows(
        file,
        (
            {
                "instruction": f"{'<image>' * images}Question {i}?",
                "chosen": f"{rng.random()} " * 40,
                "rejected": f"{rng.random()} " * 30,
                "score_chosen": rng.random(),
                "score_rejected": rng.random(),
                "images": [f"/somebody/MM-RLHF/long/{i}.png"] * images,
            }
            for i in range(count)
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


def change_data_image_path_in_place(folder):
    options = ["--input_file", pairs(folder), "--image_dir", folder / "here"]
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


def questions(folder):
    """Write questions with ranked answers, each with its picture inside, and return their file."""
    drawn = io.BytesIO()
    Image.new("RGB", (28, 28), "red").save(drawn, "PNG")
    rng = random.Random(0)
    answers = [[{"response": f"{rng.random()} " * 30, "rank": rank} for rank in range(1, 5)] for _ in range(ROWS)]
    rows = (
        # A PNG ends at its last chunk: what follows makes a hundred different files of one picture.
        {"question": f"Question {i}?", "image": {"bytes": drawn.getvalue() + bytes([i % 100])}, "responses": listed}
        for i, listed in enumerate(answers)
    )
    write_rows(folder / "in.parquet", rows)
    return folder / "in.parquet"


def convert(folder):
    return [*DATA, "convert", questions(folder), "-o", folder / "out.json", "--pairs", "adjacent"]


def pairs_of_answers(folder):
    rng = random.Random(0)
    rows = (
        {"instruction": f"Question {i}?", "images": [], "answers": [
            {"text": f"{rng.random()} " * 30, "cut": False, "score": rng.random()} for _ in range(4)
        ]}
        for i in range(ROWS)
    )  # fmt: skip
    write_rows(folder / "scored.jsonl", rows)
    mixed = ["--mix", pairs(folder, images=False), "--mix-share", "0.3", "--report", folder / "report.json"]
    return [*DATA, "pairs", folder / "scored.jsonl", "-o", folder / "out.json", "--pairs", "all", *mixed]


def check_and_fix(folder):
    file = pairs(folder)
    rows = [row | {"chosen": "" if number % 50 == 0 else row["chosen"]} for number, row in enumerate(read_rows(file))]
    write_rows(file, rows)
    written = ["--findings", folder / "findings.jsonl", "--fix", folder / "out.parquet"]
    return [*DATA, "check", file, "--no-images", *written]


def stats(folder):
    return [*DATA, "stats", pairs(folder), "--no-images", "--out", folder / "stats"]


COMMANDS = {
    "convert": convert,
    "pairs": pairs_of_answers,
    "check and fix": check_and_fix,
    "stats": stats,
    "paths": paths,
    "paths to Parquet": paths_to_parquet,
    "paths in place": paths_in_place,
    "change_data_image_path": change_data_image_path,
    "change_data_image_path in place": change_data_image_path_in_place,
    "register": register,
    "unpack": unpack,
}


EACH_SORT = ("convert", "check and fix", "paths in place")  # of how a command writes


@pytest.mark.parametrize(
    "name", [pytest.param(it, marks=[] if it in EACH_SORT else [pytest.mark.long]) for it in COMMANDS]
)
def test_killed_at_any_moment(tmp_path, figure, name):
    """Of a killed run nothing half written is left under a real name, and the next run needs no tidying up."""
    outcome = survives(tmp_path, COMMANDS[name](tmp_path), KILLS)
    assert outcome.hit > 0, "no run was killed before its end"
    figure("2 crash", f"a data command killed: {name}", outcome.hit, f"{outcome.writing} while writing; {HARMLESS}")


def test_killed_while_scoring(tmp_path, figure):
    """The same where answers come from an endpoint; its cache, which grows, lies elsewhere."""
    folder = tmp_path / "data"
    folder.mkdir()
    with ChatServer(lambda asked, _: f"Score: {len(asked.text) % 10}") as server:
        command = [
            *DATA,
            "score",
            pairs(folder, 60, images=False),
            "-o",
            folder / "out.json",
            "--overwrite",
            "--endpoint",
            server.url,
        ]
        command += ["--model", "judge", "--cache", tmp_path / "cache.sqlite"]
        before = contents(folder)
        survives(folder, command, 0, OPENAI_API_KEY="none")  # fills the cache, so that the others take equally long
        for name in contents(folder).keys() - before.keys():
            (folder / name).unlink()
        outcome = survives(folder, command, KILLS, OPENAI_API_KEY="none")
    assert outcome.hit > 0 and len(server.asked) <= 60 * 2 + 8 * KILLS, "what was scored is asked for again"
    figure("2 crash", "a data command killed: score", outcome.hit, f"{outcome.writing} while writing; {HARMLESS}")


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

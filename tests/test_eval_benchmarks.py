"""Benchmarks with odd cells, odd pictures and rows that cannot score: right, or refused with their rows.

What is asked of the batched runner is asked of VLMEvalKit's own loop too, where our class corrects the data set.
"""

import base64
import json
import os
import shutil

import pandas as pd
import pytest
from eval_sets import DEMO, MCQ, VQA, YORN, picture, rows, table_of, write, write_config
from eval_tree import TREES, vlmevalkit
from PIL import Image


ROWS = 4
NOTHING = ["NA", "null", "nan", "N/A"]  # what pandas takes for an empty cell, beside "None"
KINDS = [("CMYK", "JPEG"), ("I;16", "PNG"), ("P", "GIF"), ("LA", "PNG")]
CHOICE = {"A": "one", "B": "two", "answer": ["A", "B", "A", "B"], "category": "all"}
HALF = picture(1)[: len(picture(1)) // 2]
SETS = {
    # An option "None" that is the answer, options that look like no text, and numbers beside an empty cell.
    "Words_MCQ": (MCQ, rows(A="red", B="None", C=NOTHING, D=["007", "1", "", "2.50"], answer="B", category="all")),
    "Count_VQA": (VQA, rows(answer=str(["3"] * 4))),
    "Kinds_MCQ": (MCQ, rows(**CHOICE, image=[picture(i, *kind) for i, kind in enumerate(KINDS)])),
    "Half_MCQ": (MCQ, rows(**CHOICE, image=[picture(0), HALF, picture(2), HALF])),
    "Low_YORN": (YORN, rows(answer=["Yes", "no", "Yes", "yes"])),
    "Plain_VQA": (VQA, rows(answer="12")),
    "Twice_MCQ": (MCQ, rows(**CHOICE, index=[0, 1, 1, 3])),
    "Empty_MCQ": (MCQ, rows(**CHOICE, image=[picture(0), "", picture(2), ""])),
    "Lost_MCQ": (MCQ, rows(**CHOICE | {"answer": ["A", "C", "a", "B"]})),
    "Text_OCR": ("OCRBench", rows(answer="12", category="Digit String Recognition")),
    "Splits_MCQ": (MCQ, rows(**CHOICE, split=["dev", "", "dev", "dev"])),
    "Own_MCQ": (MCQ, rows(**CHOICE)),
}
REFUSED = {
    "Half_MCQ": ["row 1 (the first is 0)", "row 3", "index 3 cannot be read", "truncated"],
    "Low_YORN": ["rows 1, 3 (the first is 0)", "neither Yes nor No"],
    "Plain_VQA": ["rows 0, 1, 2, 3", "list of 4 equal ones"],
    "Twice_MCQ": ["rows 1, 2 (the first is 0)", "another row has as well"],
    "Empty_MCQ": ["rows 1, 3 (the first is 0)", "no picture"],
    "Lost_MCQ": ["rows 1, 2 (the first is 0)", "none of their options' letters"],
    "Text_OCR": ["rows 0, 1, 2, 3", "no list of texts"],
    "Splits_MCQ": ["score is no number"],
}


class World:
    """A folder with the benchmarks, and both loops over one of them; `work` and `theirs` have what they left."""

    def __init__(self, kit, folder):
        """Write the benchmarks."""
        self.kit, self.folder, self.data = kit, folder, folder / "data"
        self.entries = {name: {"class": kind, "dataset": name} for name, (kind, _) in SETS.items()}
        for name, (_, table) in SETS.items():
            write(self.data, name, table)

    def config(self, *names):
        """Write a config with some of them."""
        chosen = {name: self.entries[name] for name in names}
        return ["--config", write_config(self.folder / "config.json", DEMO, chosen, max_new_tokens=4)]

    def run(self, name, *options, work="work"):
        """Give our command."""
        return self.kit.run(self.data, *self.config(name), "--work-dir", self.folder / work, *options)

    def loop(self, name, *options, work="theirs"):
        """Run VLMEvalKit's own loop."""
        judge = ["--judge", "exact_matching", "--work-dir", self.folder / work]
        return self.kit.loop(self.data, *self.config(name), *judge, *options)

    def score_of(self, name, said, work="work"):
        """Put answers of our own in place of the model's and score them."""
        for path in (self.folder / work / "tiny").rglob(f"tiny_{name}.xlsx"):
            table = pd.read_excel(path, dtype=str, keep_default_na=False)
            table.assign(prediction=said).to_excel(path, index=False)
        done = self.run(name, "--mode", "eval", "--no-reuse")
        assert done.exit == 0, done.text
        return self.score(name)

    def score(self, name, work="work"):
        """The headline."""
        return float(pd.read_csv(next((self.folder / work).rglob(f"tiny_{name}_acc.csv")))["Overall"].iloc[0])

    def table(self, name, work="work"):
        """The prediction file."""
        return table_of(self.folder / work, name)

    def kept(self, name):
        """The pictures on the disk."""
        return {path.read_bytes() for path in (self.data / "images" / "uni_dpo" / name).iterdir()}

    def change(self, **columns):
        """Change columns of a benchmark's file."""
        table = pd.read_csv(self.data / "Own_MCQ.tsv", sep="\t").assign(**columns)
        table.to_csv(self.data / "Own_MCQ.tsv", sep="\t", index=False)


@pytest.fixture(scope="module", params=TREES, ids=str)
def world(request, tmp_path_factory):
    return World(vlmevalkit(request.param), tmp_path_factory.mktemp("odd"))


def test_cells_that_pandas_takes_for_empty_reach_prompt_and_score(world):
    """And --verbose prints prompts and answers of the first rows."""
    done = world.run("Words_MCQ", "--verbose")
    assert done.exit == 0 and done.text.count("--- tiny on Words_MCQ, row") == 3, done.text
    for option in ("B. None\n", "C. NA\n", "C. null\n", "C. nan\n", "D. 007\n", "D. 1\n"):
        assert option in done.text, option
    assert "D. \n" not in done.text and "D. nan" not in done.text
    assert world.loop("Words_MCQ").exit == 0
    ours, theirs = (world.table("Words_MCQ", work) for work in ("work", "theirs"))
    assert list(ours["B"]) == ["None"] * ROWS and list(ours["C"]) == NOTHING and ours["D"][3] == "2.50"
    pd.testing.assert_frame_equal(ours, theirs)
    # By hand: B, its text, B and A to four rows of which B is right; 3, nothing, 3 and 3 where three is right.
    assert world.score_of("Words_MCQ", ["B", "None", "B", "A"]) == 0.75
    assert world.run("Count_VQA", "--mode", "infer").exit == 0
    assert world.score_of("Count_VQA", ["3", "", "3", "3"]) == 75.0


def test_pictures_of_every_kind_are_those_of_the_file(world):
    """In VLMEvalKit itself a CMYK picture fails the whole benchmark."""
    for start, work in ((world.run, "work"), (world.loop, "theirs")):
        done = start("Kinds_MCQ")
        assert done.exit == 0 and len(world.table("Kinds_MCQ", work)) == ROWS, done.text
    assert world.kept("Kinds_MCQ") == {base64.b64decode(row["image"]) for row in SETS["Kinds_MCQ"][1]}


def test_what_cannot_score_is_refused_with_its_rows(world):
    done = world.kit.run(world.data, *world.config(*REFUSED), "--work-dir", world.folder / "refused")
    assert done.exit == 1 and "Traceback" not in done.text
    for name, words in REFUSED.items():
        message = done.text.rpartition(f"FAILED tiny {name}: ")[2].partition("FAILED tiny")[0]
        assert [part for part in words if part not in message] == [], message
        left = list((world.folder / "refused").rglob(f"tiny_{name}.xlsx"))
        assert not left or name == "Splits_MCQ", "refused before anything was answered"


def test_vlmevalkits_own_loop_hears_of_bad_rows(world):
    """It continues with the next benchmark and exits with 0; its log and its status.json, if it has one, say why."""
    world.loop("Half_MCQ", work="half")
    assert not list((world.folder / "half").rglob("tiny_Half_MCQ_acc.csv"))
    status = [json.loads(path.read_text())["datasets"] for path in (world.folder / "half").rglob("status.json")]
    messages = [entry["Half_MCQ"]["error_message"] for entry in status if "Half_MCQ" in entry]
    assert all("the picture of index 1 cannot be read" in text for text in messages)


def test_answers_and_scores_are_taken_again_only_if_nothing_has_changed(world):
    """Corrected answers turn right into wrong, and the answers of the model stay; other pictures are asked anew."""
    older = world.data / "images" / "Own_MCQ"
    older.mkdir(parents=True)  # an older file's picture, where VLMEvalKit looks
    for end in ("jpg", "png"):
        Image.new("RGB", (84, 56)).save(older / f"0.{end}")
    assert world.run("Own_MCQ").exit == 0
    assert f"{ROWS} rows reused" in world.run("Own_MCQ").text
    world.change(answer=["B", "A", "B", "A"])
    stale = world.run("Own_MCQ", "--mode", "eval")
    assert stale.exit == 1 and "has changed since" in stale.text
    assert f"{ROWS} rows reused" in world.run("Own_MCQ").text
    hits = world.table("Own_MCQ_exact_matching_result")["hit"].astype(float)
    assert world.score("Own_MCQ") == hits.mean() and list(world.table("Own_MCQ")["answer"]) == ["B", "A", "B", "A"]
    world.change(category=["some", "all", "all", "all"])
    assert world.run("Own_MCQ").exit == 0
    assert "some" in next((world.folder / "work").rglob("tiny_Own_MCQ_acc.csv")).read_text()
    # Another judge, and no reuse, score afresh.
    assert world.run("Own_MCQ", "--judge-args", '{"retry": 1}').exit == 0
    assert f"{ROWS} rows, {ROWS} answered" in world.run("Own_MCQ", "--no-reuse").text
    assert len(list((world.folder / "work" / "tiny" / "answers").glob("replaced-*-Own_MCQ*"))) >= 4
    world.change(image=[row["image"] for row in rows(first=100)])
    assert f"{ROWS} rows, {ROWS} answered" in world.run("Own_MCQ").text
    assert world.kept("Own_MCQ") == {base64.b64decode(row["image"]) for first in (0, 100) for row in rows(first=first)}
    world.loop("Own_MCQ")
    said = [list(world.table("Own_MCQ", work)["prediction"]) for work in ("work", "theirs")]
    assert said[0] == said[1], "VLMEvalKit's own loop sees them too, although images/Own_MCQ has an older one"


def test_half_written_verdicts_and_a_judge_that_is_not_there(world):
    """Killed while it scored, and then scored alone; and VLMEvalKit would match answers under a judge's name."""
    assert world.run("Own_MCQ", work="cut").exit == 0
    note = world.folder / "cut" / "tiny" / "answers" / "Own_MCQ.json"
    for state in ("scoring", "written"):  # matching begins anew; the verdicts of an API that can be read are kept
        note.write_text(json.dumps(json.loads(note.read_text()) | {"state": state}))
        for path in (world.folder / "cut").rglob("tiny_Own_MCQ_*.pkl"):
            path.write_bytes(path.read_bytes()[:20])
        done = world.run("Own_MCQ", "--mode", "eval", work="cut")
        assert done.exit == 0, done.text
    done = world.run("Own_MCQ", "--judge", "gpt-4o-mini", work="cut")
    assert done.exit == 1 and "judge gpt-4o-mini does not answer (OPENAI_API_KEY is not set)" in done.text
    assert not list((world.folder / "cut").rglob("*gpt-4o-mini*"))
    done = world.run("Own_MCQ", "--batch-size", "-1", work="cut")
    assert done.exit == 2 and "--batch-size" in done.text


def test_old_verdicts_of_parts_and_sets_without_answers(world, tmp_path):
    """A set of sets scores each under its own name; some tests keep their answers to themselves."""
    for name in ("tiny_Whole.xlsx", "tiny_Part_a_judge_result.pkl", "tiny_Part_b.xlsx", "tiny_Party.xlsx"):
        (tmp_path / "tiny").mkdir(exist_ok=True)
        (tmp_path / "tiny" / name).write_text("x")
    asked = {"work_dir": str(tmp_path), "data": "Whole", "parts": ["Part_a", "Part_b"]}
    assert world.kit.ask("set_aside", **asked) == ["tiny_Party.xlsx"]
    sets = {"MMMU_TEST": ["A"], "Own": ["A", None], "Hidden": [None, ""], "MMBench_TEST_EN": ["A"]}
    found = world.kit.ask("not_scored", sets=sets)
    assert found["MMMU_TEST"] == "official_submission_only" and not found["Own"]
    assert found["Hidden"] == "no_answers_in_data_set" and "official" in found["MMBench_TEST_EN"]


def test_a_judge_of_the_config_does_not_get_lost_in_run_py(world):
    """The loop takes it from its command line alone, and would ask an API model."""
    (_, path), work = world.config("Own_MCQ"), world.folder / "judged"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"judge": "exact_matching"}))
    arguments = ["--config", path, "--work-dir", work, "--mode=all"]
    lost = world.kit.loop(world.data, *arguments)
    assert lost.exit == 1 and "add --judge exact_matching" in lost.text
    assert world.kit.loop(world.data, *arguments, "--judge=exact_matching").exit == 0
    shutil.rmtree(work)


def test_an_outdated_copy_of_a_large_file_is_refused(world):
    """VLMEvalKit unpacks a TSV above 1 GB once, and never looks at it again."""
    (world.data / "Large_MCQ_local.tsv").write_text("index\n")
    os.utime(world.data / "Large_MCQ_local.tsv", (0, 0))
    with (world.data / "Large_MCQ.tsv").open("wb") as file:
        file.truncate((1 << 30) + 1)  # takes no room on the disk
    done = world.run("Own_MCQ", "--data", "Large_MCQ")
    assert done.exit == 1 and "Large_MCQ_local.tsv, which is older than" in done.text

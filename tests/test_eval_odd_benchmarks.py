"""Benchmarks with odd cells, odd pictures and rows that cannot score: right, or refused with their rows.

What is asked of the batched runner is asked of VLMEvalKit's own loop too, where our class mends the data set.
"""

import base64
import io
import json
import os
import random
from pathlib import Path

import pandas as pd
import pytest
from eval_tree import TREES, answer_of, overlaid
from PIL import Image


DEMO = Path(__file__).resolve().parents[1] / "data" / "demo" / "checkpoint"
MCQ, YORN, VQA = "ImageMCQDataset", "ImageYORNDataset", "ImageVQADataset"
ROWS = 4
NOTHING = ("NA", "null", "nan", "N/A")  # what pandas takes for an empty cell, beside "None"
KINDS = [("CMYK", "JPEG"), ("I;16", "PNG"), ("P", "GIF"), ("LA", "PNG")]


def picture(seed, mode="RGB", kind="PNG"):
    """A picture of noise, as base64."""
    pixels = random.Random(seed).randbytes(3 * 84 * 56)
    image = Image.frombytes("RGB", (84, 56), pixels)
    image = Image.frombytes("I;16", (84, 56), pixels[: 2 * 84 * 56]) if mode == "I;16" else image.convert(mode)
    content = io.BytesIO()
    image.save(content, kind)
    return base64.b64encode(content.getvalue()).decode()


def rows(first=0, **columns):
    """Rows of a benchmark; a column's value is the same for all, or one for each."""
    return [
        {"index": i, "question": "What is it?", "image": picture(first + i)}
        | {name: value[i] if isinstance(value, list | tuple) else value for name, value in columns.items()}
        for i in range(ROWS)
    ]


def pictures_of(table, images):
    return [row | {"image": image} for row, image in zip(table, images, strict=True)]


CHOICE = {"A": "one", "B": "two", "answer": ["A", "B", "A", "B"], "category": "all"}
HALF = picture(1)[: len(picture(1)) // 2]
SETS = {
    # An option "None" that is the answer, options that look like no text, and numbers beside an empty cell.
    "Words_MCQ": (MCQ, rows(A="red", B="None", C=NOTHING, D=["007", "1", "", "2.50"], answer="B", category="all")),
    "Count_VQA": (VQA, rows(answer=str(["3"] * 4))),
    "Kinds_MCQ": (MCQ, pictures_of(rows(**CHOICE), [picture(i, *kind) for i, kind in enumerate(KINDS)])),
    "Half_MCQ": (MCQ, pictures_of(rows(**CHOICE), [picture(0), HALF, picture(2), HALF])),
    "Low_YORN": (YORN, rows(answer=["Yes", "no", "Yes", "yes"])),
    "Plain_VQA": (VQA, rows(answer="12")),
    "Twice_MCQ": (MCQ, [row | {"index": [0, 1, 1, 3][i]} for i, row in enumerate(rows(**CHOICE))]),
    "Empty_MCQ": (MCQ, pictures_of(rows(**CHOICE), [picture(0), "", picture(2), ""])),
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


def write(folder, name, table):
    folder.mkdir(exist_ok=True)
    pd.DataFrame(table).to_csv(folder / f"{name}.tsv", sep="\t", index=False)


@pytest.fixture(scope="module", params=TREES, ids=str)
def found(request, tmp_path_factory):
    """Runs of both loops, one after the other in one process; `folder` has what they left."""
    folder = tmp_path_factory.mktemp("odd")
    data = folder / "data"
    for name, (_, table) in SETS.items():
        write(data, name, table)
    (data / "images" / "Own_MCQ").mkdir(parents=True)  # an older file's picture, where VLMEvalKit looks
    for end in ("jpg", "png"):
        Image.new("RGB", (84, 56)).save(data / "images" / "Own_MCQ" / f"0.{end}")
    config = {"model": {"tiny": {"class": "UniDPOQwen2VL", "model_path": str(DEMO), "max_new_tokens": 4}}}
    entries = {name: {"class": kind, "dataset": name} for name, (kind, _) in SETS.items()}
    for name, chosen in {"all": entries, **{name: {name: entries[name]} for name in entries}}.items():
        (folder / f"{name}.json").write_text(json.dumps(config | {"data": chosen}))

    def run(name, work="work", *options):
        return ["--config", str(folder / f"{name}.json"), "--work-dir", str(folder / work), *options]

    def loop(name, work="theirs", *options):
        return {"loop": run(name, work, "--judge", "exact_matching", *options)}

    def code(text):
        return {"prepare": f"import pandas as pd\nfrom pathlib import Path\nfolder = Path({str(folder)!r})\n{text}"}

    def set_answers(name, said):
        """Put answers of our own in place of the model's."""
        return code(
            f"for path in (folder / 'work' / 'tiny').rglob('tiny_{name}.xlsx'):\n"
            "    table = pd.read_excel(path, dtype=str, keep_default_na=False)\n"
            f"    table.assign(prediction={said!r}).to_excel(path, index=False)"
        )

    def keep(name):
        return code(f"import shutil; shutil.copytree(folder / 'work' / 'tiny', folder / {name!r})")

    other = "table = pd.read_csv(folder / 'data' / 'Own_MCQ.tsv', sep='\\t')\n"
    save = "table.to_csv(folder / 'data' / 'Own_MCQ.tsv', sep='\\t', index=False)"
    new = [row["image"] for row in rows(first=100)]
    requests = {
        "words": run("Words_MCQ", "work", "--verbose"),
        "kinds": run("Kinds_MCQ"),
        "refused": run("all", "refused", "--data", *REFUSED),
        "words_theirs": loop("Words_MCQ"),
        "kinds_theirs": loop("Kinds_MCQ"),
        "half_theirs": loop("Half_MCQ"),
        "count": run("Count_VQA", "work", "--mode", "infer"),
        "say_words": set_answers("Words_MCQ", ["B", "None", "B", "A"]),
        "words_scored": run("Words_MCQ", "work", "--mode", "eval", "--no-reuse"),
        "say_counts": set_answers("Count_VQA", ["3", "", "3", "3"]),
        "count_scored": run("Count_VQA", "work", "--mode", "eval", "--no-reuse"),
        "own": run("Own_MCQ"),
        "keep_own": keep("first"),
        "own_again": run("Own_MCQ"),
        "correct": code(f"{other}table['answer'] = ['B', 'A', 'B', 'A']\n{save}"),
        "own_eval": run("Own_MCQ", "work", "--mode", "eval"),
        "own_corrected": run("Own_MCQ"),
        "keep_corrected": keep("second"),
        "recategorise": code(f"{other}table['category'] = ['some', 'all', 'all', 'all']\n{save}"),
        "own_recategorised": run("Own_MCQ"),
        "keep_recategorised": keep("third"),
        "own_judged": run("Own_MCQ", "work", "--judge-args", '{"retry": 1}'),
        "own_afresh": run("Own_MCQ", "work", "--no-reuse"),
        "repaint": code(f"{other}table['image'] = {new!r}\n{save}"),
        "own_repainted": run("Own_MCQ"),
        "own_theirs": loop("Own_MCQ"),
        "no_judge": {"loop": run("judged", "judged")},
        "own_judge": {"loop": run("judged", "judged", "--judge", "exact_matching", "--mode", "infer")},
    }
    (data / "Large_MCQ_local.tsv").write_text("index\n")
    os.utime(data / "Large_MCQ_local.tsv", (0, 0))
    with (data / "Large_MCQ.tsv").open("wb") as file:
        file.truncate((1 << 30) + 1)  # takes no room on the disk
    requests["large"] = [*run("judged", "work"), "--data", "Large_MCQ"]
    judged = config | {"data": {"Own_MCQ": entries["Own_MCQ"]}, "judge": "exact_matching"}
    (folder / "judged.json").write_text(json.dumps(judged))
    os.environ["LMUData"] = str(data)
    return answer_of(overlaid(request.param, folder / "tree"), "eval_runs.py", requests, folder) | {"folder": folder}


def predictions(found, name, work="work"):
    path = next((found["folder"] / work).rglob(f"tiny_{name}.xlsx"))
    return pd.read_excel(path, dtype=str, keep_default_na=False)


def score(folder, name):
    path = next(folder.rglob(f"tiny_{name}_acc.csv"))
    return float(pd.read_csv(path)["Overall"].iloc[0])


def test_cells_that_pandas_takes_for_empty_reach_the_prompt(found):
    """And --verbose prints prompts and answers of the first rows."""
    assert found["words"]["exit"] == 0, found["words"]["text"]
    text = found["words"]["text"]
    assert text.count("--- tiny on Words_MCQ, row") == 3
    for option in ("B. None\n", "C. NA\n", "C. null\n", "C. nan\n", "D. 007\n", "D. 1\n"):
        assert option in text, option
    assert "D. \n" not in text and "D. nan" not in text
    table = predictions(found, "Words_MCQ")
    assert list(table["B"]) == ["None"] * ROWS and tuple(table["C"]) == NOTHING and table["D"][3] == "2.50"


def test_they_reach_the_prompt_and_the_score_in_vlmevalkits_own_loop(found):
    ours = predictions(found, "Words_MCQ", "work")
    theirs = predictions(found, "Words_MCQ", "theirs")
    assert found["words_theirs"]["exit"] == 0
    assert list(theirs.drop(columns="prediction")) == list(ours.drop(columns="prediction"))
    assert tuple(theirs["C"]) == NOTHING and list(theirs["B"]) == ["None"] * ROWS


def test_such_options_and_answers_are_scored(found):
    """By hand: B, its text, B and A to four rows of which B is right; 3, nothing, 3 and 3 where three is right."""
    assert found["words_scored"]["exit"] == found["count_scored"]["exit"] == 0, found["words_scored"]["text"]
    assert score(found["folder"] / "work", "Words_MCQ") == 0.75
    assert score(found["folder"] / "work", "Count_VQA") == 75.0


@pytest.mark.parametrize("work", ["work", "theirs"])
def test_pictures_of_every_kind_are_those_of_the_file(found, work):
    """In VLMEvalKit itself a CMYK picture fails the whole benchmark."""
    name = "kinds" if work == "work" else "kinds_theirs"
    assert found[name]["exit"] == 0, found[name]["text"]
    assert len(predictions(found, "Kinds_MCQ", work)) == ROWS
    kept = {path.read_bytes() for path in (found["folder"] / "data" / "images" / "uni_dpo" / "Kinds_MCQ").iterdir()}
    assert kept == {base64.b64decode(row["image"]) for row in SETS["Kinds_MCQ"][1]}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_score_is_refused_with_its_rows(found, name):
    assert found["refused"]["exit"] == 1
    told = found["refused"]["text"].rpartition(f"FAILED tiny {name}: ")[2].partition("FAILED tiny")[0]
    for words in REFUSED[name]:
        assert words in told, told
    left = list((found["folder"] / "refused").rglob(f"tiny_{name}.xlsx"))
    assert not left or name == "Splits_MCQ", "refused before anything was answered"


def test_vlmevalkits_own_loop_hears_of_bad_rows(found):
    """It goes on with the next benchmark and exits with 0; its log and its status.json, if it has one, say why."""
    folder = found["folder"] / "theirs"
    assert not list(folder.rglob("tiny_Half_MCQ_acc.csv"))
    status = [json.loads(path.read_text())["datasets"] for path in folder.rglob("status.json")]
    told = [entry["Half_MCQ"]["error_message"] for entry in status if "Half_MCQ" in entry]
    assert all("the picture of index 1 cannot be read" in text for text in told)


def test_a_score_is_taken_again_only_if_nothing_has_changed(found):
    """Corrected answers turn right into wrong, and the answers of the model stay."""
    folder = found["folder"]
    assert f"{ROWS} rows reused" in found["own_again"]["text"]
    assert found["own_eval"]["exit"] == 1 and "has changed since" in found["own_eval"]["text"]
    assert f"{ROWS} rows reused" in found["own_corrected"]["text"]
    hits = [
        predictions(found, "Own_MCQ_exact_matching_result", work)["hit"].astype(float) for work in ("first", "second")
    ]
    assert score(folder / "second", "Own_MCQ") == hits[1].mean()
    right = predictions(found, "Own_MCQ", "second")
    assert list(right["answer"]) == ["B", "A", "B", "A"]
    assert "some" in next((folder / "third").rglob("tiny_Own_MCQ_acc.csv")).read_text()


def test_another_judge_or_no_reuse_scores_afresh(found):
    assert found["own_judged"]["exit"] == found["own_afresh"]["exit"] == 0
    assert f"{ROWS} rows, {ROWS} answered" in found["own_afresh"]["text"]
    aside = list((found["folder"] / "work" / "tiny" / "answers").glob("replaced-*-Own_MCQ*"))
    assert len(aside) >= 4


def test_other_pictures_under_the_same_index_are_asked_anew(found):
    assert f"{ROWS} rows, {ROWS} answered" in found["own_repainted"]["text"]
    kept = {path.read_bytes() for path in (found["folder"] / "data" / "images" / "uni_dpo" / "Own_MCQ").iterdir()}
    assert kept == {base64.b64decode(row["image"]) for first in (0, 100) for row in rows(first)}
    both = [list(predictions(found, "Own_MCQ", work)["prediction"]) for work in ("work", "theirs")]
    assert both[0] == both[1], "VLMEvalKit's own loop sees them too, although images/Own_MCQ has an older one"


def test_a_judge_of_the_config_does_not_get_lost_in_run_py(found):
    """The loop takes it from its command line alone, and would ask an API model."""
    assert found["no_judge"]["exit"] == 1 and "add --judge exact_matching" in found["no_judge"]["text"]
    assert found["own_judge"]["exit"] == 0


def test_an_outdated_copy_of_a_large_file_is_refused(found):
    """VLMEvalKit unpacks a TSV above 1 GB once, and never looks at it again."""
    assert found["large"]["exit"] == 1
    assert "Large_MCQ_local.tsv, which is older than" in found["large"]["text"]

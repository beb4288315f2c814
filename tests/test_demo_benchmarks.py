"""The demo world's benchmarks: fair questions about held-out scenes, which VLMEvalKit loads, asks and scores."""

import json
import os
import subprocess
import sys
from collections import Counter

import pandas as pd
import pytest
from PIL import Image, ImageChops

from demo.benchmarks import MCQ, SHORT, YES_NO, benchmark_questions, data_config, stem, write_benchmarks
from demo.command import main
from demo.questions import CHOICE_SUFFIX, SHORT_SUFFIX, YES_NO_SUFFIX
from demo.rule import judge
from demo.scene import split_of
from summarize_eval.command import main as summarize


ROWS = 24
# Run as VLMEvalKit runs a config: build each data set, word the prompts, score each prediction file.
SCRIPT = """
import json, sys
from vlmeval.run import build_dataset_from_config
from vlmeval.vlm.qwen2_vl.prompt import Qwen2VLPromptMixin

class Asker(Qwen2VLPromptMixin):
    pass

config, work, models = json.loads(sys.argv[1]), sys.argv[2], sys.argv[3:]
asker, said = Asker(), {}
for name in config:
    data = build_dataset_from_config(config, name)
    asker.set_dump_image(data.dump_image)
    custom = asker.use_custom_prompt(name)
    rows = [data.data.iloc[number] for number in range(len(data.data))]
    said[name] = [asker.build_prompt(row, name) if custom else data.build_prompt(row) for row in rows]
    for model in models:
        data.evaluate(f"{work}/{model}/{model}_{name}.xlsx", model="exact_matching")
json.dump(said, open(f"{work}/prompts.json", "w"))
"""


@pytest.fixture(scope="module")
def asked():
    return benchmark_questions(ROWS, 0, "test")


@pytest.fixture(scope="module")
def scored(tmp_path_factory, asked):
    """A work folder with a careful and a wrong model's answers, scored by VLMEvalKit, and the prompts it asked."""
    root = tmp_path_factory.mktemp("demo")
    paths = write_benchmarks(root / "data", ROWS)
    for name, path in paths.items():
        table = pd.read_csv(path, sep="\t").drop(columns="image")
        answers = {
            "careful": [question.answer for question, _ in asked[name]],
            "wrong": [wrong_answer(name, truth) for truth in table["answer"]],
        }
        for model, prediction in answers.items():
            folder = root / "work" / model
            folder.mkdir(parents=True, exist_ok=True)
            table.assign(prediction=prediction).to_excel(folder / f"{model}_{name}.xlsx", index=False)
    arguments = [json.dumps(data_config()), str(root / "work"), "careful", "wrong"]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "LMUData": str(root / "data")},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return root


def wrong_answer(name, truth):
    if name == MCQ:
        return "ABCD"[("ABCD".index(truth) + 1) % 4]
    return {"Yes": "No.", "No": "Yes."}.get(truth, "nothing")


def test_vlmevalkit_gives_careful_answers_full_score_and_wrong_ones_none(scored, tmp_path):
    status = summarize([str(scored / "work"), "--out", str(tmp_path), "--baseline", "wrong"])
    assert status == 0
    found = json.loads((tmp_path / "table.json").read_text())
    assert sorted(found["benchmarks"]) == sorted(data_config())
    for entry in found["results"]:
        full = entry["checkpoint"] == "careful"
        assert entry["value"] == (100.0 if full else 0.0), entry
        assert entry["questions"] == ROWS and entry["note"] == ""
        assert not full or (entry["low"], entry["high"]) == (100.0, 100.0)


def test_vlmevalkit_asks_as_the_world_was_taught(scored, asked):
    """The forms of `demo.questions`, to the last blank, and the pictures that were drawn."""
    prompts = json.loads((scored / "work" / "prompts.json").read_text())
    for name, items in asked.items():
        assert len(prompts[name]) == ROWS
        for (question, image), (picture, text) in zip(items, prompts[name], strict=True):
            assert text["value"] == expected(name, question)
            with Image.open(picture["value"]) as seen:  # VLMEvalKit may unpack a file's text into JPEG or PNG
                assert ImageChops.difference(seen.convert("RGB"), image).getbbox() is None


def expected(name, question):
    if name == MCQ:
        options = [f"{letter}. {option}" for letter, option in zip("ABCD", question.options, strict=True)]
        return "\n".join([f"Question: {stem(question)}", "Options:", *options, CHOICE_SUFFIX])
    return stem(question) + (YES_NO_SUFFIX if name == YES_NO else SHORT_SUFFIX)


def test_questions_are_held_out_balanced_and_different(asked):
    for items in asked.values():
        assert len(items) == ROWS
        assert all(split_of(question.scene) == "test" for question, _ in items)
        assert len({(question.scene.key, stem(question), question.options) for question, _ in items}) == ROWS
        assert all(judge(question, question.answer).right for question, _ in items)
        assert not any(ending in stem(question) for question, _ in items for ending in ("Options", "please", " A. "))
    truths = Counter(question.truth for question, _ in asked[YES_NO])
    assert truths == {"yes": ROWS // 2, "no": ROWS // 2}
    kinds = Counter(question.kind for question, _ in asked[SHORT])
    assert kinds == dict.fromkeys(("colour", "count", "position", "number"), ROWS // 4)


def test_the_command_writes_files_and_a_config_for_them(tmp_path):
    """The same arguments give the same files, and a file that changes drops what was unpacked from the old one.

    VLMEvalKit unpacks an image once and then takes what is there.
    """

    def write(folder, *words):
        assert main(["benchmarks", "--out", str(tmp_path / folder), *words]) == 0
        return {path.name: path.read_bytes() for path in (tmp_path / folder).iterdir() if path.is_file()}

    first = write("a", "--rows", "8")
    config = json.loads(first["config.json"])
    assert sorted(first) == sorted([*(f"{name}.tsv" for name in config["data"]), "config.json"])
    assert config["data"] == data_config() and len(config["data"]) == 4
    assert all(len(pd.read_csv(path, sep="\t")) == 8 for path in (tmp_path / "a").glob("*.tsv"))
    assert [model["class"] for model in config["model"].values()] == ["UniDPOVLM"]
    unpacked = tmp_path / "a" / "images" / MCQ / "0.png"
    unpacked.parent.mkdir(parents=True)
    unpacked.touch()
    assert write("a", "--rows", "8") == first and unpacked.exists()
    other = write("a", "--rows", "8", "--seed", "1")
    assert all(other[name] != first[name] for name in first if name.endswith(".tsv")) and not unpacked.exists()


def test_too_many_rows_are_refused(tmp_path):
    with pytest.raises(ValueError, match="too few scenes for 440 rows .*number.*: ask for fewer"):
        write_benchmarks(tmp_path / "new", 440)
    assert not (tmp_path / "new").exists()

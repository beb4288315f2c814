"""`check` with a model: exactly the pairs that training would cut, and exactly the data that a YAML names."""

import json
import os

import pytest
from checking import SCORED, check, good_rows, kinds_found, write
from pairs import as_sharegpt, options, train, write_dataset
from PIL import Image

from llamafactory.data.processor import PairwiseDatasetProcessor
from pair_data.check.plan import Plan
from pair_data.check.run import check as check_plan
from pair_data.check.tokens import Measure, converter, load
from pair_data.check.training import read_options
from pair_data.sources import COLUMNS, Source


CUTOFF = 128


@pytest.fixture
def data(tmp_path):
    """Rows: fine, a long answer, a long question, an image of too many tokens, answers that differ late."""
    rows = good_rows(tmp_path, 5)
    Image.new("RGB", (560, 560)).save(tmp_path / "large.png")
    long = " ".join(f"word {i}" for i in range(CUTOFF))
    rows[1] |= {"chosen": long, "rejected": "Short."}
    rows[2] |= {"instruction": "<image>" + long, "chosen": "Yes.", "rejected": "No."}
    rows[3] |= {"images": ["large.png"]}
    rows[4] |= {"chosen": long + " yes", "rejected": long + " no"}
    write_dataset(tmp_path, rows, columns=SCORED)
    return tmp_path


DUE = {1: {"answer-cut"}, 2: {"prompt-cut"}, 3: {"image-tokens-cut"}, 4: {"answers-cut-alike"}}


def config(data, model, tmp_path, **changes):
    path = tmp_path / "run.yaml"
    run = options(model, data, tmp_path / "out", cutoff_len=CUTOFF, **changes)
    path.write_text(json.dumps(run))
    return path, run


def test_cuts_are_found_with_the_options_of_a_training_run(data, tmp_path, tiny_model):
    path, run = config(data, tiny_model, tmp_path)
    findings = tmp_path / "findings.jsonl"
    assert check("--config", path, "--findings", findings, "--workers", 1)[0] == 1
    assert kinds_found(findings) == DUE
    with pytest.raises(Exception, match="row 3 .*cuts the prompt within an image"):
        train(run)
    assert check("--config", path, "cutoff_len=4096", "--workers", 1)[0] == 0
    assert check("--config", path, "--fix", data / "pairs.jsonl", "--workers", 1)[0] == 0
    write_dataset(data, [], columns=SCORED, file_name="pairs.jsonl")
    assert train(run | {"max_steps": 1})[-1]["train_loss"] > 0


def test_weights_are_looked_at_where_training_reads_them(data, tmp_path, tiny_model):
    """Missing, negative, no number or not finite, each in its row; another run does not ask for them."""
    weights = [1.0, None, -0.5, "2.5", "many", float("inf"), 0, 3]
    rows = [row | {"weight": weight} for row, weight in zip(good_rows(data, 8), weights, strict=True)]
    (data / "weighted.jsonl").write_text("\n".join(map(json.dumps, rows)))
    write_dataset(data, [], "weighted", SCORED, file_name="weighted.jsonl")
    path, _ = config(data, tiny_model, tmp_path, dataset="weighted", pref_loss="sigmoid")
    findings = tmp_path / "findings.jsonl"

    def weighed(*overrides):
        check("--config", path, "--findings", findings, "--no-images", "--workers", 1, *overrides)
        return [row for row, kinds in kinds_found(findings).items() if "weight" in kinds]

    assert weighed("pref_pair_weights=true") == [1, 2, 4, 5] and weighed() == []


@pytest.mark.parametrize("sizes", [[(560, 560)], [(1, 1), (2000, 1500), (300, 21)], [(9000, 40), (57, 199), (84, 83)]])
def test_lengths_are_those_of_training(tmp_path, tiny_model, sizes):
    """Token for token: what is measured from sizes is what upstream's processor makes of the images."""
    given = {"model_name_or_path": str(tiny_model), "template": "qwen2_vl", "cutoff_len": 10**6}
    read = read_options(given)
    tokenizer, processor, template = load(read)
    upstream, measure = PairwiseDatasetProcessor(template, tokenizer, processor, read.data), Measure(read)
    paths = [str(tmp_path / f"{number}.png") for number in range(len(sizes))]
    for path, size in zip(paths, sizes, strict=True):
        Image.new("RGB", size).save(path)
    row = {
        "instruction": "<image>" * len(sizes) + "What?",
        "chosen": "It is this.",
        "rejected": "No.",
        "images": paths,
    }
    example = converter(Source("pairs", (), dict(COLUMNS), tmp_path), read)(row)
    lengths = measure(example, sizes)
    args = (example["_prompt"], example["_response"], example["_system"], example["_tools"], paths, [], [])
    chosen, labels, rejected, _ = upstream._encode_data_example(*args)
    assert lengths.prompt + lengths.answers[0] == chosen
    assert lengths.prompt + lengths.answers[1] == rejected
    assert labels.count(-100) == len(lengths.prompt)


def test_conversations_are_measured_too(data, tiny_model):
    rows = [as_sharegpt(row) for row in json.loads((data / "pairs.json").read_text())]
    columns = {"messages": "conversations"} | {use: SCORED[use] for use in SCORED if use != "prompt"}
    source = Source("talks", (write(data / "talks.json", rows),), columns, data, "sharegpt", described=True)
    given = {"model_name_or_path": str(tiny_model), "template": "qwen2_vl", "cutoff_len": CUTOFF}
    found = check_plan(Plan([source], training=read_options(given)), progress=False).found
    assert set(found.counts) == set().union(*DUE.values())


def test_a_config_brings_its_data_its_held_out_data_and_its_loss(data, tmp_path, tiny_model):
    rows = json.loads((data / "pairs.json").read_text())
    plain = [{name: value for name, value in row.items() if "score" not in name} for row in rows]
    write_dataset(data, plain, "plain")
    write_dataset(data, rows[:1], "test", SCORED)
    write_dataset(data, rows[:2] + [rows[0] | {"chosen": "Another."}], "twice", SCORED)
    path, _ = config(data, tiny_model, tmp_path, dataset="plain", eval_dataset="test", pref_loss="sigmoid")
    findings = tmp_path / "findings.jsonl"

    def said(*overrides):
        return check("--config", path, *overrides)[1]

    said("--no-images", "--findings", findings)
    assert kinds_found(findings) == {0: {"leak-pair"}}, "scores are asked for, or held-out data is not read"
    assert "column-missing" in said("--no-images", "pref_loss=uni_dpo")
    assert "column-missing" in said("--no-images", "pref_margin_scale=0.5")
    assert "column-missing" in said("--no-images", "pref_loss=odpo")
    assert "column-missing" not in said("--no-images", "pref_loss=robust_dpo")
    asked = said("--no-images", "pref_pair_weights=true")
    assert '"weight": no row has it' in asked and '"score_chosen": no row' not in asked
    assert "leak-by-split: 1 x" in said("--no-images", "dataset=twice", "eval_dataset=null", "val_size=0.5")
    for override, reason in {  # a slip in an option would check another run than the one that is started
        "model_name_or_path=/no/such/model": "cannot load the tokenizer",
        "dataset=other": "no data set",
        "stage=sft": "preference pairs need dpo",
        "cutof_len=10": 'training knows no option "cutof_len". Did you mean cutoff_len?',
        "cutoff_len=many": "cutoff_len must be a number, not 'many'",
    }.items():
        assert reason in (answer := said(override, "uni_dpo_qual_eta=1")), answer
        assert " rows, " not in answer, "rows and images were read before"


def test_a_tokenized_path_that_is_out_of_date_is_told(data, tmp_path, tiny_model):
    """Training takes what is there, and the scores of a month ago, whatever was done to the file since."""
    folder, pairs = tmp_path / "tokenized", data / "pairs.json"
    path, _ = config(data, tiny_model, tmp_path, tokenized_path=str(folder))
    command = ("--config", path, "--no-images")
    assert "tokenized" not in check(*command)[1]
    folder.mkdir()
    (folder / "state.json").write_text("{}")
    os.utime(pairs, ns=(0, 0))
    assert "tokenized: 1 x" in (said := check(*command)[1]) and "tokenized-stale" not in said
    os.utime(folder / "state.json", ns=(0, 0))
    os.utime(pairs)
    status, said = check(*command)
    assert status == 1 and "tokenized-stale: 1 x" in said and "pairs.json" in said

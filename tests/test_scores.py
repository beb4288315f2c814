"""Scores from the file to the loss: every format, every way of loading, every way of being wrong."""

import json
import math
import os
import time

import pytest
import torch
from pairs import ALPACA, SHAREGPT, as_openai, as_sharegpt, command_line, make_rows, options, train, write_dataset

from llamafactory.data import get_template_and_fix_tokenizer
from llamafactory.hparams import get_train_args
from llamafactory.model import load_tokenizer
from llamafactory.train.uni_dpo.caches.tokenized import NOTE
from llamafactory.train.uni_dpo.errors import UniDPOError
from llamafactory.train.uni_dpo.swaps import scored_data


def prepare(model, data, tmp_path, **changes):
    """Load and tokenise as a run does and return `{"train_dataset": ..., "eval_dataset": ...}`."""
    import llamafactory.train.tuner  # noqa: F401
    from llamafactory.train.dpo import workflow

    model_args, data_args, training_args, *_ = get_train_args(options(model, data, tmp_path / "out", **changes))
    with scored_data():
        module = load_tokenizer(model_args)
        template = get_template_and_fix_tokenizer(module["tokenizer"], data_args)
        return workflow.get_dataset(template, model_args, data_args, training_args, stage="rm", **module)


def scores(dataset):
    """The scores of a prepared data set, by row."""
    return {row["pair_row"]: (row["score_chosen"], row["score_rejected"]) for row in dataset}


def wanted(rows):
    return {i: (row["score_chosen"], row["score_rejected"]) for i, row in enumerate(rows)}


@pytest.mark.parametrize("formatting", ["alpaca", "sharegpt", "openai"])
def test_formats(tiny_model, tmp_path, formatting):
    rows = make_rows(tmp_path, 6)
    shape = {"alpaca": dict, "sharegpt": as_sharegpt, "openai": as_openai}[formatting]
    columns = {"alpaca": ALPACA, "sharegpt": SHAREGPT, "openai": SHAREGPT | {"messages": "messages"}}[formatting]
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    entry = {"formatting": formatting} | ({"tags": tags} if formatting == "openai" else {})
    write_dataset(tmp_path, map(shape, rows), columns=columns, **entry)
    assert scores(prepare(tiny_model, tmp_path, tmp_path)["train_dataset"]) == wanted(rows)


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_files(tiny_model, tmp_path, kind):
    from datasets import Dataset

    rows = [row | {"images": row["images"][0]} for row in make_rows(tmp_path, 6)]  # CSV has no lists
    write = {"jsonl": Dataset.to_json, "csv": Dataset.to_csv, "parquet": Dataset.to_parquet}[kind]
    write(Dataset.from_list(rows), tmp_path / f"pairs.{kind}")
    write_dataset(tmp_path, [], file_name=f"pairs.{kind}")
    assert scores(prepare(tiny_model, tmp_path, tmp_path)["train_dataset"]) == wanted(rows)


def test_column_names_of_dataset_info_count(tiny_model, tmp_path):
    rows = make_rows(tmp_path, 6)
    renamed = [row | {"good": row["score_chosen"], "bad": row["score_rejected"]} for row in rows]
    for row in renamed:
        row["score_chosen"] = row["score_rejected"] = None  # not what the entry names: never looked at
    write_dataset(tmp_path, renamed, columns=ALPACA | {"score_chosen": "good", "score_rejected": "bad"})
    assert scores(prepare(tiny_model, tmp_path, tmp_path)["train_dataset"]) == wanted(rows)


def test_numeric_strings_are_accepted(tiny_model, tmp_path):
    rows = make_rows(tmp_path, 4)
    texts = [row | {"score_chosen": f" {row['score_chosen']}", "score_rejected": "8.5"} for row in rows]
    write_dataset(tmp_path, texts)
    prepared = scores(prepare(tiny_model, tmp_path, tmp_path)["train_dataset"])
    assert prepared == {i: (row["score_chosen"], 8.5) for i, row in enumerate(rows)}


def test_scores_stay_with_their_rows_when_upstream_drops_some(tiny_model, tmp_path):
    rows = make_rows(tmp_path, 8)
    invalid = {2, 5}
    write_dataset(tmp_path, [row | ({"rejected": None} if i in invalid else {}) for i, row in enumerate(rows)])
    kept = {i: pair for i, pair in wanted(rows).items() if i not in invalid}
    assert scores(prepare(tiny_model, tmp_path, tmp_path)["train_dataset"]) == kept


def test_mixed_data_sets_and_eval_data(tiny_model, tmp_path):
    first, second, held_out = (make_rows(tmp_path, 5, seed=seed) for seed in range(3))
    for name, rows in (("first", first), ("second", second), ("held_out", held_out)):
        write_dataset(tmp_path, rows, name=name)
    prepared = prepare(tiny_model, tmp_path, tmp_path, dataset="first,second", eval_dataset="held_out")
    train_rows = list(prepared["train_dataset"])
    for position, rows in enumerate((first, second)):
        assert scores(row for row in train_rows if row["pair_dataset"] == position) == wanted(rows)
    assert scores(prepared["eval_dataset"]) == wanted(held_out)


def test_val_size(tiny_model, pair_data, rows, tmp_path):
    prepared = prepare(tiny_model, pair_data, tmp_path, val_size=4)
    assert len(prepared["eval_dataset"]) == 4
    assert scores(prepared["train_dataset"]) | scores(prepared["eval_dataset"]) == wanted(rows)


def test_num_samples_keeps_row_numbers_of_the_file(tiny_model, tmp_path):
    rows = make_rows(tmp_path, 9)
    write_dataset(tmp_path, rows, num_samples=4)
    sampled = scores(prepare(tiny_model, tmp_path, tmp_path)["train_dataset"])
    assert len(sampled) == 4 and sampled.items() <= wanted(rows).items()


def test_streaming(tiny_model, pair_data, rows, tmp_path):
    prepared = prepare(tiny_model, pair_data, tmp_path, streaming=True, dataloader_num_workers=1)
    carried = [(row["score_chosen"], row["score_rejected"]) for row in prepared["train_dataset"]]
    assert sorted(carried) == sorted(wanted(rows).values())


def test_training_on_a_stream(tiny_model, pair_data, tmp_path):
    """Upstream's own losses fail on a stream of images unless `dispatch_batches` is turned off by hand."""
    run = options(tiny_model, pair_data, tmp_path, streaming=True, dataloader_num_workers=1, max_steps=2)
    assert [entry["step"] for entry in train(run) if "loss" in entry] == [1, 2]


def test_a_stream_without_workers_is_refused(tiny_model, pair_data, tmp_path):
    with pytest.raises(UniDPOError, match="dataloader_num_workers"):
        prepare(tiny_model, pair_data, tmp_path, streaming=True)


def test_several_preprocessing_workers(tiny_model, pair_data, rows, tmp_path):
    prepared = prepare(tiny_model, pair_data, tmp_path, preprocessing_num_workers=2)
    assert scores(prepared["train_dataset"]) == wanted(rows)


def test_tokenized_path(tiny_model, pair_data, rows, tmp_path):
    tokenized = str(tmp_path / "tokenized")
    prepare(tiny_model, pair_data, tmp_path, tokenized_path=tokenized)
    again = prepare(tiny_model, tmp_path / "gone", tmp_path, tokenized_path=tokenized)
    assert scores(again["train_dataset"]) == wanted(rows)
    train(options(tiny_model, pair_data, tmp_path / "other", tokenized_path=tokenized, pref_loss="sigmoid"))


def test_tokenized_path_of_another_loss_is_refused(tiny_model, pair_data, tmp_path):
    tokenized = str(tmp_path / "tokenized")
    run = options(tiny_model, pair_data, tmp_path / "other", tokenized_path=tokenized, pref_loss="sigmoid")
    train(run | {"max_steps": 1})
    with pytest.raises(UniDPOError, match="no scores in its train_dataset"):
        prepare(tiny_model, pair_data, tmp_path, tokenized_path=tokenized)


def test_batch_carries_float32_and_the_model_never_sees_it(tiny_model, pair_data, rows, tmp_path, monkeypatch):
    from transformers import Qwen2VLForConditionalGeneration

    from llamafactory.train.uni_dpo.training.trainer import UniDPOTrainer

    seen, forward = [], Qwen2VLForConditionalGeneration.forward
    prepare_inputs = UniDPOTrainer._prepare_inputs

    def watch_forward(self, *args, **kwargs):
        assert not [name for name in kwargs if "score" in name or name == "pair_row"]
        return forward(self, *args, **kwargs)

    def watch_inputs(self, inputs):
        batch = prepare_inputs(self, inputs)
        seen.append((batch["pair_row"], batch["score_chosen"], batch["score_rejected"]))
        return batch

    monkeypatch.setattr(Qwen2VLForConditionalGeneration, "forward", watch_forward)
    monkeypatch.setattr(UniDPOTrainer, "_prepare_inputs", watch_inputs)
    train(options(tiny_model, pair_data, tmp_path / "out", max_steps=2))
    del seen[1:4]  # the self-check's, in the first step: both pairs for ours, each alone for upstream's forward
    assert len(seen) == 4
    for pair_rows, chosen, rejected in seen:
        assert chosen.dtype == rejected.dtype == torch.float32 and chosen.shape == (2,)
        expected = [wanted(rows)[row] for row in pair_rows.tolist()]
        assert list(zip(chosen.tolist(), rejected.tolist(), strict=True)) == expected


BAD = {
    "missing": "absent",
    "none": None,
    "nan": math.nan,
    "infinite": math.inf,
    "too large for float32": 1e39,
    "too large for any float": 10**400,
    "word": "good",
    "nan as text": "nan",
    "empty text": "",
    "list": [3.0],
}


@pytest.mark.parametrize("side", ["score_chosen", "score_rejected"])
@pytest.mark.parametrize("value", BAD.values(), ids=BAD.keys())
def test_a_bad_score_names_data_set_row_and_column(tiny_model, tmp_path, value, side):
    rows = make_rows(tmp_path, 20)
    if value == "absent":
        del rows[17][side]
    else:
        rows[17][side] = value
    write_dataset(tmp_path, rows)
    with pytest.raises(UniDPOError, match=f'"pairs", row 17 .*"{side}"'):
        prepare(tiny_model, tmp_path, tmp_path)


@pytest.mark.parametrize("streaming", [False, True])
def test_nan_in_parquet(tiny_model, tmp_path, streaming):
    from datasets import Dataset

    rows = make_rows(tmp_path, 20)
    rows[17]["score_chosen"] = math.nan
    write_dataset(tmp_path, [])
    Dataset.from_list(rows).to_parquet(tmp_path / "pairs.parquet")
    write_dataset(tmp_path, [], file_name="pairs.parquet")
    with pytest.raises(UniDPOError, match='"pairs", row 17 .*"score_chosen"'):
        prepare(tiny_model, tmp_path, tmp_path, streaming=streaming, dataloader_num_workers=1)


def test_a_missing_column_lists_those_that_are_there(tiny_model, tmp_path):
    rows = [{k: v for k, v in row.items() if k != "score_rejected"} for row in make_rows(tmp_path, 4)]
    write_dataset(tmp_path, rows)
    with pytest.raises(UniDPOError, match='no column "score_rejected".*it has instruction.*dataset_info.json'):
        prepare(tiny_model, tmp_path, tmp_path)


def test_truth_values_are_not_scores(tiny_model, tmp_path):
    write_dataset(tmp_path, [row | {"score_chosen": True} for row in make_rows(tmp_path, 4)])
    with pytest.raises(UniDPOError, match="row 0 .*True is not a finite number"):
        prepare(tiny_model, tmp_path, tmp_path)


def test_numbers_mixed_with_text_are_explained(tiny_model, tmp_path):
    rows = make_rows(tmp_path, 6)
    rows[4]["score_chosen"] = "7.5"
    write_dataset(tmp_path, rows)
    with pytest.raises(UniDPOError, match="row 4 .*text, while row 0 has a number"):
        prepare(tiny_model, tmp_path, tmp_path)


def test_in_a_folder_of_files_the_message_names_the_file(tiny_model, tmp_path):
    rows = make_rows(tmp_path, 12)
    rows[8]["score_chosen"] = "good"
    write_dataset(tmp_path, [], file_name="parts")
    (tmp_path / "parts").mkdir()
    for name, part in (("a", rows[:6]), ("b", rows[6:])):
        (tmp_path / "parts" / f"{name}.json").write_text(json.dumps(part))
    with pytest.raises(UniDPOError, match="file b.json, row 2 "):
        prepare(tiny_model, tmp_path, tmp_path)


def test_a_bad_row_that_is_not_used_does_not_hide_another_mistake(tiny_model, tmp_path):
    rows = make_rows(tmp_path, 20)
    rows[17]["score_chosen"] = math.nan
    write_dataset(tmp_path, rows, columns=ALPACA | {"prompt": "nope"})
    with pytest.raises(UniDPOError, match='no column "nope"'):
        prepare(tiny_model, tmp_path, tmp_path, max_samples=10)


def test_other_load_failures_name_the_data_set(tiny_model, tmp_path):
    write_dataset(tmp_path, [])
    (tmp_path / "pairs.json").write_text("[{broken")
    with pytest.raises(UniDPOError, match=r'Data set "pairs" cannot be used \(\w+: '):
        prepare(tiny_model, tmp_path, tmp_path)


def test_bad_score_on_the_command_line(tiny_model, tmp_path):
    """One clear message, a non-zero exit, and no output folder."""
    rows = make_rows(tmp_path, 20)
    rows[17]["score_chosen"] = math.nan
    write_dataset(tmp_path, rows)
    done = command_line(options(tiny_model, tmp_path, tmp_path / "out"), tmp_path / "run.yaml")
    assert done.returncode == 1
    assert 'Error: Data set "pairs", row 17 (the first is 0), column "score_chosen": there is no number' in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_data_without_scores_trains_with_other_losses(tiny_model, tmp_path):
    rows = [{k: v for k, v in row.items() if not k.startswith("score")} for row in make_rows(tmp_path, 8)]
    write_dataset(tmp_path, rows)
    run = options(tiny_model, tmp_path, tmp_path / "out", pref_loss="sigmoid", dpo_average_log_prob=True)
    assert train(run)[0]["loss"] == pytest.approx(math.log(2), abs=1e-4)  # logged with four digits
    assert json.loads((tmp_path / "out" / "trainer_state.json").read_text())["global_step"] == 4


def edited(folder, rows, **changes):
    """Write the rows with the first one changed."""
    write_dataset(folder, [rows[0] | changes, *rows[1:]])


@pytest.mark.parametrize("change", ["scored anew", "another answer", "more", "cutoff_len", "dataset"])
def test_tokenized_path_of_other_data_is_refused(tiny_model, tmp_path, change):
    """What upstream would train on without a word; the same data may lie elsewhere."""
    rows, tokenized = make_rows(tmp_path, 8), str(tmp_path / "tokenized")
    write_dataset(tmp_path, rows)
    write_dataset(tmp_path, rows, name="other")
    guarded(tiny_model, tmp_path, tokenized)
    assert len(guarded(tiny_model, tmp_path, tokenized)["train_dataset"]) == 8
    other, said = {}, 'Data set "pairs" has changed since'
    if change == "scored anew":
        edited(tmp_path, rows, score_chosen=9.75)
    elif change == "another answer":
        edited(tmp_path, rows, rejected="Something else.")
    elif change == "more":
        write_dataset(tmp_path, [*rows, rows[0]])
    else:
        other = {"cutoff_len": 256} if change == "cutoff_len" else {"dataset": "other"}
        said = "made with other options: " + change
    with pytest.raises(UniDPOError, match=said):
        guarded(tiny_model, tmp_path, tokenized, **other)


def test_tokenized_path_without_a_note_must_not_be_older(tiny_model, tmp_path):
    """As LlamaFactory makes it for other trainers, and as this overlay made it before."""
    rows, tokenized = make_rows(tmp_path, 8), tmp_path / "tokenized"
    write_dataset(tmp_path, rows)
    guarded(tiny_model, tmp_path, str(tokenized))
    (tokenized / NOTE).unlink()
    guarded(tiny_model, tmp_path, str(tokenized))
    later = time.time() + 60
    os.utime(tmp_path / "pairs.json", (later, later))
    with pytest.raises(UniDPOError, match="is older than .*pairs.json"):
        guarded(tiny_model, tmp_path, str(tokenized))


def guarded(model, data, tokenized, **changes):
    """Tokenise as every run with our trainer does, or take what is there."""
    from llamafactory.train.uni_dpo.swaps import our_trainer

    run = options(model, data, data / "out", tokenized_path=tokenized, **changes)
    with our_trainer(get_train_args(run)[1]):
        return prepare(model, data, data, tokenized_path=tokenized, **changes)


@pytest.mark.parametrize("column", ["chosen", "rejected", "instruction"])
@pytest.mark.parametrize("token", ["<|image_pad|>", "<|video_pad|>"])
def test_a_models_own_token_of_an_image_in_a_text_is_refused(tiny_model, tmp_path, column, token):
    """Before anything trains, by data set and row, instead of the model's own complaint in the middle of a run."""
    rows = make_rows(tmp_path, 4)
    rows[2][column] += f" The {token} is a token."
    write_dataset(tmp_path, rows)
    train_on = options(tiny_model, tmp_path, tmp_path / "out")
    with pytest.raises(UniDPOError, match=r'Data set "pairs", row 2 \(the first is 0\): <\|') as told:
        train(train_on)
    assert token in str(told.value) and ("user" if column == "instruction" else "assistant") in str(told.value)

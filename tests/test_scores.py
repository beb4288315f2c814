"""Scores from the file to the loss: every format, every way of loading, every way of being wrong."""

import json
import math
import os
import time

import pytest
import torch
from datasets import Dataset
from loading import prepare
from pairs import ALPACA, SHAREGPT, as_openai, as_sharegpt, command_line, make_rows, options, train, write_dataset

from llamafactory.hparams import get_train_args
from llamafactory.train.uni_dpo.caches.tokenized import NOTE
from llamafactory.train.uni_dpo.errors import UniDPOError
from llamafactory.train.uni_dpo.swaps import our_trainer


TAGS = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
FORMATS = {
    "alpaca": (dict, {"columns": ALPACA}),
    "sharegpt": (as_sharegpt, {"columns": SHAREGPT}),
    "openai": (as_openai, {"columns": SHAREGPT | {"messages": "messages"}, "tags": TAGS}),
}
FILES = {"jsonl": Dataset.to_json, "csv": Dataset.to_csv, "parquet": Dataset.to_parquet}


def scores(dataset):
    """The scores of a prepared data set, by row."""
    return {row["pair_row"]: (row["score_chosen"], row["score_rejected"]) for row in dataset}


def wanted(rows):
    return {i: (row["score_chosen"], row["score_rejected"]) for i, row in enumerate(rows)}


def without(rows, *names):
    return [{name: value for name, value in row.items() if name not in names} for row in rows]


@pytest.mark.parametrize("formatting", FORMATS)
def test_formats(tiny_model, tmp_path, formatting):
    rows, (shape, entry) = make_rows(tmp_path, 6), FORMATS[formatting]
    write_dataset(tmp_path, map(shape, rows), formatting=formatting, **entry)
    assert scores(prepare(tiny_model, tmp_path, tmp_path)["train_dataset"]) == wanted(rows)


@pytest.mark.parametrize("kind", FILES)
def test_files(tiny_model, tmp_path, kind):
    rows = [row | {"images": row["images"][0]} for row in make_rows(tmp_path, 6)]  # CSV has no lists
    FILES[kind](Dataset.from_list(rows), tmp_path / f"pairs.{kind}")
    write_dataset(tmp_path, [], file_name=f"pairs.{kind}")
    assert scores(prepare(tiny_model, tmp_path, tmp_path)["train_dataset"]) == wanted(rows)


def test_column_names_of_dataset_info_count_and_text_is_read(tiny_model, tmp_path):
    rows = make_rows(tmp_path, 6)
    renamed = [row | {"good": f" {row['score_chosen']}", "bad": "8.5"} for row in rows]
    for row in renamed:
        row["score_chosen"] = row["score_rejected"] = None  # not what the entry names: never looked at
    write_dataset(tmp_path, renamed, columns=ALPACA | {"score_chosen": "good", "score_rejected": "bad"})
    found = scores(prepare(tiny_model, tmp_path, tmp_path)["train_dataset"])
    assert found == {i: (row["score_chosen"], 8.5) for i, row in enumerate(rows)}


def test_scores_stay_with_their_rows_when_upstream_drops_some(tiny_model, tmp_path):
    rows, invalid = make_rows(tmp_path, 8), {2, 5}
    write_dataset(tmp_path, [row | ({"rejected": None} if i in invalid else {}) for i, row in enumerate(rows)])
    kept = {i: pair for i, pair in wanted(rows).items() if i not in invalid}
    assert scores(prepare(tiny_model, tmp_path, tmp_path)["train_dataset"]) == kept


def test_mixed_data_sets_and_eval_data(tiny_model, tmp_path):
    sets = {name: make_rows(tmp_path, 5, seed=seed) for seed, name in enumerate(("first", "second", "held_out"))}
    for name, rows in sets.items():
        write_dataset(tmp_path, rows, name=name, **({"num_samples": 4} if name == "second" else {}))
    prepared = prepare(tiny_model, tmp_path, tmp_path, dataset="first,second", eval_dataset="held_out")
    by_set = [scores(row for row in prepared["train_dataset"] if row["pair_dataset"] == place) for place in range(2)]
    assert by_set[0] == wanted(sets["first"]) and scores(prepared["eval_dataset"]) == wanted(sets["held_out"])
    # Row numbers of a sample are those of the file.
    assert len(by_set[1]) == 4 and by_set[1].items() <= wanted(sets["second"]).items()


def test_val_size_and_several_preprocessing_workers(tiny_model, pair_data, rows, tmp_path):
    prepared = prepare(tiny_model, pair_data, tmp_path, val_size=4, preprocessing_num_workers=2)
    assert len(prepared["eval_dataset"]) == 4
    assert scores(prepared["train_dataset"]) | scores(prepared["eval_dataset"]) == wanted(rows)


def test_streaming(tiny_model, pair_data, rows, tmp_path):
    """Upstream's own losses fail on a stream of images unless `dispatch_batches` is turned off by hand."""
    streamed = {"streaming": True, "dataloader_num_workers": 1}
    prepared = prepare(tiny_model, pair_data, tmp_path, **streamed)
    carried = [(row["score_chosen"], row["score_rejected"]) for row in prepared["train_dataset"]]
    assert sorted(carried) == sorted(wanted(rows).values())
    run = options(tiny_model, pair_data, tmp_path, max_steps=2, **streamed)
    assert [entry["step"] for entry in train(run) if "loss" in entry] == [1, 2]
    with pytest.raises(UniDPOError, match="dataloader_num_workers"):
        prepare(tiny_model, pair_data, tmp_path, streaming=True)


def test_tokenized_path(tiny_model, pair_data, rows, tmp_path):
    """Of ours it serves other losses too; of another loss it has no scores and is refused."""
    for loss, other in (("uni_dpo", "sigmoid"), ("sigmoid", "uni_dpo")):
        tokenized = {"tokenized_path": str(tmp_path / loss), "max_steps": 1}
        train(options(tiny_model, pair_data, tmp_path / f"{loss}-first", pref_loss=loss, **tokenized))
        if loss == "uni_dpo":
            again = prepare(tiny_model, tmp_path / "gone", tmp_path, **tokenized)
            assert scores(again["train_dataset"]) == wanted(rows)
            train(options(tiny_model, pair_data, tmp_path / f"{loss}-second", pref_loss=other, **tokenized))
        else:
            with pytest.raises(UniDPOError, match="no scores in its train_dataset"):
                prepare(tiny_model, pair_data, tmp_path, **tokenized)


def test_batch_carries_float32_and_the_model_never_sees_it(tiny_model, pair_data, rows, tmp_path, monkeypatch):
    from transformers import Qwen2VLForConditionalGeneration

    from llamafactory.train.uni_dpo.training.trainer import UniDPOTrainer

    seen, forward = [], Qwen2VLForConditionalGeneration.forward
    prepare_inputs = UniDPOTrainer._prepare_inputs

    def checked_forward(self, *args, **kwargs):
        assert not [name for name in kwargs if "score" in name or name == "pair_row"]
        return forward(self, *args, **kwargs)

    def recorded_inputs(self, inputs):
        batch = prepare_inputs(self, inputs)
        seen.append((batch["pair_row"], batch["score_chosen"], batch["score_rejected"]))
        return batch

    monkeypatch.setattr(Qwen2VLForConditionalGeneration, "forward", checked_forward)
    monkeypatch.setattr(UniDPOTrainer, "_prepare_inputs", recorded_inputs)
    train(options(tiny_model, pair_data, tmp_path / "out", max_steps=2))
    del seen[1:3]  # the self-check's, in the first step: a pair twice for ours, once for upstream's forward
    assert len(seen) == 4
    for pair_rows, chosen, rejected in seen:
        assert chosen.dtype == rejected.dtype == torch.float32 and chosen.shape == (2,)
        expected = [wanted(rows)[row] for row in pair_rows.tolist()]
        assert list(zip(chosen.tolist(), rejected.tolist(), strict=True)) == expected


NAMED = '"pairs", row 17 .*"score_{side}"'
BAD = {
    "absent": (lambda row, name: row.pop(name), NAMED),
    "none": (None, NAMED),
    "nan": (math.nan, NAMED),
    "infinite": (math.inf, NAMED),
    "too large for float32": (1e39, NAMED),
    "too large for any float": (10**400, NAMED),
    "word": ("good", NAMED),
    "nan as text": ("nan", NAMED),
    "empty text": ("", NAMED),
    "list": ([3.0], NAMED),
    "number as text among numbers": ("7.5", "row 17 .*text, while row 0 has a number"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_score_names_data_set_row_and_column(tiny_model, tmp_path, kind):
    rows, (value, said) = make_rows(tmp_path, 20), BAD[kind]
    side = ("chosen", "rejected")[len(kind) % 2]
    if callable(value):
        value(rows[17], f"score_{side}")
    else:
        rows[17][f"score_{side}"] = value
    write_dataset(tmp_path, rows)
    with pytest.raises(UniDPOError, match=said.replace("{side}", side)):
        prepare(tiny_model, tmp_path, tmp_path)


@pytest.mark.parametrize("streaming", [False, True])
def test_nan_in_parquet(tiny_model, tmp_path, streaming):
    rows = make_rows(tmp_path, 20)
    rows[17]["score_chosen"] = math.nan
    Dataset.from_list(rows).to_parquet(tmp_path / "pairs.parquet")
    write_dataset(tmp_path, [], file_name="pairs.parquet")
    with pytest.raises(UniDPOError, match='"pairs", row 17 .*"score_chosen"'):
        prepare(tiny_model, tmp_path, tmp_path, streaming=streaming, dataloader_num_workers=1)


def test_files_that_cannot_be_used_are_explained(tiny_model, tmp_path):
    """Columns that are missing, truth values, a file of a folder by its name, and what is no JSON."""
    rows = make_rows(tmp_path, 12)

    def refused(match, *given, **options):
        write_dataset(tmp_path, *given, **options)
        with pytest.raises(UniDPOError, match=match):
            prepare(tiny_model, tmp_path, tmp_path, **({"max_samples": 10} if "nope" in match else {}))

    refused('no column "score_rejected".*it has instruction.*dataset_info.json', without(rows, "score_rejected"))
    refused("row 0 .*True is not a finite number", [row | {"score_chosen": True} for row in rows])
    rows[8]["score_chosen"] = math.nan
    # A bad row that is not used does not hide another mistake.
    refused('no column "nope"', rows, columns=ALPACA | {"prompt": "nope"})
    rows[8]["score_chosen"] = "good"
    (tmp_path / "parts").mkdir()
    for name, part in (("a", rows[:6]), ("b", rows[6:])):
        (tmp_path / "parts" / f"{name}.json").write_text(json.dumps(part))
    refused("file b.json, row 2 ", [], file_name="parts")
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
    write_dataset(tmp_path, without(make_rows(tmp_path, 8), "score_chosen", "score_rejected"))
    run = options(tiny_model, tmp_path, tmp_path / "out", pref_loss="sigmoid", dpo_average_log_prob=True, max_steps=1)
    assert train(run)[0]["loss"] == pytest.approx(math.log(2), abs=1e-4)  # logged with four digits


def guarded(model, data, tokenized, **changes):
    """Tokenise as every run with our trainer does, or take what is there."""
    run = options(model, data, data / "out", tokenized_path=tokenized, **changes)
    with our_trainer(get_train_args(run)[1]):
        return prepare(model, data, data, tokenized_path=tokenized, **changes)


OTHER_DATA = {
    "scored anew": {"score_chosen": 9.75},
    "another answer": {"rejected": "Something else."},
    "more": None,
    "cutoff_len": 256,
    "dataset": "other",
}


@pytest.mark.parametrize("change", OTHER_DATA)
def test_tokenized_path_of_other_data_is_refused(tiny_model, tmp_path, change):
    """What upstream would train on without a word; the same data may lie elsewhere."""
    rows, tokenized, other = make_rows(tmp_path, 8), str(tmp_path / "tokenized"), {}
    write_dataset(tmp_path, rows)
    write_dataset(tmp_path, rows, name="other")
    for _ in range(2):
        assert len(guarded(tiny_model, tmp_path, tokenized)["train_dataset"]) == 8
    said = 'Data set "pairs" has changed since'
    if change in ("cutoff_len", "dataset"):
        other, said = {change: OTHER_DATA[change]}, "made with other options: " + change
    elif change == "more":
        write_dataset(tmp_path, [*rows, rows[0]])
    else:
        write_dataset(tmp_path, [rows[0] | OTHER_DATA[change], *rows[1:]])
    with pytest.raises(UniDPOError, match=said):
        guarded(tiny_model, tmp_path, tokenized, **other)


def test_tokenized_path_of_another_tokenizer_is_refused(tiny_model, tmp_path):
    tokenized = tmp_path / "tokenized"
    write_dataset(tmp_path, make_rows(tmp_path, 8))
    guarded(tiny_model, tmp_path, str(tokenized))
    note = json.loads((tokenized / NOTE).read_text())
    assert note["tokenizer"]
    (tokenized / NOTE).write_text(json.dumps(note | {"tokenizer": "of another model"}))
    with pytest.raises(UniDPOError, match="with another tokenizer"):
        guarded(tiny_model, tmp_path, str(tokenized))


def test_tokenized_path_without_a_note_must_not_be_older(tiny_model, tmp_path):
    """As LlamaFactory makes it for other trainers, and as this overlay made it before."""
    tokenized = tmp_path / "tokenized"
    write_dataset(tmp_path, make_rows(tmp_path, 8))
    guarded(tiny_model, tmp_path, str(tokenized))
    (tokenized / NOTE).unlink()
    guarded(tiny_model, tmp_path, str(tokenized))
    later = time.time() + 60
    os.utime(tmp_path / "pairs.json", (later, later))
    with pytest.raises(UniDPOError, match="is older than .*pairs.json"):
        guarded(tiny_model, tmp_path, str(tokenized))


@pytest.mark.parametrize(
    "column, token", [("chosen", "<|image_pad|>"), ("rejected", "<|video_pad|>"), ("instruction", "<|image_pad|>")]
)
def test_a_models_own_token_of_an_image_in_a_text_is_refused(tiny_model, tmp_path, column, token):
    """Before anything trains, by data set and row, instead of the model's own complaint in the middle of a run."""
    rows = make_rows(tmp_path, 4)
    rows[2][column] += f" The {token} is a token."
    write_dataset(tmp_path, rows)
    with pytest.raises(UniDPOError, match=r'Data set "pairs", row 2 \(the first is 0\): <\|') as refused:
        train(options(tiny_model, tmp_path, tmp_path / "out"))
    assert token in str(refused.value)
    assert ("user" if column == "instruction" else "assistant") in str(refused.value)

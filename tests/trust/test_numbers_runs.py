"""Whole runs with extreme data, and scores that reach the objective as they were written, in every precision."""

import json
import sys

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from figures import times
from hypothesis import given, settings
from hypothesis import strategies as st
from pairs import log_history, make_rows, options, train, write_dataset
from safetensors.torch import load_file

from llamafactory.train.uni_dpo.data.collate import PairCollator
from llamafactory.train.uni_dpo.objective import losses as ours
from llamafactory.train.uni_dpo.record.pair_log import PAIR_LOG, read_pair_log


# Around tau_good = 2.5 there are scores that bfloat16 (2.48 to 2.5) and float16 (2.499 to 2.5) would move onto it.
NEAR = [2.495, 2.4990234375, float(np.nextafter(np.float32(2.5), np.float32(0))), 2.5]
ROUTES = ["shared_prefix", pytest.param("upstream", marks=pytest.mark.long)]
PRECISIONS = {"float32": {}, "bf16": {"bf16": True}, "fp16": {"fp16": True}}


@pytest.fixture
def given_scores(monkeypatch):
    """Pairs of scores as the objective gets them, in float32."""
    seen, objective = [], ours.uni_dpo_loss

    def recorded(*inputs, **changes):
        seen.extend(zip(*(column.tolist() for column in inputs[4:6]), strict=True))
        return objective(*inputs, **changes)

    monkeypatch.setattr(ours, "uni_dpo_loss", recorded)
    return seen


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("route", ROUTES)
def test_scores_arrive_unrounded(tiny_model, tmp_path, precision, route, fp16_on_cpu, given_scores, figure):
    """To the last bit of float32, as many times as there are epochs."""
    rows = make_rows(tmp_path / "data", 16)
    rows = [row | {"score_chosen": NEAR[i % len(NEAR)], "score_rejected": i / 7} for i, row in enumerate(rows)]
    write_dataset(tmp_path / "data", rows)
    changes = {"use_cpu": True, "max_steps": 8, "pref_forward": route}
    train(options(tiny_model, tmp_path / "data", tmp_path / "out", **changes | PRECISIONS[precision]))
    written = [tuple(float(np.float32(row[side])) for side in ("score_chosen", "score_rejected")) for row in rows]
    assert sorted(given_scores) == sorted(written * 2)
    figure(
        "3 numbers", f"scores of a run, {precision}, {route}: as written", 2 * len(given_scores), "all, bit for bit"
    )


def test_any_float32_score_keeps_its_bits(one_row):
    """From the row to the tensor that the objective gets."""
    collator, feature = one_row

    @settings(max_examples=times(200, 5000), deadline=None, database=None)
    @given(st.floats(allow_nan=False, allow_infinity=False, width=32))
    def check(score):
        batch = collator([feature | {"score_chosen": score, "score_rejected": -score}])
        found = batch["score_chosen"], -batch["score_rejected"]
        assert [value.numpy().tobytes() for value in found] == [np.float32(score).tobytes()] * 2

    check()


EXTREMES = {
    "answers of one token": lambda row: row | {"chosen": "a", "rejected": "b"},
    "all scores equal": lambda row: row | {"score_chosen": 3.0, "score_rejected": 3.0},
    "huge scores": lambda row: row | {"score_chosen": 3e38, "score_rejected": -3e38},
    "equal answers": lambda row: row | {"rejected": row["chosen"]},
    "a long and a short answer": lambda row: row | {"chosen": "a", "rejected": "so it is " * 60},
}


LATER = ("equal answers", "a long and a short answer")
KINDS = [pytest.param(kind, marks=[pytest.mark.long] if kind in LATER else []) for kind in EXTREMES]


@pytest.mark.parametrize("kind", KINDS)
def test_extreme_data_trains(tiny_model, tmp_path, kind, figure):
    """A batch of one, everything logged finite, and weights that stay finite."""
    write_dataset(tmp_path / "data", map(EXTREMES[kind], make_rows(tmp_path / "data", 8)))
    changes = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 1, "max_steps": 8}
    train(options(tiny_model, tmp_path / "data", tmp_path / "out", **changes, uni_dpo_log_pairs=True))
    history = [entry for entry in log_history(tmp_path / "out") if "loss" in entry]
    assert len(history) == 8 and np.isfinite([value for entry in history for value in entry.values()]).all()
    assert all(tensor.isfinite().all() for tensor in load_file(tmp_path / "out" / "model.safetensors").values())
    if "equal" in kind:
        weights = {row["w_qual"] for row in read_pair_log(str(tmp_path / "out" / PAIR_LOG))}
        assert kind != "all scores equal" or weights == {0.5}
    figure("3 numbers", f"steps of one pair: {kind}", len(history), "all finite")


BOUNDS = {"bf16": 2e-3, "fp16": 1e-3}  # of the loss, in nats; it falls from about 0.25


@pytest.fixture(scope="module")
def single(tiny_model, pair_data, tmp_path_factory):
    """The losses of a run in float32."""
    return losses(options(tiny_model, pair_data, tmp_path_factory.mktemp("single"), **RUN))


SCALE = 2.0**12
RUN = {"use_cpu": True, "max_steps": 12, "learning_rate": 1e-3, "pref_beta": 0.5}


def losses(run: dict) -> np.ndarray:
    return np.array([entry["loss"] for entry in train(run) if "loss" in entry])


@pytest.fixture
def fp16_on_cpu(monkeypatch):
    """Let accelerate do on a CPU what it does on a GPU for `fp16: true`, which it otherwise ignores here."""
    start = Accelerator.__init__

    def started(self, *args, **kwargs):
        start(self, *args, **kwargs)
        if self.state.mixed_precision == "fp16":
            self.native_amp, self.scaler = True, torch.amp.GradScaler("cpu", init_scale=SCALE)

    monkeypatch.setattr(Accelerator, "__init__", started)


@pytest.mark.parametrize("precision", BOUNDS)
@pytest.mark.parametrize("route", ROUTES)
def test_curve_in_half_precision(single, fp16_on_cpu, tiny_model, pair_data, tmp_path, precision, route, figure):
    """Near that of float32, and not the same: the precision is really on, also on a CPU."""
    changes = RUN | PRECISIONS[precision] | {"pref_forward": route}
    off = np.abs(losses(options(tiny_model, pair_data, tmp_path, **changes)) - single)
    figure(
        "3 numbers", f"loss of a run, {precision}, {route}, against float32", len(off), f"at most {off.max():.1g} off"
    )
    assert 1e-7 < off.max() < BOUNDS[precision]


def test_steps_that_overflow_in_fp16_are_skipped(fp16_on_cpu, tiny_model, pair_data, tmp_path, monkeypatch, figure):
    """An infinite gradient is the scaler finding its scale: the guard lets it pass, the weights are as they were."""
    monkeypatch.setattr(sys.modules[__name__], "SCALE", 2.0**30)
    train(options(tiny_model, pair_data, tmp_path, **RUN | {"fp16": True, "save_strategy": "steps", "save_steps": 1}))
    norms = [entry["grad_norm"] for entry in log_history(tmp_path) if "grad_norm" in entry]
    skipped = int((~np.isfinite(norms)).sum())
    assert 2 <= skipped < len(norms) and np.isfinite(norms[skipped:]).all()
    start, after, end = (
        load_file(path / "model.safetensors") for path in (tiny_model, tmp_path / f"checkpoint-{skipped}", tmp_path)
    )
    assert all(torch.equal(start[name].float(), after[name].float()) for name in start)
    assert any(not torch.equal(start[name].float(), end[name].float()) for name in start)
    figure("3 numbers", "fp16 steps that overflow: skipped, weights untouched", skipped, "all")


@pytest.fixture(scope="module")
def one_row(tiny_model, pair_data):
    """The collator of a run, and one row as it gets it."""
    from transformers import AutoProcessor, AutoTokenizer

    from llamafactory.data import get_template_and_fix_tokenizer
    from llamafactory.hparams import DataArguments

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    template = get_template_and_fix_tokenizer(tokenizer, DataArguments(template="qwen2_vl"))
    collator = PairCollator(
        template=template,
        tokenizer=tokenizer,
        processor=AutoProcessor.from_pretrained(tiny_model),
        pad_to_multiple_of=8,
    )
    ids = tokenizer("It is so.")["input_ids"]
    sides = {f"{side}_{name}": ids for side in ("chosen", "rejected") for name in ("input_ids", "labels")}
    masks = {f"{side}_attention_mask": [1] * len(ids) for side in ("chosen", "rejected")}
    rows = json.loads(json.dumps({"images": [], "videos": [], "audios": []}))
    return collator, sides | masks | rows

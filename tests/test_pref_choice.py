"""Which route `pref_forward` takes, what it says about it, and what happens when the engine is wrong."""

import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from datasets import load_from_disk
from pairs import ALPACA, mixed, options, train, write_dataset
from recorded import messages, recorded_run
from tiny_models import text_model
from transformers import AutoConfig

from llamafactory.hparams import get_train_args
from llamafactory.train.uni_dpo.engine import attention
from llamafactory.train.uni_dpo.errors import UniDPOError
from llamafactory.train.uni_dpo.options.checks import check_run
from llamafactory.train.uni_dpo.training import passed


SLOW = {"learning_rate": 1e-4, "gradient_accumulation_steps": 1, "pref_beta": 0.5}
SLIDING = {"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 0}


@pytest.fixture(scope="module")
def data(rows, pair_data) -> Path:
    """Pairs with none, one and two pictures (`mixed`), and pairs of text alone (`texts`)."""
    texts = [row | {"instruction": row["instruction"].removeprefix("<image>")} for row in rows]
    columns = {name: column for name, column in ALPACA.items() if name != "images"}
    write_dataset(pair_data, texts, name="texts", columns=columns)
    return write_dataset(pair_data, mixed(rows), name="mixed")


def text_run(model: Path, data: Path, output: Path, **changes) -> dict:
    fixed = {"dataset": "texts", "template": "qwen", "max_steps": 1}
    return options(model, data, output, **SLOW | fixed | changes)


# ---- the choice ----


def test_auto_says_once_what_it_takes(tiny_model, data, tmp_path):
    """The default of uni_dpo is `auto`, and the best route needs no reason."""
    outcome = recorded_run(options(tiny_model, data, tmp_path, dataset="mixed", max_steps=2, **SLOW))
    assert outcome.about("pref_forward") == ["pref_forward: shared_prefix."]
    (said,) = outcome.about("Self-check of pref_forward: within")
    assert said.endswith("nats of upstream's forward.")


@pytest.mark.parametrize(
    "kind, config, line",
    [
        ("qwen2", SLIDING, "pref_forward: response_only (no shared prompt with sliding-window attention)."),
        (
            "gemma2",
            {},
            "pref_forward: response_only (no shared prompt with models of type 'gemma2', which run as they are).",
        ),
    ],
    ids=["sliding window", "unknown model"],
)
def test_auto_says_why_it_takes_less_and_more_is_refused(tiny_model, data, tmp_path, kind, config, line):
    model = text_model(tiny_model, tmp_path / "model", kind, **config)
    outcome = recorded_run(text_run(model, data, tmp_path / "auto"))
    assert outcome.about("pref_forward") == [line]
    assert len(outcome.about("Self-check of pref_forward: within")) == ("upstream" not in line)
    assert not outcome.about("pref_forward: response_only differs")
    reason = line[line.index("(") + 1 : line.rindex(")")]
    with pytest.raises(UniDPOError) as refused:
        train(text_run(model, data, tmp_path / "refused", pref_forward="shared_prefix"))
    route = line.split()[1]
    assert str(refused.value) == (f"`pref_forward: shared_prefix` is not possible: {reason}. Use `auto` or `{route}`.")
    assert not (tmp_path / "refused" / "model.safetensors").exists()


def test_images_without_a_place_are_no_stand_ins(tiny_model, data, tmp_path):
    """As data of another tokenizer have them, whose image token is another; upstream's forward refuses them, too."""
    run = options(tiny_model, data, tmp_path / "out", max_steps=1, tokenized_path=str(tmp_path / "tokens"))
    train(run)
    image = AutoConfig.from_pretrained(tiny_model).image_token_id
    kept = load_from_disk(tmp_path / "tokens")
    names = ["chosen_input_ids", "rejected_input_ids"]
    other = kept.map(lambda row: {name: [5 if it == image else it for it in row[name]] for name in names})
    other.save_to_disk(tmp_path / "others")
    with pytest.raises(UniDPOError, match="Pairs with images have no image tokens"):
        train(run | {"tokenized_path": str(tmp_path / "others"), "output_dir": str(tmp_path / "other")})


def test_noise_by_the_length_of_a_row_is_left_to_upstream(tiny_model, data, tmp_path):
    model_args, data_args, training_args, finetuning_args, _ = get_train_args(
        options(tiny_model, data, tmp_path / "out", neftune_noise_alpha=5)
    )
    check_run(model_args, data_args, training_args, finetuning_args)
    assert finetuning_args.forward_route == "upstream"
    finetuning_args.pref_forward = "shared_prefix"
    with pytest.raises(UniDPOError, match="`neftune_noise_alpha` changes the model's forward"):
        check_run(model_args, data_args, training_args, finetuning_args)
    data_args.ignore_pad_token_for_loss = False
    with pytest.raises(UniDPOError, match="scores padding"):
        check_run(model_args, data_args, training_args, finetuning_args)


def test_an_unknown_route_is_refused(tiny_model, data, tmp_path):
    run = options(tiny_model, data, tmp_path, pref_forward="fast")
    with pytest.raises(UniDPOError, match="`pref_forward: fast` is unknown; choose from auto, shared_prefix"):
        train(run)


@pytest.mark.parametrize("changes", [{"dpo_average_log_prob": True}, {"pref_forward": "upstream"}])
def test_other_losses_keep_upstreams_forward_unless_asked(tiny_model, data, tmp_path, monkeypatch, changes):
    """Our trainer alone brings no engine: neither a message nor a batch laid out for it."""
    monkeypatch.setattr("llamafactory.train.uni_dpo.training.forward.choose", None)
    outcome = recorded_run(
        options(tiny_model, data, tmp_path, dataset="mixed", pref_loss="sigmoid", max_steps=1, **SLOW | changes)
    )
    assert not outcome.about("pref_forward") and not outcome.about("Self-check")
    assert outcome.losses


def test_upstreams_forward_in_our_trainer_logs_what_upstream_logs(tiny_model, data, tmp_path):
    """Metrics that stay on the device until they are logged are the same numbers, to the last bit."""
    run = options(tiny_model, data, tmp_path, dataset="mixed", pref_loss="orpo", max_steps=3, pref_ftx=0.2, val_size=4)
    run |= {"learning_rate": 1e-4, "pref_beta": 0.5, "eval_strategy": "steps", "eval_steps": 2}
    logs = [
        train(run | changes | {"output_dir": str(tmp_path / name)})
        for name, changes in (("stock", {}), ("ours", {"pref_forward": "upstream"}))
    ]
    stock, ours = (
        [{n: v for n, v in e.items() if not n.endswith(("runtime", "per_second"))} for e in log] for log in logs
    )
    assert stock == ours and {"odds_ratio_loss", "rewards/margins", "logits/chosen"} <= stock[0].keys()


# ---- the self-check ----


def blind_to_branches(query, key, value, spans, scale):
    """Attention as if the rejected answer followed the chosen one: what the spans are there to prevent."""
    groups = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
    return F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale).transpose(1, 2)


@pytest.mark.parametrize(
    "changes", [{}, {"dataloader_num_workers": 2, "pref_loss": "sigmoid", "pref_forward": "auto"}]
)
def test_a_wrong_engine_ends_the_run(tiny_model, data, tmp_path, monkeypatch, changes):
    """Nobody knows which of the two is wrong, so both values are shown and nothing is trained."""
    monkeypatch.setattr(attention, "split_attention", blind_to_branches)
    with pytest.raises(UniDPOError) as refused, messages() as said:
        train(options(tiny_model, data, tmp_path / "out", dataset="mixed", max_steps=4, **SLOW | changes))
    message = str(refused.value)
    assert "`pref_forward: shared_prefix` and LlamaFactory's own forward" in message
    assert "neither is known to be right" in message and "nothing was trained" in message
    assert "install_overlay.py status" in message and "`pref_forward: upstream`" in message
    values = re.findall(
        r"  pair (\d), (policy|reference) (chosen|rejected): (-\S+) and (-[\d.]+)(, too far)?", message
    )
    assert [value[:3] for value in values] == [
        (pair, model, side) for pair in "12" for model in ("policy", "reference") for side in ("chosen", "rejected")
    ]
    for pair, _, side, ours, theirs, apart in values:  # the first chosen answer alone sees nothing that it must not
        assert (abs(float(ours) - float(theirs)) > 0.03) == bool(apart) == ((pair, side) != ("1", "chosen"))
    assert not any("Self-check of pref_forward: within" in line for line in said)
    assert not list((tmp_path / "out").glob("*.safetensors"))


def test_a_kind_of_run_that_has_passed_is_not_checked_again(tiny_model, data, tmp_path, monkeypatch):
    """Other pairs make no other kind; another precision does, and so does an edited model."""
    monkeypatch.delenv("UNI_DPO_SELF_CHECK")
    monkeypatch.setattr(passed, "FOLDER", tmp_path / "passed")

    def said(name: str, **changes) -> list[str]:
        run = options(tiny_model, data, tmp_path / name, max_steps=1, **SLOW | changes)
        return [line.split(":")[1][1:7] for line in recorded_run(run).about("Self-check of pref_forward")]

    assert said("first") == ["within"] and said("second", dataset="mixed", learning_rate=1e-5) == ["passed"]
    assert said("bf16", bf16=True, use_cpu=True) == ["within"] and said("lora", finetuning_type="lora") == ["within"]
    stored = {"uni_dpo_image_cache": str(tmp_path / "images")}
    assert said("stored", **stored) == said("stored again", **stored) == ["within"]
    monkeypatch.setattr(passed, "_sources", lambda *classes: "edited")
    assert said("edited") == ["within"] and said("once more") == ["passed"]
    assert len(list((tmp_path / "passed").glob("*.json"))) == 5


def test_a_forward_that_gives_nan_ends_the_run(tiny_model, data, tmp_path, monkeypatch):
    def broken(query, *others):
        return torch.full_like(query.transpose(1, 2), torch.nan)

    monkeypatch.setattr(attention, "split_attention", broken)
    with pytest.raises(UniDPOError, match="policy chosen: nan and -.*, too far apart"):
        train(text_run(text_model(tiny_model, tmp_path / "model"), data, tmp_path / "out"))


def test_workers_change_nothing(tiny_model, data, tmp_path):
    run = options(tiny_model, data, tmp_path, dataset="mixed", max_steps=4, **SLOW)
    one, two = (
        recorded_run(run | {"dataloader_num_workers": n, "output_dir": str(tmp_path / str(n))}) for n in (0, 2)
    )
    assert one.losses == two.losses and two.about("Self-check of pref_forward: within")

"""Options: from YAML and from the command line, checked by name, and invisible to other losses."""

import inspect
from dataclasses import fields
from typing import get_args

import pytest
import transformers
from pairs import ROOT, command_line, options
from transformers import HfArgumentParser

import llamafactory.train.tuner  # noqa: F401  every way into training imports it, and with it the seam
from llamafactory.hparams import get_train_args, parser
from llamafactory.train.uni_dpo.errors import UniDPOError
from llamafactory.train.uni_dpo.options.arguments import UniDPOFinetuningArguments
from llamafactory.train.uni_dpo.options.checks import UNKNOWN_TO_TRL, WITHOUT_REFERENCE, PreferenceLoss, check_run
from llamafactory.train.uni_dpo.upstream.underneath import OUR_LOSSES


def parse(**changes):
    """Parse the options of a short run as LlamaFactory does and return its fine-tuning options."""
    run = options(ROOT / "no-model", ROOT / "no-data", ROOT / "outputs" / "no-output", **changes)
    return get_train_args(run)[3]


def test_defaults_are_the_published_multimodal_settings():
    args = parse()
    assert args.uses_uni_dpo and args.use_ref_model
    assert (args.uni_dpo_qual_eta, args.uni_dpo_tau_ref, args.uni_dpo_perf_gamma) == (0.7, 2.0, 3.0)
    assert (args.uni_dpo_nll_lambda, args.uni_dpo_tau_good) == (0.001, 2.5)


@pytest.mark.parametrize(
    "loss, unset, true, false",
    [
        ("uni_dpo", True, True, False),
        ("odpo", False, True, False),
        ("sigmoid", False, True, False),
        ("hinge", False, True, False),
        ("simpo", False, False, "refused"),
        ("ipo", False, False, "refused"),
        ("orpo", False, False, "refused"),
    ],
)
def test_who_divides_by_length(loss, unset, true, false):
    """False here means that our trainer leaves log-probs as upstream made them (means for simpo, ipo and orpo)."""
    assert parse(pref_loss=loss).averages_logps is unset
    assert parse(pref_loss=loss, dpo_average_log_prob=True).averages_logps is true
    if false == "refused":
        with pytest.raises(UniDPOError, match="dpo_average_log_prob"):
            parse(pref_loss=loss, dpo_average_log_prob=False)
    else:
        assert parse(pref_loss=loss, dpo_average_log_prob=False).averages_logps is false


MARGIN = {"pref_loss": "sigmoid", "pref_margin_scale": 0.5}
# Options, and what the message has to say.
REFUSED = [
    ({"uni_dpo_qual_eta": -0.1}, "`uni_dpo_qual_eta`"),
    ({"uni_dpo_perf_gamma": "three"}, "`uni_dpo_perf_gamma`"),
    ({"uni_dpo_nll_lambda": -1e-9}, "`uni_dpo_nll_lambda`"),
    ({"uni_dpo_tau_ref": float("nan")}, "`uni_dpo_tau_ref`"),
    ({"uni_dpo_tau_ref": 10**400}, "`uni_dpo_tau_ref`"),  # larger than any float
    ({"uni_dpo_tau_good": float("inf")}, "`uni_dpo_tau_good`"),
    ({"pref_beta": 0.0}, "`pref_beta`"),
    ({"dpo_label_smoothing": 0.1}, "`dpo_label_smoothing`"),
    ({"pref_bco_weight": 1.0}, "`pref_bco_weight`"),
    ({"ld_alpha": 0.5}, "`ld_alpha`"),
    ({"pref_loss": "robust_dpo", "pref_flip_rate": 0.5}, "`pref_flip_rate` is 0.5, but has to be .* below 0.5"),
    ({"pref_loss": "odpo", "pref_offset_alpha": -1.0}, "`pref_offset_alpha`"),
    ({"pref_loss": "odpo", "pref_offset_scaling": "root"}, "`pref_offset_scaling`"),
    ({"pref_loss": "rpo_sq", "pref_reward_scale": 0.0}, "`pref_reward_scale`"),
    ({"pref_loss": "rpo_fwd_kl", "pref_bco_weight": 1.0}, "`pref_bco_weight` has no meaning with .*rpo_fwd_kl"),
    (
        {"pref_loss": "robust_dpo", "dpo_label_smoothing": 0.1},
        "`dpo_label_smoothing` has no meaning with .*robust_dpo",
    ),
    ({"pref_anchor": -0.5}, "`pref_anchor`"),
    ({"pref_anchor_delta": float("nan")}, "`pref_anchor_delta`"),
    ({"pref_loss": "sigmoid", "pref_anchor": 1.0, "pref_beta": 0.0}, "`pref_beta`"),
    ({"pref_loss": "simpo", "pref_anchor": 1.0}, "`pref_anchor: 1.0` .*reference.*`pref_loss: simpo`"),
    ({"pref_loss": "sigmoid", "pref_policy_weights": True, "ld_alpha": 0.5}, "`pref_policy_weights`.*`ld_alpha`"),
    ({"pref_loss": "sigmoid", "pref_pair_weights": "no"}, "`pref_pair_weights`"),
    ({"seed": [1]}, "seed"),
    ({"seed": -1}, "seed"),
    (MARGIN | {"pref_margin_scale": -0.1}, "`pref_margin_scale`"),
    (MARGIN | {"pref_margin_scale": "half"}, "`pref_margin_scale`"),
    (MARGIN | {"pref_margin_rate": 0.0}, "`pref_margin_rate`"),
    (MARGIN | {"pref_beta": 0.0}, "`pref_beta`"),
    (MARGIN | {"pref_loss_as_named": "false"}, "`pref_loss_as_named`"),
    ({"pref_loss": "unidpo"}, "unidpo.*uni_dpo"),
    (
        {"pref_loss": "kto_pair", "pref_loss_as_named": True},
        "`pref_loss_as_named` is impossible with `pref_loss: kto_pair`",
    ),
    *(
        # Both options, and which of the two to change.
        (
            {"pref_loss": loss} | {"pref_margin_scale": 0.5},
            f"`pref_margin_scale: 0.5` .*`pref_loss: sigmoid`.*`pref_loss: {loss}`",
        )
        for loss in ("uni_dpo", "hinge", "ipo", "kto_pair", "orpo", "simpo")
    ),
]


@pytest.mark.parametrize("changes, said", REFUSED)
def test_refused_by_name(changes, said):
    with pytest.raises(UniDPOError, match=said):
        parse(**changes)


def test_trl_knows_the_others():
    """Of upstream's list: what is neither computed by LlamaFactory nor refused by us is in trl's source."""
    from trl import DPOTrainer

    source = inspect.getsource(DPOTrainer.dpo_loss)
    asked = set(get_args(PreferenceLoss)) - {*OUR_LOSSES, *WITHOUT_REFERENCE}
    assert {name for name in asked if f'"{name}"' not in source} == set(UNKNOWN_TO_TRL)
    parse(pref_loss="kto_pair")


def test_who_needs_scores_and_our_trainer():
    named, margin = parse(pref_loss="ipo", pref_loss_as_named=True), parse(**MARGIN)
    assert named.uses_our_trainer and not named.uses_scores and named.forward_route == "upstream"
    assert margin.uses_our_trainer and margin.uses_scores and not margin.uses_uni_dpo
    assert margin.scores_needed_by == "pref_margin_scale: 0.5" and parse().scores_needed_by == "pref_loss: uni_dpo"
    plain = parse(pref_loss="ipo", pref_margin_rate=1.0)
    assert not (plain.uses_our_trainer or plain.uses_scores)
    robust, odpo = parse(pref_loss="robust_dpo", pref_pair_weights=True), parse(pref_loss="odpo")
    assert odpo.uses_our_trainer and not odpo.uses_uni_dpo and odpo.forward_route == "auto" and odpo.use_ref_model
    assert odpo.numbers_needed == dict.fromkeys(["score_chosen", "score_rejected"], "pref_loss: odpo")
    assert robust.numbers_needed == {"weight": "pref_pair_weights: true"} and not robust.uses_scores
    for name in ("pref_pair_weights", "pref_policy_weights", "pref_anchor"):
        assert parse(pref_loss="sigmoid", **{name: True if "weights" in name else 0.5}).uses_our_trainer
    other = parse(stage="sft", **MARGIN, uni_dpo_perf_gamma=-1.0, pref_pair_weights=True)
    assert not other.numbers_needed
    assert not (other.uses_scores or other.uses_uni_dpo or other.averages_logps)


@pytest.mark.parametrize("variable", ["USE_MCA", "USE_V1"])
def test_refuses_what_goes_around_the_trainer(monkeypatch, variable):
    monkeypatch.setenv(variable, "1")
    for ours in ({"pref_loss": "uni_dpo"}, {"pref_loss": "sigmoid", "dpo_average_log_prob": True}):
        with pytest.raises(UniDPOError, match=variable):
            UniDPOFinetuningArguments(stage="dpo", **ours)
    UniDPOFinetuningArguments(stage="dpo", pref_loss="sigmoid")


def test_refuses_before_anything_loads(tmp_path):
    """KTransformers, and grouping by length, which knows single texts only."""
    from llamafactory.train.uni_dpo.workflow import run_dpo

    model_args, *_ = get_train_args(options(tmp_path / "none", tmp_path, tmp_path / "out"))
    model_args.use_kt = True
    with pytest.raises(UniDPOError, match="use_kt"):
        run_dpo(model_args, None, None, parse())
    known = {option.name for option in fields(transformers.TrainingArguments)}
    grouped = (
        {"group_by_length": True} if "group_by_length" in known else {"train_sampling_strategy": "group_by_length"}
    )
    with pytest.raises(UniDPOError, match="`group_by_length` orders single texts"):
        check_run(None, None, transformers.TrainingArguments(output_dir=str(tmp_path), use_cpu=True, **grouped), None)


OURS = ("uni_dpo_tau_good", "dpo_average_log_prob", "uni_dpo_perf_detached")
OURS += ("pref_loss_as_named", "pref_margin_scale", "pref_margin_rate")
OURS += ("pref_flip_rate", "pref_anchor", "pref_anchor_delta")


@pytest.mark.parametrize(
    "changes, reported",
    [
        ({"pref_loss": "sigmoid"}, {}),
        ({"pref_loss": "sigmoid", "pref_margin_rate": 2.0}, {}),
        ({"pref_loss": "sigmoid", "dpo_average_log_prob": True}, {"dpo_average_log_prob": True}),
        ({"pref_loss": "ipo", "pref_loss_as_named": True}, {"pref_loss_as_named": True}),
        (MARGIN, {"pref_margin_scale": 0.5, "pref_margin_rate": 0.5}),
        ({"pref_loss": "sigmoid", "pref_anchor": 1.0}, {"pref_anchor": 1.0, "pref_anchor_delta": 0.0}),
        (
            {"pref_loss": "robust_dpo"},
            {"dpo_average_log_prob": None, "pref_flip_rate": 0.1, "pref_anchor": 0.0},
        ),
    ],
)
def test_options_are_reported_where_they_mean_something(changes, reported):
    assert {name: value for name, value in parse(**changes).to_dict().items() if name in OURS} == reported
    ours = parse().to_dict()
    assert ours["uni_dpo_tau_good"] == 2.5 and ours["uni_dpo_perf_detached"] is False


def test_help_names_every_option():
    text = " ".join(HfArgumentParser(parser._TRAIN_ARGS).format_help().split())
    for phrase in ("--uni_dpo_qual_eta", "--uni_dpo_tau_good", "eta: steepness", "--dpo_average_log_prob"):
        assert phrase in text


def test_command_line_shows_one_message_and_exits_non_zero(tmp_path):
    """In a process as a user starts it: the message on its error stream."""
    run = options(tmp_path / "none", tmp_path, tmp_path / "out")
    done = command_line(run, tmp_path / "run.yaml", "uni_dpo_perf_gamma=-1", PYTHONUNBUFFERED="1")
    assert done.returncode == 1
    assert "Error: `uni_dpo_perf_gamma` is -1" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


SWITCHES = ["dpo_average_log_prob", "pref_loss_as_named", "pref_pair_weights", "pref_policy_weights"]
SWITCHES += ["pref_varlen_attention", "uni_dpo_log_pairs", "uni_dpo_perf_detached"]


@pytest.mark.parametrize("name", SWITCHES)
@pytest.mark.parametrize("dash", [str, lambda name: name.replace("_", "-")])
def test_switches_stand_bare_and_negated(name, dash):
    """As in the published command line: `--dpo_average_log_prob`, `--no_dpo_average_log_prob`."""
    flags = "--stage dpo --do_train --dataset d --model_name_or_path m --output_dir o --pref_loss ipo".split()

    def parsed(*given):
        return getattr(get_train_args([*flags, *map(dash, given), "--seed", "1"])[3], name)

    assert sorted(UniDPOFinetuningArguments.SWITCHES) == SWITCHES
    assert not parsed()
    assert parsed(f"--{name}") is parsed(f"--{name}", "true") is True
    if name == "dpo_average_log_prob":  # ipo divides whatever is said
        with pytest.raises(UniDPOError, match=name):
            parsed(f"--no_{name}")
    else:
        assert parsed(f"--no_{name}") is parsed(f"--{name}", "false") is False

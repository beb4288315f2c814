"""Options: from YAML and from the command line, checked by name, and invisible to other losses."""

import inspect
from dataclasses import fields
from typing import get_args

import pytest
from pairs import ROOT, command_line, options
from transformers import HfArgumentParser

from llamafactory.hparams import get_train_args
from llamafactory.train.uni_dpo.errors import UniDPOError


def parse(**changes):
    """Parse the options of a short run as LlamaFactory does and return its fine-tuning options."""
    import llamafactory.train.tuner  # noqa: F401  every way into training imports it, and with it the seam

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


@pytest.mark.parametrize(
    "name, value",
    [
        ("uni_dpo_qual_eta", -0.1),
        ("uni_dpo_perf_gamma", -1),
        ("uni_dpo_perf_gamma", "three"),
        ("uni_dpo_nll_lambda", -1e-9),
        ("uni_dpo_tau_ref", float("nan")),
        ("uni_dpo_tau_ref", 10**400),  # larger than any float
        ("uni_dpo_tau_good", float("inf")),
        ("pref_beta", 0.0),
        ("dpo_label_smoothing", 0.1),
        ("pref_bco_weight", 1.0),
        ("ld_alpha", 0.5),
        ("seed", [1]),
        ("seed", -1),
    ],
)
def test_refused_by_name(name, value):
    with pytest.raises(UniDPOError, match=f"`?{name}`?"):
        parse(**{name: value})


@pytest.mark.parametrize("loss", ["uni_dpo", "hinge", "ipo", "kto_pair", "orpo", "simpo"])
def test_a_margin_scales_the_sigmoid_loss_only(loss):
    """The message names both options, and which of the two to change."""
    with pytest.raises(UniDPOError, match=f"`pref_margin_scale: 0.5` .*`pref_loss: sigmoid`.*`pref_loss: {loss}`"):
        parse(pref_loss=loss, pref_margin_scale=0.5)


@pytest.mark.parametrize(
    "name, value",
    [
        ("pref_margin_scale", -0.1),
        ("pref_margin_scale", float("nan")),
        ("pref_margin_scale", "half"),
        ("pref_margin_rate", 0.0),
        ("pref_margin_rate", float("inf")),
        ("pref_beta", 0.0),
        ("pref_loss_as_named", "false"),
    ],
)
def test_options_of_other_losses_refused_by_name(name, value):
    with pytest.raises(UniDPOError, match=f"`{name}`"):
        parse(**{"pref_loss": "sigmoid", "pref_margin_scale": 0.5, name: value})


def test_a_name_that_trl_does_not_know_is_refused():
    with pytest.raises(UniDPOError, match="`pref_loss_as_named` is impossible with `pref_loss: kto_pair`"):
        parse(pref_loss="kto_pair", pref_loss_as_named=True)
    parse(pref_loss="kto_pair")


def test_trl_knows_the_others():
    """Of upstream's list: what is neither computed by LlamaFactory nor refused by us is in trl's source."""
    from trl import DPOTrainer

    from llamafactory.train.uni_dpo.options.checks import UNKNOWN_TO_TRL, WITHOUT_REFERENCE, PreferenceLoss

    source = inspect.getsource(DPOTrainer.dpo_loss)
    asked = set(get_args(PreferenceLoss)) - {"uni_dpo", *WITHOUT_REFERENCE}
    assert {name for name in asked if f'"{name}"' not in source} == set(UNKNOWN_TO_TRL)


def test_who_needs_scores_and_our_trainer():
    named, margin = parse(pref_loss="ipo", pref_loss_as_named=True), parse(pref_loss="sigmoid", pref_margin_scale=0.5)
    assert named.uses_our_trainer and not named.uses_scores and named.forward_route == "upstream"
    assert margin.uses_our_trainer and margin.uses_scores and not margin.uses_uni_dpo
    assert margin.scores_needed_by == "pref_margin_scale: 0.5" and parse().scores_needed_by == "pref_loss: uni_dpo"
    plain = parse(pref_loss="ipo", pref_margin_rate=1.0)
    assert not (plain.uses_our_trainer or plain.uses_scores)
    assert not parse(stage="sft", pref_loss="sigmoid", pref_margin_scale=0.5).uses_scores


@pytest.mark.parametrize("variable", ["USE_MCA", "USE_V1"])
def test_refuses_what_goes_around_the_trainer(monkeypatch, variable):
    from llamafactory.train.uni_dpo.options.arguments import UniDPOFinetuningArguments

    monkeypatch.setenv(variable, "1")
    with pytest.raises(UniDPOError, match=variable):
        UniDPOFinetuningArguments(stage="dpo", pref_loss="uni_dpo")
    with pytest.raises(UniDPOError, match=variable):
        UniDPOFinetuningArguments(stage="dpo", pref_loss="sigmoid", dpo_average_log_prob=True)
    UniDPOFinetuningArguments(stage="dpo", pref_loss="sigmoid")


def test_refuses_kt_before_anything_loads(tmp_path):
    from llamafactory.train.uni_dpo.workflow import run_dpo

    model_args, *_ = get_train_args(options(tmp_path / "none", tmp_path, tmp_path / "out"))
    model_args.use_kt = True
    with pytest.raises(UniDPOError, match="use_kt"):
        run_dpo(model_args, None, None, parse())


def test_refuses_to_group_by_length_before_anything_loads(tmp_path):
    """It is raised over when the model is loaded: it knows single texts only."""
    import transformers

    from llamafactory.train.uni_dpo.options.checks import check_run

    known = {option.name for option in fields(transformers.TrainingArguments)}
    name = "group_by_length" if "group_by_length" in known else "train_sampling_strategy"
    value = True if name == "group_by_length" else "group_by_length"
    arguments = transformers.TrainingArguments(output_dir=str(tmp_path), use_cpu=True, **{name: value})
    with pytest.raises(UniDPOError, match="`group_by_length` orders single texts"):
        check_run(None, arguments, None)


def test_a_misspelt_loss_is_refused():
    with pytest.raises(UniDPOError, match="unidpo.*uni_dpo"):
        parse(pref_loss="unidpo")


def test_other_stages_are_not_looked_at():
    args = parse(stage="sft", pref_loss="sigmoid", uni_dpo_perf_gamma=-1.0)
    assert not args.uses_uni_dpo and not args.averages_logps


def test_other_losses_are_reported_without_our_options():
    assert not [name for name in parse(pref_loss="sigmoid").to_dict() if "uni_dpo" in name or "average" in name]
    assert parse(pref_loss="sigmoid", dpo_average_log_prob=True).to_dict()["dpo_average_log_prob"] is True
    assert parse().to_dict()["uni_dpo_tau_good"] == 2.5


def test_options_of_other_losses_are_reported_where_they_mean_something():
    def reported(**changes):
        names = ("pref_loss_as_named", "pref_margin_scale", "pref_margin_rate", "uni_dpo_perf_detached")
        return {name: value for name, value in parse(**changes).to_dict().items() if name in names}

    assert reported(pref_loss="sigmoid") == reported(pref_loss="sigmoid", pref_margin_rate=2.0) == {}
    assert reported() == {"uni_dpo_perf_detached": False}
    assert reported(pref_loss="ipo", pref_loss_as_named=True) == {"pref_loss_as_named": True}
    margin = {"pref_margin_scale": 0.3, "pref_margin_rate": 0.5}
    assert reported(pref_loss="sigmoid", pref_margin_scale=0.3) == margin


def test_help_names_every_option():
    import llamafactory.train.tuner  # noqa: F401
    from llamafactory.hparams import parser

    text = " ".join(HfArgumentParser(parser._TRAIN_ARGS).format_help().split())
    for phrase in ("--uni_dpo_qual_eta", "--uni_dpo_tau_good", "eta: steepness", "--dpo_average_log_prob"):
        assert phrase in text


def test_command_line_shows_one_message_and_exits_non_zero(tmp_path):
    """In a process as a user starts it: the message on its error stream, and nothing else there."""
    run = options(tmp_path / "none", tmp_path, tmp_path / "out")
    done = command_line(run, tmp_path / "run.yaml", "uni_dpo_perf_gamma=-1", PYTHONUNBUFFERED="1")
    assert done.returncode == 1
    assert "Error: `uni_dpo_perf_gamma` is -1" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_flags_instead_of_yaml():
    import llamafactory.train.tuner  # noqa: F401

    flags = "--stage dpo --pref_loss uni_dpo --do_train --dataset d --model_name_or_path m --output_dir o".split()
    args = get_train_args([*flags, "--uni_dpo_perf_gamma", "2.5", "--dpo_average_log_prob", "false"])[3]
    assert args.uni_dpo_perf_gamma == 2.5 and not args.averages_logps


SWITCHES = ["dpo_average_log_prob", "pref_loss_as_named", "uni_dpo_log_pairs", "uni_dpo_perf_detached"]


@pytest.mark.parametrize("name", SWITCHES)
@pytest.mark.parametrize("dash", [str, lambda name: name.replace("_", "-")])
def test_switches_stand_bare_and_negated(name, dash):
    """As in the published command line: `--dpo_average_log_prob`, `--no_dpo_average_log_prob`."""
    from llamafactory.train.uni_dpo.options.arguments import UniDPOFinetuningArguments

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

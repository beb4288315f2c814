"""YAML files of this repository, changed at random, through LlamaFactory's parser and the launcher.

A refusal is a message. From the launcher it is a `DataError`. From the parser it is a `UniDPOError`, which is the only
one allowed where nothing but options of ours were changed, and which then names one of them; where any option may have
been changed, a `ValueError` or an `ImportError` of upstream's own checks will do as well. Odd types that set off
anything else deep inside of upstream's parser, which does not check the types of YAML values, are a `UniDPOError`.
"""

from itertools import pairwise

import loading  # noqa: F401  puts the launcher on the path
import yaml
from damage import NUMBERS, Tally, fuzz, mutated, odd_values, ruined
from hypothesis import example, given
from hypothesis import strategies as st
from pairs import ROOT, options

from llamafactory.hparams import get_train_args
from llamafactory.train.uni_dpo.errors import UniDPOError
from llamafactory.train.uni_dpo.options.arguments import UniDPOArguments
from pair_data.errors import DataError


EXAMPLES = ROOT / "examples" / "uni_dpo"
YAMLS = sorted(EXAMPLES.glob("*.yaml"))
OURS = {
    "uni_dpo_qual_eta": 0.7,
    "uni_dpo_tau_ref": 2.0,
    "uni_dpo_perf_gamma": 3.0,
    "uni_dpo_nll_lambda": 0.001,
    "uni_dpo_tau_good": 2.5,
    "uni_dpo_perf_detached": False,
    "uni_dpo_log_pairs": True,
    "pref_forward": "auto",
    "pref_token_budget": 4096,
    "pref_varlen_attention": False,
    "uni_dpo_reference_cache": "cache",
    "uni_dpo_image_cache": "images",
    "uni_dpo_image_cache_gb": 50,
    "dpo_average_log_prob": True,
    "pref_loss_as_named": False,
    "pref_margin_scale": 0.0,
    "pref_margin_rate": 0.5,
    "pref_flip_rate": 0.1,
    "pref_offset_alpha": 1.0,
    "pref_offset_scaling": "log",
    "pref_reward_scale": 1.0,
    "pref_pair_weights": False,
    "pref_policy_weights": False,
    "pref_anchor": 0.0,
    "pref_anchor_delta": 0.0,
    "pref_beta": 2.0,
    "dpo_label_smoothing": 0.0,
    "pref_bco_weight": 0.0,
    "ld_alpha": None,
}


BOMB = [f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n".encode() for a, b in pairwise("abcdefghij")]
KINDS = {name: (int, float) if isinstance(value, float) else type(value) for name, value in OURS.items()}
KINDS |= dict.fromkeys(["uni_dpo_reference_cache", "uni_dpo_image_cache", "pref_forward"], (str, type(None)))
KINDS |= {"dpo_average_log_prob": (bool, type(None)), "uni_dpo_image_cache_gb": (int, float)}


def parse(run):
    import llamafactory.train.tuner  # noqa: F401

    return get_train_args(run)[3]


def test_our_options(figure):
    """Every refusal names one of the changed options; what is taken has the type that its use needs."""
    tally = Tally(UniDPOError)
    base = options(ROOT / "no-model", ROOT / "no-data", ROOT / "outputs" / "no-output")
    wild = st.one_of(odd_values, st.sampled_from(NUMBERS), st.sampled_from(["auto", "upstream", "false", None]))
    tame = {float: st.floats(1e-6, 1e6), int: st.integers(1, 100), bool: st.booleans(), str: st.just("auto")}
    change = st.sampled_from(list(OURS)).flatmap(
        lambda name: st.tuples(st.just(name), st.one_of(wild, *[tame.get(type(OURS[name]), st.none())] * 3))
    )

    @fuzz(40, 4000)
    @given(st.lists(change, min_size=1, max_size=3).map(dict))
    def trial(changes):
        with tally.attempt():
            try:
                taken = parse(base | OURS | changes)
                assert all(isinstance(getattr(taken, name), kinds) for name, kinds in KINDS.items())
            except UniDPOError as error:
                assert any(name in str(error) for name in changes), str(error)
                raise

    trial()
    assert set(OURS) >= set(UniDPOArguments.__dataclass_fields__)
    figure("8 fuzz", "options of ours changed, through LlamaFactory's parser", tally.total, tally.seen())


def test_whole_files(figure, monkeypatch):
    """Upstream's parser gives a `UniDPOError`; the checks behind it, which are upstream's, a sentence of their own."""
    for name in ("USE_V1", "USE_MCA", "NNODES"):
        monkeypatch.delenv(name, raising=False)
    tally = Tally(UniDPOError, ValueError, ImportError)
    here = {"pref_loss": "uni_dpo", "bf16": False, "report_to": "none"}  # without a GPU, nor anything to report to
    files = [yaml.safe_load(path.read_text()) | here for path in YAMLS]

    @fuzz(40, 4000)
    @given(st.sampled_from(files).flatmap(mutated))
    def trial(run):
        if isinstance(run, dict) and run.get("pref_loss") == "uni_dpo" and run.get("stage") == "dpo":
            with tally.attempt():
                parse(run)

    trial()
    figure("8 fuzz", "recipes changed, through LlamaFactory's parser", tally.total, tally.seen())


def test_the_launcher(figure, tmp_path):
    """Its settings may come from a file that is hardly YAML, and from arguments."""
    from launcher.checks import check_data, disk_note
    from launcher.machine import build_command, fit_to_machine
    from launcher.output import plan_output, sidecar
    from launcher.settings import as_yaml, read_run

    tally = Tally(DataError)
    file = tmp_path / "run.yaml"
    good = [yaml.safe_load(path.read_text()) | {"output_dir": str(tmp_path / "out")} for path in YAMLS]
    arguments = ["learning_rate=1e-6", "GPUS=0", "BATCH=2", "resume=true", "OUTPUT=out", "DATA=a,b", "deepspeed=null"]
    arguments += ["GPUS=-1", "GLOBAL_BATCH=0", "BATCH=٣", "a=[", "a={}", "=", "a.b.c=1", "a=${b}", "x", "NNODES=two"]

    def attempt(content, given):
        file.write_bytes(content)
        with tally.attempt():
            run = read_run(file, ["GPUS=0", *given])
            fit_to_machine(run, trust_gpus=True)
            build_command(run, sidecar(run.output, "effective.yaml"))
            plan_output(run.output, run.settings, run.resume)
            assert load(as_yaml(run.settings)) is not None
            disk_note(run.settings)
            check_data(run.settings | {"dataset_dir": "ONLINE"})

    def load(text):
        from omegaconf import OmegaConf

        return OmegaConf.create(text)

    given_arguments = st.lists(st.sampled_from(arguments), max_size=2)

    @fuzz(40, 4000)
    @given(st.sampled_from(good).flatmap(mutated), given_arguments)
    def by_value(run, extra):
        attempt(yaml.safe_dump(run, allow_unicode=False).encode(errors="surrogatepass"), extra)

    @fuzz(25, 2000)
    @given(st.sampled_from(YAMLS).flatmap(lambda path: ruined(path.read_bytes())), given_arguments)
    @example(b"a: &a [x,x,x,x,x,x,x,x,x]\n" + b"".join(BOMB), [])
    @example(b"a: " + b"[" * 100_000, [])
    def by_byte(content, extra):
        attempt(content, extra)

    by_value()
    by_byte()
    figure("8 fuzz", "recipes changed or damaged, through the launcher", tally.total, tally.seen())

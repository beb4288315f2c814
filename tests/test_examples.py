"""The examples: published settings, a runner that fits them to the machine, and real runs through it."""

import functools
import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml
from launching import EXAMPLES, OURS, bash, dry_run, environment, example, here, script, settings_in
from omegaconf import OmegaConf
from pairs import ROOT, make_rows, write_dataset
from upstream import checkout_tree

from launcher.memory import model_sizes


NAMES = ("uni_dpo", "dpo", "simpo", "mpo")
PUBLISHED = yaml.safe_load("""
uni_dpo: {pref_loss: uni_dpo, learning_rate: 6.0e-6, pref_beta: 2.0, dpo_label_smoothing: 0.0, averages_logps: true,
          uni_dpo_qual_eta: 0.7, uni_dpo_tau_ref: 2.0, uni_dpo_perf_gamma: 3.0, uni_dpo_nll_lambda: 0.001,
          uni_dpo_tau_good: 2.5}
dpo: {pref_loss: sigmoid, learning_rate: 5.0e-7, pref_beta: 0.1, dpo_label_smoothing: 0.1, averages_logps: true}
simpo: {pref_loss: simpo, learning_rate: 5.0e-7, pref_beta: 2.0, simpo_gamma: 1.0}  # upstream divides by itself
mpo: {pref_loss: sigmoid, learning_rate: 5.0e-6, pref_beta: 0.1, pref_bco_weight: 0.25, pref_ftx: 1.0,
      warmup_steps: 12, weight_decay: 0.05, averages_logps: false}
""")
COMMON = yaml.safe_load("""
{model_name_or_path: Qwen/Qwen2-VL-2B, dataset: [uni_dpo_mm_rlhf], template: qwen2_vl, stage: dpo,
 image_max_pixels: 589824, cutoff_len: 4096, per_device_train_batch_size: 1, gradient_accumulation_steps: 32,
 finetuning_type: full, freeze_vision_tower: true, freeze_multi_modal_projector: true, freeze_language_model: false,
 num_train_epochs: 1.0, lr_scheduler_type: cosine, warmup_steps: 0, warmup_ratio: 0.0, save_only_model: false}
""")

# What the examples of other models have instead; all else is as for Qwen2-VL-2B. Their template, and their model.
OTHERS = {
    "Qwen3_VL_4B_uni_dpo": ("qwen3_vl_nothink", "Qwen/Qwen3-VL-4B-Instruct"),
    "Qwen3_VL_4B_lora_uni_dpo": ("qwen3_vl_nothink", "Qwen/Qwen3-VL-4B-Instruct"),
    "Qwen3_5_4B_uni_dpo": ("qwen3_5_nothink", "Qwen/Qwen3.5-4B"),
    "Qwen3_5_4B_lora_uni_dpo": ("qwen3_5_nothink", "Qwen/Qwen3.5-4B"),
    "Qwen2_5_VL_7B_lora_uni_dpo": ("qwen2_vl", "Qwen/Qwen2.5-VL-7B-Instruct"),
    "InternVL3_5_4B_lora_uni_dpo": ("intern_vl", "OpenGVLab/InternVL3_5-4B-HF"),
}
LORA = {"finetuning_type": "lora", "lora_target": ["all"], "lora_rank": 16, "lora_alpha": 32, "learning_rate": 6.0e-5}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory, tiny_model):
    """A folder with a space in its path that holds a tiny model and a dozen pairs under the recipe's own names."""
    folder = tmp_path_factory.mktemp("work") / "my work"
    shutil.copytree(tiny_model, folder / "tiny model")
    data = folder / "my data"
    rows = make_rows(data / "MM-RLHF", count=12)
    for row in rows:
        row["images"] = [f"MM-RLHF/{image}" for image in row["images"]]
    write_dataset(data, rows, name="uni_dpo_image_only_mcq_short_long_50k")
    shutil.copy(ROOT / "data" / "uni_dpo" / "dataset_info.json", data)
    return folder


def small_run(**variables: str) -> dict:
    """How the workplace's model and data are given to a script, relative to it."""
    return {"MODEL": "tiny model", "DATASET_DIR": "my data", "GLOBAL_BATCH": "4", "GPUS": "0"} | variables


def published(name: str) -> dict:
    """Options of an example as they should be."""
    if name in NAMES:
        return COMMON | PUBLISHED[name]
    template, model = OTHERS[name]
    changes = {"template": template, "model_name_or_path": model} | (LORA if "_lora_" in name else {})
    return COMMON | PUBLISHED["uni_dpo"] | changes


def test_every_example_has_its_script_and_its_line():
    """And is in the tables of this module."""
    found = {path.stem for path in EXAMPLES.glob("*.yaml")} - {"demo_dpo", "demo_uni_dpo"}
    assert found == {example(name) for name in (*NAMES, *OTHERS)}
    assert all(os.access(EXAMPLES / f"{name}.sh", os.X_OK) for name in found)
    listed = (EXAMPLES / "README.md").read_text()
    assert all(f"`{name}.yaml`" in listed for name in found)


@pytest.mark.parametrize("name", [*NAMES, *OTHERS])
def test_yaml_means_the_published_settings(name, tmp_path):
    """And has a key of the overlay, which an unpatched LlamaFactory refuses, before it trains something else."""
    import llamafactory.train.tuner  # noqa: F401  (joins our options to the parser)
    from llamafactory.hparams import get_train_args
    from llamafactory.train.uni_dpo.options.arguments import UniDPOArguments

    settings = OmegaConf.to_container(OmegaConf.load(EXAMPLES / f"{example(name)}.yaml"))
    assert set(settings) & set(UniDPOArguments.__dataclass_fields__)
    assert settings["bf16"] is True  # cannot be parsed as true on a machine without a GPU
    parsed = get_train_args(settings | {"output_dir": str(tmp_path / "out"), "bf16": False})
    for option, value in published(name).items():
        found = [getattr(part, option) for part in parsed if hasattr(part, option)]
        # transformers 5 has no warm-up unless one is asked for, and says None for it
        assert found and (found[0] or 0 if option == "warmup_ratio" else found[0]) == value, f"{option}: {found}"


def test_data_description_names_the_scores():
    entries = json.loads((ROOT / "LlamaFactory" / "data" / "uni_dpo" / "dataset_info.json").read_text())
    assert entries["uni_dpo_mm_rlhf"]["columns"]["score_chosen"] == "score_chosen"
    assert not (ROOT / "LlamaFactory" / "data" / "dataset_info.json").exists()  # upstream's has a hundred data sets


@pytest.mark.parametrize(
    ("variables", "accumulation"),
    [
        ({"GPUS": "1"}, 128),
        ({"GPUS": "4"}, 32),
        ({"GPUS": "8", "BATCH": "2"}, 8),
        ({"GPUS": "8", "NNODES": "2", "NODE_RANK": "1", "MASTER_ADDR": "first"}, 8),
        ({"GPUS": "2", "GLOBAL_BATCH": "32"}, 16),
    ],
)
def test_dry_run_keeps_the_global_batch(variables, accumulation):
    printed, settings = dry_run("uni_dpo", **variables)
    assert settings["gradient_accumulation_steps"] == accumulation
    assert settings["bf16"] is True
    several = variables["GPUS"] != "1"
    assert (settings.get("deepspeed") == str(EXAMPLES / "ds_z2.json")) is several
    assert (f"torch.distributed.run {'--nnodes' if 'NNODES' in variables else '--standalone'}" in printed) is several
    assert (f"--nproc_per_node={variables['GPUS']} -m llamafactory.launcher" in printed) is several
    assert ("-m llamafactory.cli train" in printed) is not several
    assert f"CUDA_VISIBLE_DEVICES={','.join(map(str, range(int(variables['GPUS']))))} " in printed


def test_arguments_win_over_variables_and_yaml(tmp_path):
    _, settings = dry_run(
        *("dpo", "learning_rate=1e-3", "output_dir=here", "BATCH=4", "flash_attn=fa2"),
        **{"cwd": tmp_path, "OUTPUT": "there", "BATCH": "2", "GPUS": "1", "DATA": "mine"},
    )
    assert settings["learning_rate"] == 1e-3
    assert settings["output_dir"] == str(tmp_path / "here")
    assert settings["per_device_train_batch_size"] == 4
    assert settings["dataset"] == "mine"
    assert settings["flash_attn"] == "fa2"
    assert settings["dataset_dir"] == str(ROOT / "data" / "uni_dpo")  # from the YAML, so not below the current folder
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", OTHERS)
def test_other_models_need_nothing_to_be_edited(name):
    """Their scripts show what they would do, and memory can be counted though the model is not there."""
    printed, settings = dry_run(name, GPUS="4")
    assert settings["output_dir"] == str(ROOT / "outputs" / name)
    assert settings["gradient_accumulation_steps"] == 32 and settings["deepspeed"].endswith("ds_z2.json")
    assert "4 GPUs x 1 pair x 32 accumulated = 128 pairs a step" in printed
    assert model_sizes(settings["model_name_or_path"])


def test_scripts_of_other_models_name_their_own_file():
    """From another folder, by a relative path."""
    shown = bash(Path("../examples/uni_dpo/Qwen3_5_4B_lora_uni_dpo.sh"), "--dry-run", cwd=ROOT / "docs", GPUS="1")
    assert shown.returncode == 0, shown.stderr
    assert settings_in(shown.stdout)["template"] == "qwen3_5_nothink"


@pytest.mark.parametrize("name", NAMES)
def test_scripts_explain_themselves_and_show_what_they_would_do(name, tmp_path):
    shown = bash(script(name), "--dry-run" if name == "dpo" else "--help", cwd=tmp_path, GPUS="4")
    assert shown.returncode == 0, shown.stderr
    if name == "dpo":
        assert "--nproc_per_node=4" in shown.stdout and "pref_loss: sigmoid" in shown.stdout
    else:
        assert all(variable in shown.stdout for variable in OURS - {"PYTHONPATH", "FORCE_TORCHRUN"})
    without = bash(script(name), PYTHON="/nowhere/python")
    assert without.returncode == 2 and "no Python found" in without.stderr


@pytest.mark.parametrize(
    "name", [pytest.param(it, marks=[pytest.mark.long] if it != "uni_dpo" else []) for it in NAMES]
)
def test_script_trains_and_then_says_it_is_finished(workplace, name):
    run = {"cwd": workplace} | small_run(OUTPUT=f"trained {name}")
    if name == "uni_dpo":
        del run["GPUS"]  # let it find out by itself that there is none
    done = bash(script(name), "num_train_epochs=1", **run)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    output, log = workplace / f"trained {name}", (workplace / f"trained {name}.train.log").read_text()
    state = json.loads((output / "trainer_state.json").read_text())
    assert state["global_step"] == 3  # 12 pairs, 4 a step
    assert (output / "model.safetensors").is_file() and (output / "training_loss.png").is_file()
    assert "no GPU" in done.stdout and "exit status 0" in log and "train_runtime" in log
    assert ("uni_dpo/w_qual" in log) is (name == "uni_dpo")
    assert max(len(line) for line in log.splitlines() if "it/s]" in line) < 300  # a bar's last state, not all of them

    before = (output / "model.safetensors").stat().st_mtime_ns
    status, printed, _ = here(name, "num_train_epochs=1", "logging_steps=2", **run)
    assert status == 0 and "finished already" in printed
    status, _, said = here(name, "num_train_epochs=1", "pref_beta=0.7", **run)
    assert status == 2 and "pref_beta: " in said and " -> 0.7" in said
    assert (output / "model.safetensors").stat().st_mtime_ns == before


def test_interrupted_run_resumes(workplace):
    """Ctrl-C after a checkpoint; before that a second start is refused; the same command finishes the run."""
    settings, given, output = (
        ["max_steps=16", "save_steps=1"],
        small_run(OUTPUT="stopped", GLOBAL_BATCH="1"),
        workplace / "stopped",
    )
    command = ["bash", str(script("uni_dpo")), *settings]
    heard = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # whoever runs the tests in the background
    process = {"cwd": workplace, "env": environment(**given), "stdout": subprocess.PIPE, "text": True}
    run = subprocess.Popen(command, **process, preexec_fn=heard)
    wait_for(run, lambda: (workplace / "stopped.effective.yaml").is_file())
    status, _, said = here("uni_dpo", *settings, cwd=workplace, **given)
    wait_for(run, lambda: list(output.glob("checkpoint-*/trainer_state.json")))
    run.send_signal(signal.SIGINT)
    printed, _ = run.communicate(timeout=300)
    assert run.returncode == 130 and "# the same command goes on from checkpoint-" in printed
    assert "Interrupted; the same command goes on from checkpoint-" in printed and "Traceback" not in printed
    assert status == 2 and "another run is writing" in said
    assert not (output / "train_results.json").exists()

    (output / "checkpoint-15").mkdir()  # as if the machine had gone down while this one was being written
    done = bash(script("uni_dpo"), "max_steps=16", "save_steps=100", cwd=workplace, **given)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "resuming from checkpoint-" in done.stdout and "global step" in done.stdout
    assert json.loads((output / "trainer_state.json").read_text())["global_step"] == 16
    assert (output / "incomplete-checkpoint-15").is_dir()
    assert (workplace / "stopped.train.log").read_text().count("exit status") == 2


@pytest.mark.long
def test_a_fresh_run_keeps_the_one_before(workplace):
    """With an option that nobody knows: LlamaFactory judges it, and its exit status is the script's."""
    given, output = small_run(OUTPUT="before", GLOBAL_BATCH="1"), workplace / "before"
    assert bash(script("uni_dpo"), "max_steps=1", "save_steps=1", cwd=workplace, **given).returncode == 0
    note, _ = dry_run("uni_dpo", "max_steps=1", "FRESH=1", cwd=workplace, **given)
    assert "starting anew" in note and (output / "checkpoint-1").is_dir()
    fresh = bash(script("uni_dpo"), "uni_dpo_gama=3", "resume=false", cwd=workplace, **given)
    assert fresh.returncode == 1 and "uni_dpo_gama" in fresh.stdout
    assert "uni_dpo_gama" in (workplace / "before.train.log").read_text()
    (kept,) = [path for path in workplace.glob("before.old-*") if path.is_dir()]
    assert (kept / "checkpoint-1").is_dir() and (kept.parent / f"{kept.name}.effective.yaml").is_file()
    assert not output.exists()


def wait_for(run: subprocess.Popen, condition) -> None:
    """Wait until a running script has got as far as `condition` says."""
    deadline = time.monotonic() + 300
    while not condition():
        assert run.poll() is None and time.monotonic() < deadline, run.stdout.read()
        time.sleep(0.02)


def test_inside_a_checkout(workplace, tmp_path):
    """The overlay copied over a checkout in a folder with a space: its places, and what it says if it is not whole."""
    checkout, example = checkout_with_ours(tmp_path / "check out")
    settings = settings_in(bash(example, "--dry-run").stdout)
    assert settings["output_dir"] == str(checkout / "outputs" / "Qwen2_VL_2B_dpo")
    assert settings["dataset_dir"] == str(checkout / "data" / "uni_dpo")
    (checkout / "src" / "llamafactory" / "train" / "uni_dpo" / "options" / "arguments.py").unlink()
    unpatched = bash(example, cwd=workplace, **small_run(OUTPUT="from checkout, unpatched"))
    assert unpatched.returncode == 2 and "does not have the Uni-DPO overlay" in unpatched.stderr


def checkout_with_ours(folder: Path) -> tuple[Path, Path]:
    """A checkout with the overlay copied over it, which says its name when imported, and an example in it."""
    checkout = checkout_tree("0.9.5", folder)
    subprocess.run(["cp", "-r", f"{ROOT / 'LlamaFactory'}/.", str(checkout)], check=True)
    with open(checkout / "src" / "llamafactory" / "__init__.py", "a") as package:
        package.write("\nprint('the LlamaFactory of the checkout')\n")
    return checkout, checkout / "examples" / "uni_dpo" / "Qwen2_VL_2B_dpo.sh"


@pytest.mark.long  # torchrun and two ranks, each with imports of its own
def test_trains_inside_a_checkout_with_two_processes(workplace, tmp_path):
    """Started from elsewhere through torchrun."""
    _, example = checkout_with_ours(tmp_path / "check out")
    done = bash(example, "max_steps=2", cwd=workplace, **small_run(OUTPUT="from checkout", NPROC_PER_NODE="2"))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    assert "the LlamaFactory of the checkout" in done.stdout and "world size: 2" in done.stdout
    assert "2 CPU processes x 1 pair x 2 accumulated = 4 pairs a step" in done.stdout
    assert (workplace / "from checkout" / "model.safetensors").is_file()

"""What the launcher of the examples makes of a machine, an output folder, and the habits that people bring.

Nothing is started, and commands run in this process.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from launching import EXAMPLES, here
from pairs import ROOT, make_rows, write_dataset

import launch
from launcher import machine, settings
from launcher.checks import check_data
from launcher.memory import check_memory, model_sizes
from launcher.output import effective, has_ended, plan_output
from pair_data.check.training import plan_from_config
from pair_data.descriptions import RECIPE_FILE
from pair_data.errors import DataError
from pair_data.settings import load_yaml


A100 = "81920, 5, 8.0, NVIDIA A100-SXM4-80GB"
RTX_4090 = "24564, 300, 8.9, NVIDIA GeForce RTX 4090"
V100 = "32768, 0, 7.0, Tesla V100-SXM2-32GB"


@pytest.fixture
def gpus(tmp_path, monkeypatch):
    """Let `nvidia-smi` show GPUs; this machine's PyTorch sees none."""

    def show(*rows, status=0):
        tool = tmp_path / "bin" / "nvidia-smi"
        tool.parent.mkdir(exist_ok=True)
        lines = "\n".join(f"GPU-{number}0000000, {row}" for number, row in enumerate(rows))
        tool.write_text(f"#!/bin/sh\ncat <<'END'\n{lines}\nEND\nexit {status}\n")
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", str(tool.parent), prepend=":")
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    return show


def read(*arguments):
    return settings.read_run(EXAMPLES / "Qwen2_VL_2B_uni_dpo.yaml", list(arguments))


def fitted(*arguments, trust=True):
    """Read an example's YAML and fit it, as a dry run does, which takes GPUS as it is given."""
    run = read(*arguments)
    machine.fit_to_machine(run, trust_gpus=trust)
    return run


# ---- GPUs ----


@pytest.mark.parametrize(
    ("rows", "arguments", "says"),
    [
        (
            [A100],
            [],
            [
                "memory: about 38 GB on each GPU; the NVIDIA A100-SXM4-80GB has 86 GB",
                "room for pref_token_budget=32768",
            ],
        ),
        ([A100] * 4, [], ["about 19 GB on each GPU"]),  # ZeRO-2
        ([A100], ["pref_loss=simpo"], ["about 33 GB on each GPU"]),  # without a reference
        ([RTX_4090], ["finetuning_type=lora"], ["about 9 GB on each GPU"]),
        (
            ["40960, 0, 8.0, A100"],
            ["pref_token_budget=65536"],
            ["pref_token_budget=1024   (smaller calls of the model: "],
        ),
        (["40960, 20000, 8.0, A100"], [], ["of which 21 GB are in use: it may run out", "finetuning_type=lora"]),
        ([V100], [], ["the Tesla V100-SXM2-32GB has 34 GB: it may run out", "uni_dpo_reference_cache=caches/ref"]),
        ([RTX_4090], ["SKIP_MEMORY_CHECK=1"], ["going on, as SKIP_MEMORY_CHECK is set"]),
        *(([RTX_4090], [unknown], []) for unknown in ("quantization_bit=4", "deepspeed=/no.json", "MODEL=some/body")),
    ],
)
def test_memory_is_counted_before_anything_starts(gpus, rows, arguments, says):
    """The figures are counted in Qwen2-VL-2B's 1.54e9 weights of text and 0.67e9 of its vision tower."""
    gpus(*rows)
    notes = "\n".join(check_memory(fitted(f"GPUS={len(rows)}", *arguments)))
    assert all(words in notes for words in says) and bool(notes) is bool(says), notes


def test_what_cannot_fit_is_refused_with_what_fits(gpus, tiny_model):
    """Weights of a model that is there are counted; activations alone are no reason to refuse."""
    from safetensors import safe_open

    gpus(RTX_4090)
    with pytest.raises(DataError) as refusal:
        check_memory(fitted("GPUS=1"))
    assert str(refusal.value).splitlines() == [
        "this run needs about 38 GB on each GPU, and the NVIDIA GeForce RTX 4090 has 26 GB",
        "  finetuning_type=lora   (usually with a learning rate ten times as high: about 9 GB)",
        "  2 such GPUs, with ZeRO-2: about 24 GB on each",
        "  try it all the same: SKIP_MEMORY_CHECK=1",
    ]
    with safe_open(tiny_model / "model.safetensors", "pt") as weights:
        numbers = {name: weights.get_tensor(name).numel() for name in weights.keys()}  # noqa: SIM118
    tower = sum(number for name, number in numbers.items() if "visual" in name)
    assert model_sizes(str(tiny_model)) == (sum(numbers.values()) - tower, tower) and tower
    gpus("2048, 0, 8.0, Small")
    assert "it may run out" in check_memory(fitted("GPUS=1", f"MODEL={tiny_model}"))[0]


@pytest.mark.parametrize(
    ("visible", "wanted", "cards"), [("1", "1", ["V"]), ("GPU-10000000", "1", ["V"]), ("1,0", "2", ["A", "V"])]
)
def test_only_visible_gpus_count(gpus, monkeypatch, visible, wanted, cards):
    gpus("81920, 0, 8.0, A", "32768, 0, 7.0, V")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [gpu.name for gpu in fitted(f"GPUS={wanted}").cards] == cards
    assert fitted("GPUS=8").cards == []  # those of another machine are not looked at


def test_what_the_driver_shows_and_pytorch_does_not_see(gpus):
    """An old driver says nothing; another shows a GPU for which this PyTorch was not built."""
    for answer, status in (("no such field", 2), ("Unable to determine", 0)):
        gpus(answer, status=status)
        assert fitted("GPUS=1").cards == []
    gpus(A100)
    run = fitted(trust=False)
    assert run.gpus == 0 and any("shows the NVIDIA A100-SXM4-80GB, which this" in note for note in run.notes)
    with pytest.raises(DataError, match="PyTorch sees 0\n  nvidia-smi shows the NVIDIA A100"):
        fitted("GPUS=1", trust=False)


@pytest.mark.parametrize(
    ("row", "content", "chosen", "says"),
    [
        (A100, "", "fa2", ""),
        (V100, "", "sdpa", "needs a GPU of the Ampere kind or later, which the Tesla V100-SXM2-32GB is not"),
        (A100, "raise ImportError('undefined symbol: _ZN3c10')", "sdpa", "does not load (undefined symbol: _ZN3c10)"),
        (A100, None, "sdpa", "flash-attn is not installed"),
    ],
)
def test_flash_attention_where_it_works(gpus, tmp_path, monkeypatch, row, content, chosen, says):
    gpus(row)
    monkeypatch.syspath_prepend(str(tmp_path / "packages"))
    monkeypatch.delitem(sys.modules, "flash_attn", raising=False)
    if content is not None:
        (tmp_path / "packages" / "flash_attn").mkdir(parents=True)
        (tmp_path / "packages" / "flash_attn" / "__init__.py").write_text(content)
    run = fitted("GPUS=1")
    assert run.settings["flash_attn"] == chosen and says in "\n".join(run.notes)
    assert run.settings["fp16" if row == V100 else "bf16"] is True
    asked = fitted("GPUS=1", "flash_attn=fa2")
    assert asked.settings["flash_attn"] == "fa2" and (("fa2 all the same" in "\n".join(asked.notes)) is bool(says))


@pytest.mark.parametrize(
    ("room", "arguments", "workers", "ahead"),
    [
        (8 << 30, [], 4, 4),
        (64 << 20, [], 3, 1),  # Docker's default: 4 images of 768 x 768
        (20 << 20, [], 0, None),
        (64 << 20, ["BATCH=2"], 1, 1),
        (64 << 20, ["image_max_pixels=65536"], 4, 4),
        (64 << 20, ["dataloader_num_workers=4"], 4, 1),
        (None, [], 4, 4),
    ],
)
def test_workers_have_room_for_their_batches(monkeypatch, room, arguments, workers, ahead):
    monkeypatch.setattr(machine, "shared_memory", lambda: room)
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: range(16), raising=False)
    run = fitted("GPUS=1", "GLOBAL_BATCH=16", *arguments)
    found = [run.settings.get(f"dataloader_{name}") for name in ("num_workers", "prefetch_factor")]
    assert found == [workers, ahead]
    assert (found == [4, 4]) is not any("--shm-size" in note for note in run.notes)


@pytest.mark.parametrize(
    ("room", "arguments", "ahead"),
    [
        (8 << 30, [], 32),  # 4 x 32 = 128 batches of 14 MB
        (8 << 30, ["GPUS=4"], 8),
        (8 << 30, ["GPUS=4", "dataloader_num_workers=3"], 11),
        (1 << 30, [], 9),  # half of it
        (1 << 30, ["BATCH=2"], 4),
        (8 << 30, ["GLOBAL_BATCH=8"], 4),  # as the YAML has it
        (8 << 30, ["dataloader_prefetch_factor=2"], 2),
        (None, [], 32),
    ],
)
def test_a_whole_step_is_prepared_ahead(monkeypatch, room, arguments, ahead):
    """The trainer takes all batches of a step before it computes; what is not ready then, the GPU waits for."""
    monkeypatch.setattr(machine, "shared_memory", lambda: room)
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: range(64), raising=False)
    run = fitted("GPUS=1", *arguments)
    assert run.settings["dataloader_prefetch_factor"] == ahead
    workers = run.settings["dataloader_num_workers"]
    said = f"{workers} workers prepare {ahead} batches ahead each"
    assert any(note.startswith(said) for note in run.notes) is (ahead not in (2, 4))


# ---- habits ----


@pytest.mark.parametrize(
    ("argument", "instead"),
    [
        ("MODEL_NAME=Qwen2-VL-2B", "here it is MODEL=Qwen2-VL-2B"),
        ("GPU_LIST=0,1", "here it is CUDA_VISIBLE_DEVICES=0,1 before the command"),
        ("NUM_GPUS=4", "here it is GPUS=4"),
        ("OUTPUT_DIR=out", "here it is OUTPUT=out"),
        ("DATASET=mine", "here it is DATA=mine"),
        ("CUDA_VISIBLE_DEVICES=1", "CUDA_VISIBLE_DEVICES=1 goes before the command"),
        ("NOBODY_KNOWS=1", "there are BATCH, DATA"),
    ],
)
def test_variables_of_other_scripts(monkeypatch, argument, instead):
    """As arguments they are refused; in the environment, where they may stand for something else, they are named."""
    with pytest.raises(DataError, match=instead):
        fitted("GPUS=0", argument)
    monkeypatch.setenv(*argument.split("="))
    notes = [note for note in fitted("GPUS=0").notes if argument.partition("=")[0] in note]
    assert len(notes) == (argument.partition("=")[0] in settings.OTHER_NAMES)


def test_published_settings_that_mean_something_else_here():
    assert "takes means" in launch.published_notes({"stage": "dpo"})[0]
    for other in ({"dpo_average_log_prob": False}, {"pref_loss": "simpo"}, {"pref_loss": "uni_dpo"}, {"stage": "sft"}):
        assert not launch.published_notes({"stage": "dpo", "pref_loss": "sigmoid"} | other)


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout's data folders, with the published pairs where the published guide puts them, under its own name."""
    rows = make_rows(tmp_path / "data", 2)
    write_dataset(tmp_path / "data", rows, name="theirs", file_name=RECIPE_FILE)
    (tmp_path / "data" / "theirs.json").rename(tmp_path / "data" / RECIPE_FILE)
    (tmp_path / "data" / "uni_dpo").mkdir()
    shipped = (ROOT / "data" / "uni_dpo" / "dataset_info.json").read_text()
    (tmp_path / "data" / "uni_dpo" / "dataset_info.json").write_text(shipped)
    monkeypatch.setattr(settings, "find_root", lambda: (tmp_path, False))
    return tmp_path


def found(*arguments):
    run = read(*arguments)
    launch.find_data(run)
    return run


@pytest.mark.parametrize(
    ("arguments", "name", "folder"),
    [
        ([], "theirs", "data"),
        (["DATA=theirs"], "theirs", "data"),
        (["DATASET_DIR={}/data"], "theirs", "data"),
        (["DATA=theirs", "DATASET_DIR={}/data"], "theirs", "data"),
        (["DATA=uni_dpo_mm_rlhf"], "uni_dpo_mm_rlhf", "data/uni_dpo"),
        (["DATA=nothing"], "nothing", "data/uni_dpo"),
    ],
)
def test_published_data_are_found_where_the_guide_puts_them(checkout, arguments, name, folder):
    run = found(*(argument.format(checkout) for argument in arguments))
    assert (run.settings["dataset"], run.settings["dataset_dir"]) == (name, str(checkout / folder))
    assert run.notes == ([f"data: theirs in {checkout / 'data'}"] if name == "theirs" and len(arguments) < 2 else [])
    if name == "theirs":
        check_data(run.settings)


def test_check_finds_them_there_too(checkout, monkeypatch):
    """`data.py check --config` and the launcher look in the same places."""
    monkeypatch.chdir(checkout)
    plan = plan_from_config(EXAMPLES / "Qwen2_VL_2B_uni_dpo.yaml", ["bf16=false"])
    assert [source.name for source in plan.sources] == ["theirs"]


def test_our_own_place_comes_first_and_a_file_without_an_entry_is_named(checkout):
    (checkout / "data" / "dataset_info.json").write_text(json.dumps({"alpaca": {"file_name": "a.json"}}))
    with pytest.raises(DataError, match="data.py register uni_dpo_mm_rlhf"):
        check_data(found().settings)
    (checkout / "data" / "uni_dpo" / RECIPE_FILE).write_text("[]")
    run = found()
    assert run.settings["dataset"] == "uni_dpo_mm_rlhf" and run.notes == []
    with pytest.raises(DataError, match="has no rows"):
        check_data(run.settings)


@pytest.mark.parametrize(("missing", "refused"), [(99, True), (150, False), (200, True)])
def test_images_of_the_first_hundred_rows_and_every_hundredth_are_looked_for(tmp_path, missing, refused):
    rows = make_rows(tmp_path, 1) * 201
    rows[missing] = rows[missing] | {"images": ["gone.png"]}
    write_dataset(tmp_path, rows, name="pairs")
    try:
        check_data({"dataset": "pairs", "dataset_dir": tmp_path})
    except DataError as error:
        assert refused and f"row {missing} " in str(error)
    else:
        assert not refused


# ---- the output folder ----


@pytest.mark.parametrize(
    ("record", "ended"),
    [
        (None, True),  # of another trainer
        ('{"ended": true}', True),
        ('{"ended": tr', False),
        ("[]", False),
    ],
)
def test_a_damaged_record_of_a_run_ends_it_once_more(tmp_path, record, ended):
    """Without its record, or with one that says nothing, nobody knows whether the end was written."""
    for name in ("model.safetensors", "train_results.json", "trainer_state.json"):
        (tmp_path / name).write_text("{}")
    if record is not None:
        (tmp_path / "uni_dpo_run.json").write_text(record)
    assert has_ended(tmp_path, {}) is ended
    assert not has_ended(tmp_path, {"eval_strategy": "steps"})
    (tmp_path / "checkpoint-3").mkdir()
    (tmp_path / "checkpoint-3" / "trainer_state.json").write_text("{}")
    assert plan_output(tmp_path, {}, None).action == ("nothing" if ended else "resume")


@pytest.mark.parametrize(
    ("changes", "refused"),
    [
        ({"logging_steps": 5, "save_total_limit": 1, "hub_token": "secret", "flash_attn": "fa2"}, []),
        ({"pref_beta": 0.7}, ["pref_beta: (default) -> 0.7"]),
        ({"dataloader_drop_last": True}, ["dataloader_drop_last: (default) -> True"]),
        ({"dataset_dir": "there"}, ["dataset_dir: here -> there"]),  # training compares the rows, the launcher cannot
        ({"load_best_model_at_end": True}, ["load_best_model_at_end: (default) -> True"]),
    ],
)
def test_options_that_may_change_are_those_of_training(tmp_path, changes, refused):
    """One list for both, which the launcher reads without LlamaFactory."""
    (tmp_path / "out" / "checkpoint-3").mkdir(parents=True)
    (tmp_path / "out" / "checkpoint-3" / "trainer_state.json").write_text("{}")
    settings = {"dataset_dir": "here", "logging_steps": 1}
    (tmp_path / "out.effective.yaml").write_text(json.dumps(settings))
    if not refused:
        assert plan_output(tmp_path / "out", settings | changes, None).action == "resume"
        return
    with pytest.raises(DataError) as refusal:
        plan_output(tmp_path / "out", settings | changes, None)
    assert [line.strip() for line in str(refusal.value).splitlines()[1:-1]] == refused
    assert plan_output(tmp_path / "out", settings | changes, True).action == "resume"


def test_pairs_a_step_may_not_change_unseen(tmp_path):
    """No option says them: the accumulation follows from them, and may change with the machine."""
    (tmp_path / "out" / "checkpoint-3").mkdir(parents=True)
    (tmp_path / "out" / "checkpoint-3" / "trainer_state.json").write_text("{}")
    (tmp_path / "out.effective.yaml").write_text(effective({"pref_beta": 2.0}, 128))
    assert load_yaml(tmp_path / "out.effective.yaml") == {"pref_beta": 2.0}
    assert plan_output(tmp_path / "out", {"pref_beta": 2.0}, None, 128).action == "resume"
    with pytest.raises(DataError, match="pairs a step: 128 -> 8"):
        plan_output(tmp_path / "out", {"pref_beta": 2.0}, None, 8)


def test_a_rank_without_machines_means_nothing(monkeypatch):
    """Some clusters set NODE_RANK for everything."""
    monkeypatch.setenv("NODE_RANK", "1")
    assert fitted("GPUS=1").node_rank == 0 and fitted("GPUS=1", "NNODES=2", "MASTER_ADDR=a").node_rank == 1


def test_fresh_is_a_switch_and_a_copy_is_named(tmp_path, monkeypatch):
    for value, resume in (("1", False), ("yes", False), ("0", None), ("false", None)):
        assert read(f"FRESH={value}").resume is resume
    assert read("FRESH=1", "resume=false").settings.keys() == read().settings.keys()
    monkeypatch.setattr(settings, "find_root", lambda: (tmp_path, False))
    (tmp_path / "models" / "Qwen2-VL-2B").mkdir(parents=True)
    (tmp_path / "caches").mkdir()
    copy = str(tmp_path / "models" / "Qwen2-VL-2B")
    assert read("MODEL=/typo/Qwen2-VL-2B").settings["model_name_or_path"] == "/typo/Qwen2-VL-2B"
    run = read("MODEL=Qwen/Qwen2-VL-2B", f"adapter_name_or_path={copy},nobody/here")
    assert run.settings["model_name_or_path"] == copy and f"model: {copy}, for Qwen/Qwen2-VL-2B" in run.notes
    assert run.settings["adapter_name_or_path"] == f"{copy},nobody/here"
    monkeypatch.chdir(tmp_path / "models")
    run = read("uni_dpo_reference_cache=../caches/reference")
    assert Path(run.settings["uni_dpo_reference_cache"]).resolve() == tmp_path / "caches" / "reference"


def test_what_nohup_ignores_goes_on_being_ignored():
    """A hangup would otherwise be passed on to torchrun, which stops."""
    script = "import signal, sys; sys.path[:0] = sys.argv[1:2]\nfrom launcher.process import run_logged\n"
    script += "run_logged(['true'], {}, open('/dev/null', 'ab', buffering=0))\n"
    script += "print(signal.getsignal(signal.SIGHUP) is signal.SIG_IGN, callable(signal.getsignal(signal.SIGTERM)))"
    paths = os.pathsep.join([str(EXAMPLES), str(EXAMPLES.parent.parent / "scripts" / "uni_dpo")])
    done = subprocess.run(
        [sys.executable, "-c", script, str(EXAMPLES)],
        env=os.environ | {"PYTHONPATH": paths},
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
        capture_output=True,
        text=True,
    )
    assert done.stdout.split()[-2:] == ["True", "True"], done.stderr


# ---- mistakes, each with one message ----


@pytest.fixture(scope="module")
def workplace(tmp_path_factory, tiny_model):
    """A folder with a model, a data set, and nothing else."""
    folder = tmp_path_factory.mktemp("mistakes")
    (folder / "tiny model").symlink_to(tiny_model)
    write_dataset(folder / "my data", make_rows(folder / "my data", count=4), name="uni_dpo_mm_rlhf")
    return folder


@pytest.mark.parametrize(
    ("arguments", "variables", "message"),
    [
        (["--dry-run"], {"GPUS": "3"}, "GLOBAL_BATCH=126 or GLOBAL_BATCH=129"),
        (["gradient_accumulation_steps=3"], {}, "GLOBAL_BATCH=4"),
        ([], {"BATCH": "two"}, "BATCH=two must be a whole number"),
        ([], {"GPUS": "64"}, "GPUS=64"),
        ([], {"MODEL": "nobody/nothing"}, "hf download nobody/nothing"),
        ([], {"MODEL": "my data"}, "my data is not a complete model"),
        ([], {"MODEL": "./none"}, "there is no model folder"),
        ([], {"DATASET_DIR": str(ROOT / "data" / "uni_dpo")}, "data.py download"),
        ([], {"DATA": "pears"}, 'no data set "pears" in'),
        (["media_dir=/nowhere"], {}, "row 0"),
        (["resume=perhaps"], {}, "resume=perhaps"),
        (["resume=true"], {"FRESH": "1"}, "leave one of them out"),
        ([], {"FRESH": "maybe"}, "FRESH=maybe must be 1 or 0"),
        ([], {"MODEL": "/typo/tiny model"}, "there is no model folder"),
        (["--dry-run", "learning_rate"], {}, "not key=value"),
        (["--dry-run"], {"GPUS": "1", "NNODES": "2"}, "MASTER_ADDR"),
        ([], {"OUTPUT": "tiny model"}, "no checkpoint to resume from"),
        ([], {"OUTPUT": "tiny model/config.json/out"}, "out.train.log (File exists)"),
        ([], {"OUTPUT": "/"}, "output_dir is '/'"),
        ([], {"USE_V1": "1"}, "unset USE_V1"),
    ],
)
def test_mistakes_get_one_message_and_leave_nothing(workplace, arguments, variables, message):
    given = {"MODEL": "tiny model", "DATASET_DIR": "my data", "GPUS": "0", "OUTPUT": "never"} | variables
    given |= {"GLOBAL_BATCH": "4" if given["GPUS"] == "0" else "128"}
    status, printed, said = here("uni_dpo", *arguments, cwd=workplace, **given)
    assert status == 2 and message in said, printed + said
    assert sorted(path.name for path in workplace.iterdir()) == ["my data", "tiny model"]


def test_files_of_settings(tmp_path):
    """Long comments are fine; what would end the reading library without a message, or is no settings, is refused."""
    file = tmp_path / "run.yaml"
    file.write_text("# why\n" * 100_000 + "a: 1")
    assert load_yaml(file) == {"a": 1}
    for content in ("a: " + "[" * 900_000, "- " * 400_000, "#" * 1_000_001, "a: [", "- 1", "1: 2", "\0"):
        file.write_text(content)
        for reader in (load_yaml, lambda path: plan_from_config(path, [])):
            with pytest.raises(DataError, match="run.yaml"):
                reader(file)

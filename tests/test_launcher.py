"""What the launcher of the examples makes of a machine and of the habits that people bring, without starting it."""

import json
import sys

import pytest
from pairs import ROOT, make_rows, write_dataset


EXAMPLES = (ROOT / "examples" / "uni_dpo").resolve()
sys.path.insert(0, str(EXAMPLES))

from launcher import machine, places, settings  # noqa: E402
from launcher.memory import check_memory  # noqa: E402
from launcher.preflight import UserError, check_data  # noqa: E402


A100 = "81920, 5, 8.0, NVIDIA A100-SXM4-80GB"
RTX_4090 = "24564, 300, 8.9, NVIDIA GeForce RTX 4090"
V100 = "32768, 0, 7.0, Tesla V100-SXM2-32GB"
RECIPE_FILE = "uni_dpo_image_only_mcq_short_long_50k.json"


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


def fitted(*arguments, name="uni_dpo"):
    """Read an example's YAML and fit it, as a dry run does, which takes GPUS as it is given."""
    run = settings.read_run(EXAMPLES / f"Qwen2_VL_2B_{name}.yaml", list(arguments))
    machine.fit_to_machine(run, trust_gpus=True)
    return run


@pytest.mark.parametrize(
    ("rows", "arguments", "says"),
    [
        ([A100], [], ["memory: about 37 GB on each GPU; the NVIDIA A100-SXM4-80GB has 86 GB"]),
        ([A100] * 4, [], ["about 18 GB on each GPU"]),  # ZeRO-2
        ([A100], ["pref_loss=simpo"], ["about 33 GB on each GPU"]),  # without a reference
        ([RTX_4090] * 4, [], ["about 18 GB on each GPU; the NVIDIA GeForce RTX 4090 has 26 GB"]),
        ([RTX_4090], ["finetuning_type=lora"], ["about 8 GB on each GPU"]),
        (["40960, 20000, 8.0, A100"], [], ["of which 21 GB are in use: it may run out", "finetuning_type=lora"]),
        ([V100], [], ["the Tesla V100-SXM2-32GB has 34 GB: it may run out", "uni_dpo_reference_cache=caches/ref"]),
        ([RTX_4090], ["SKIP_MEMORY_CHECK=1"], ["going on, as SKIP_MEMORY_CHECK is set"]),
        ([RTX_4090], ["quantization_bit=4"], []),
        ([RTX_4090], ["deepspeed=/nowhere.json"], []),
        ([RTX_4090], ["MODEL=somebody/else"], []),
    ],
)
def test_memory_is_told_before_anything_starts(gpus, rows, arguments, says):
    """The figures are counted in Qwen2-VL-2B's 1.54e9 weights of text and 0.67e9 of its vision tower."""
    gpus(*rows)
    notes = "\n".join(check_memory(fitted(f"GPUS={len(rows)}", *arguments)))
    assert all(words in notes for words in says) and bool(notes) is bool(says), notes


def test_what_cannot_fit_is_refused_with_ways_to_go_on(gpus):
    gpus(RTX_4090)
    with pytest.raises(UserError) as refusal:
        check_memory(fitted("GPUS=1"))
    assert str(refusal.value).splitlines() == [
        "this run needs about 37 GB on each GPU, and the NVIDIA GeForce RTX 4090 has 26 GB",
        "  finetuning_type=lora   (usually with a learning rate ten times as high: about 8 GB)",
        "  2 such GPUs, with ZeRO-2: about 23 GB on each",
        "  try it all the same: SKIP_MEMORY_CHECK=1",
    ]


def test_memory_of_a_model_folder(gpus, tiny_model):
    """Weights of a model that is there are counted; activations alone are no reason to refuse."""
    from launcher.memory import model_sizes
    from safetensors import safe_open

    gpus("2048, 0, 8.0, Small")
    with safe_open(tiny_model / "model.safetensors", "pt") as weights:
        numbers = {name: weights.get_tensor(name).numel() for name in weights.keys()}  # noqa: SIM118
    tower = sum(number for name, number in numbers.items() if "visual" in name)
    assert model_sizes(str(tiny_model)) == (sum(numbers.values()) - tower, tower) and tower
    with pytest.raises(UserError, match="about 8 GB on each GPU, and the Small has 2 GB"):
        check_memory(fitted("GPUS=1", "MODEL=Qwen/Qwen2-VL-2B", "finetuning_type=lora"))
    assert "it may run out" in check_memory(fitted("GPUS=1", f"MODEL={tiny_model}"))[0]


@pytest.mark.parametrize(
    ("visible", "wanted", "cards"), [("1", "1", ["V"]), ("GPU-10000000", "1", ["V"]), ("1,0", "2", ["A", "V"])]
)
def test_only_visible_gpus_count(gpus, monkeypatch, visible, wanted, cards):
    gpus("81920, 0, 8.0, A", "32768, 0, 7.0, V")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [gpu.name for gpu in fitted(f"GPUS={wanted}").cards] == cards
    assert fitted("GPUS=8").cards == []  # those of another machine are not looked at


def test_an_old_driver_says_nothing(gpus):
    gpus("no such field", status=2)
    assert fitted("GPUS=1").cards == []
    gpus("Unable to determine")
    assert fitted("GPUS=1").cards == []


def test_gpus_that_this_pytorch_does_not_see_are_told(gpus):
    gpus(A100)
    run = settings.read_run(EXAMPLES / "Qwen2_VL_2B_uni_dpo.yaml", [])
    machine.fit_to_machine(run, trust_gpus=False)
    assert run.gpus == 0 and any("shows the NVIDIA A100-SXM4-80GB, which this" in note for note in run.notes)
    run = settings.read_run(EXAMPLES / "Qwen2_VL_2B_uni_dpo.yaml", ["GPUS=1"])
    with pytest.raises(UserError, match="PyTorch sees 0\n  nvidia-smi shows the NVIDIA A100"):
        machine.fit_to_machine(run, trust_gpus=False)


@pytest.mark.parametrize(
    ("row", "content", "chosen", "says"),
    [
        (A100, "", "fa2", ""),
        (
            V100,
            "",
            "sdpa",
            "needs a GPU of the Ampere kind or later, which the Tesla V100-SXM2-32GB is not",
        ),
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
    run = fitted("GPUS=1", *arguments)
    found = [run.settings.get(f"dataloader_{name}") for name in ("num_workers", "prefetch_factor")]
    assert found == [workers, ahead]
    assert (found == [4, 4]) is not any("--shm-size" in note for note in run.notes)


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
    """As arguments they are answered; in the environment, where they may stand for something else, told."""
    with pytest.raises(UserError, match=instead):
        fitted("GPUS=0", argument)
    monkeypatch.setenv(*argument.split("="))
    notes = [note for note in fitted("GPUS=0").notes if argument.partition("=")[0] in note]
    assert len(notes) == (argument.partition("=")[0] in settings.STRANGERS)


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
    run = settings.read_run(
        EXAMPLES / "Qwen2_VL_2B_uni_dpo.yaml", [argument.format(checkout) for argument in arguments]
    )
    places.find_data(run)
    assert (run.settings["dataset"], run.settings["dataset_dir"]) == (name, str(checkout / folder))
    assert run.notes == ([f"data: theirs in {checkout / 'data'}"] if name == "theirs" and len(arguments) < 2 else [])
    if name == "theirs":
        check_data(run.settings)


def test_our_own_place_comes_first(checkout):
    (checkout / "data" / "uni_dpo" / RECIPE_FILE).write_text("[]")
    run = settings.read_run(EXAMPLES / "Qwen2_VL_2B_uni_dpo.yaml", [])
    places.find_data(run)
    assert run.settings["dataset"] == "uni_dpo_mm_rlhf" and run.notes == []


def test_a_published_file_without_an_entry_is_told(checkout):
    (checkout / "data" / "dataset_info.json").write_text(json.dumps({"alpaca": {"file_name": "a.json"}}))
    run = settings.read_run(EXAMPLES / "Qwen2_VL_2B_uni_dpo.yaml", [])
    places.find_data(run)
    with pytest.raises(UserError, match="data.py register uni_dpo_mm_rlhf"):
        check_data(run.settings)


def test_published_settings_that_mean_something_else_here():
    from launch import published_notes

    assert "means unless told" in published_notes({"stage": "dpo", "pref_loss": "sigmoid"})[0]
    assert published_notes({"stage": "dpo"})
    for other in ({"dpo_average_log_prob": False}, {"pref_loss": "simpo"}, {"pref_loss": "uni_dpo"}, {"stage": "sft"}):
        assert not published_notes({"stage": "dpo", "pref_loss": "sigmoid"} | other)

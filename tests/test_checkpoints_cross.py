"""Checkpoints between transformers 4 and 5, and checkpoints that are not whole."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from engine_models import build
from family_checkpoints import checkpoint_of
from pairs import ROOT, options, train
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText
from upstream import transformers_4
from upstream_trials.crossing import BOUND, SIDE, crossing_table, make_crossing_world

from llamafactory.train.tuner import export_model
from llamafactory.train.uni_dpo.errors import UniDPOError
from llamafactory.train.uni_dpo.models.portable import make_portable, readable
from llamafactory.train.uni_dpo.models.weight_names import mend_names


KINDS = ("full tied", "LoRA with embeddings")


def side(what: str, world: Path, folder: Path, path: list[Path]) -> dict:
    """Write or read checkpoints in a process of its own, with these folders first on its path."""
    folder.mkdir(exist_ok=True)
    variables = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, path))}
    command = [sys.executable, str(SIDE), what, str(world), str(folder), *KINDS]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1]) if what == "read" else {}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A world, and the checkpoints that both versions of transformers trained in it."""
    folder = tmp_path_factory.mktemp("crossing")
    make_crossing_world(folder / "world")
    paths = {"4": [transformers_4()], "5": []}
    for version, path in paths.items():
        side("write", folder / "world", folder / version, path)
    return folder, paths


@pytest.mark.parametrize(("writer", "reader"), [("4", "5"), ("5", "4")])
@pytest.mark.long
def test_what_one_wrote_the_other_reads(written, writer, reader):
    """By training, resuming, evaluation and scoring: the logits that the trained model itself had."""
    folder, paths = written
    found = side("read", folder / "world", folder / writer, paths[reader])
    assert set(found) == set(KINDS)
    assert set(found["full tied"]) == {"training", "resuming", "evaluation", "scoring"}
    assert set(found["LoRA with embeddings"]) == {"training", "resuming", "evaluation"}
    assert all(not isinstance(seen, str) and seen < BOUND for ways in found.values() for seen in ways.values()), found


@pytest.mark.long
def test_what_stock_transformers_4_wrote_is_read(written, tmp_path):
    """Nothing of ours saved it: tied embeddings are stated in `text_config` alone."""
    folder, _ = written
    code = "import sys; from transformers import AutoModelForImageTextToText as Auto, AutoProcessor\n"
    code += "Auto.from_pretrained(sys.argv[1]).save_pretrained(sys.argv[2])\n"
    code += "AutoProcessor.from_pretrained(sys.argv[1]).save_pretrained(sys.argv[2])"
    variables = os.environ | {"PYTHONPATH": str(transformers_4())}
    given = [str(folder / "world" / "tied"), str(tmp_path / "saved")]
    subprocess.run([sys.executable, "-c", code, *given], env=variables, check=True, capture_output=True, timeout=300)
    config = json.loads((tmp_path / "saved/config.json").read_text())
    assert config["text_config"]["tie_word_embeddings"] and "tie_word_embeddings" not in config
    seen = json.loads((Path(readable(tmp_path / "saved")) / "config.json").read_text())
    assert seen["tie_word_embeddings"] is True
    assert readable(given[0]) == given[0], "what says the same to both is read where it is"
    from transformers import AutoTokenizer

    read, first = (AutoTokenizer.from_pretrained(readable(path)) for path in reversed(given))
    assert set(read.all_special_tokens) == set(first.all_special_tokens) and len(read) == len(first)


def test_words_of_transformers_5_are_said_again_for_4(tmp_path):
    """Values and not only names: another theta would turn every position."""
    rope = {"rope_theta": 5e5, "rope_type": "default", "mrope_section": [2, 3, 3]}
    config = {"transformers_version": "5.5.4", "tie_word_embeddings": True, "text_config": {"rope_parameters": rope}}
    tokens = {"extra_special_tokens": ["<a>", "<b>"], "eos_token": "<b>"}
    processor = {"processor_class": "P", "image_processor": {"size": 1}, "video_processor": {"size": 2}}
    files = {"config": config, "tokenizer_config": tokens, "processor_config": processor}
    for name, content in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    make_portable(tmp_path)
    found = {path.stem: json.loads(path.read_text()) for path in tmp_path.glob("*.json")}
    text = found["config"]["text_config"]
    assert text["rope_theta"] == 5e5 and text["rope_scaling"] == {"rope_type": "default", "mrope_section": [2, 3, 3]}
    assert text["tie_word_embeddings"] is True and text["rope_parameters"] == rope
    assert found["tokenizer_config"] == {"additional_special_tokens": ["<a>", "<b>"], "eos_token": "<b>"}
    assert found["preprocessor_config"] == {"size": 1, "processor_class": "P"}
    assert found["video_preprocessor_config"] == {"size": 2, "processor_class": "P"}


@pytest.mark.parametrize("kind", ["internvl", "gemma3", "llava", "qwen3_5", "qwen3_vl"])
def test_weights_get_the_names_that_all_know(kind, tmp_path):
    """Those of the model itself, in two files with an index, too; transformers loads every weight as it was."""
    model = build(kind)
    for name, size in (("one", "1GB"), ("two", "80KB")):
        folder = tmp_path / name
        model.save_pretrained(folder, max_shard_size=size)
        mend_names(folder)
        files = sorted(folder.glob("*.safetensors"))
        saved = {name: weight for file in files for name, weight in load_file(file).items()}
        assert (len(files) > 1) == (name == "two") and set(saved) == set(model.state_dict())
        assert all(torch.equal(weight, model.state_dict()[name]) for name, weight in saved.items())
        loaded, report = type(model).from_pretrained(folder, output_loading_info=True)
        assert not report["missing_keys"] and not report["unexpected_keys"]
        assert all(torch.equal(weight, saved[name]) for name, weight in loaded.state_dict().items())


@pytest.mark.long
def test_transformers_4_reads_these_names(tmp_path):
    kinds = ("internvl", "gemma3", "llava")
    for kind in kinds:
        build(kind).save_pretrained(tmp_path / kind)
        mend_names(tmp_path / kind)
        make_portable(tmp_path / kind)
    code = "import sys; from transformers import AutoModelForImageTextToText as Auto\n"
    code += "for folder in sys.argv[1:]:\n"
    code += "    report = Auto.from_pretrained(folder, output_loading_info=True)[1]\n"
    code += "    assert not report['missing_keys'] and not report['unexpected_keys'], report"
    variables = os.environ | {"PYTHONPATH": str(transformers_4())}
    folders = [str(tmp_path / kind) for kind in kinds]
    subprocess.run([sys.executable, "-c", code, *folders], env=variables, check=True, timeout=300)


@pytest.mark.parametrize(
    ("kind", "template", "finetuning"),
    [("internvl", "intern_vl", "full"), pytest.param("qwen3_5", "qwen3_5_nothink", "lora", marks=pytest.mark.long)],
)
def test_runs_and_exports_write_these_names(kind, template, finetuning, tiny_model, pair_data, tmp_path):
    base, out = checkpoint_of(kind, tiny_model, tmp_path / "base"), tmp_path / "out"
    run = options(base, pair_data, out, template=template, finetuning_type=finetuning, max_steps=1, cutoff_len=2048)
    train(run)
    if finetuning == "lora":
        wish = {"model_name_or_path": str(base), "adapter_name_or_path": str(out), "template": template}
        out = tmp_path / "exported"
        export_model(wish | {"export_dir": str(out), "infer_dtype": "float32"})
    names = AutoModelForImageTextToText.from_pretrained(base).state_dict()
    assert set(load_file(out / "model.safetensors")) == set(names) != set(load_file(base / "model.safetensors"))


def test_both_overlays_carry_the_same():
    ours = ROOT / "LlamaFactory/src/llamafactory/train/uni_dpo/models/portable.py"
    assert ours.read_bytes() == (ROOT / "VLMEvalKit/vlmeval/vlm/qwen2_vl/uni_dpo/portable.py").read_bytes()


@pytest.fixture
def changed(tiny_model, tmp_path):
    """A function that copies the tiny model with other weights."""

    def make(change) -> Path:
        folder = shutil.copytree(tiny_model, tmp_path / "changed")
        weights = load_file(folder / "model.safetensors")
        change(weights)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return folder

    return make


LAST = "model.layers.1.mlp.down_proj.weight"


@pytest.mark.parametrize("loss", ["uni_dpo", "sigmoid"])
def test_missing_weights_end_a_run(loss, changed, tiny_model, pair_data, tmp_path):
    """Also of the reference, and with another loss under our trainer."""
    broken = changed(lambda weights: weights.pop(next(name for name in weights if name.endswith(LAST))))
    parts = {"ref_model": str(broken)} if loss == "uni_dpo" else {"model_name_or_path": str(broken)}
    changes = {} if loss == "uni_dpo" else {"pref_loss": "sigmoid", "pref_forward": "auto"}
    with pytest.raises(UniDPOError, match=r"lacks weights that the model has: .*layers\.1\.mlp\.down_proj"):
        train(options(tiny_model, pair_data, tmp_path / "out", **changes | parts))
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_left_over_weights_end_a_run(changed, pair_data, tmp_path):
    broken = changed(lambda weights: weights.update({"model.layers.9.mlp.down_proj.weight": torch.zeros(2, 2)}))
    with pytest.raises(UniDPOError, match="no place for: .*layers.9"):
        train(options(broken, pair_data, tmp_path / "out"))


def test_a_missing_part_of_an_adapter_ends_a_run(tiny_model, pair_data, tmp_path):
    lora = {"finetuning_type": "lora", "lora_rank": 2, "lora_target": "q_proj"}
    train(options(tiny_model, pair_data, tmp_path / "first", max_steps=1, **lora))
    file = tmp_path / "first" / "adapter_model.safetensors"
    weights = load_file(file)
    weights.pop(next(iter(weights)))
    save_file(weights, file, metadata={"format": "pt"})
    again = {"adapter_name_or_path": str(tmp_path / "first"), "create_new_adapter": True}
    with pytest.raises(UniDPOError, match="The adapter .* lacks weights"):
        train(options(tiny_model, pair_data, tmp_path / "second", max_steps=1, **lora | again))


def test_the_table_says_what_does_not_hold():
    table = {
        "4.57.6, LoRA": {"5.5.4, training": 2e-7, "vLLM": 0.5},
        "5.5.4, LoRA": {"5.5.4, training": "ValueError: no"},
    }
    text = crossing_table(table)
    assert "| 4.57.6, LoRA | 2e-07 | 5e-01 |" in text and "| 5.5.4, LoRA | **see below** | – |" in text
    assert "- 4.57.6, LoRA, vLLM: 0.5" in text and "- 5.5.4, LoRA, 5.5.4, training: ValueError: no" in text

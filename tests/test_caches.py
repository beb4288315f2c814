"""Caches of reference log-probs and image features: the same training without a reference model or a vision tower."""

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from pairs import log_history, make_rows, options, train, write_dataset
from PIL import Image
from safetensors.torch import load_file, save_file

from llamafactory.train.uni_dpo.caches.fingerprints import FileHashes, weights_fingerprint
from llamafactory.train.uni_dpo.errors import UniDPOError


SHORT = {"learning_rate": 1e-4, "max_steps": 6, "pref_beta": 0.5}
COMPARED = {"loss", "grad_norm", "rewards/chosen", "rewards/margins", "uni_dpo/reference_margin", "eval_loss"}


def stored(folder):
    """Everything in a folder with its content, but for the memory of file hashes."""
    files = (path for path in Path(folder).iterdir() if path.name != "hashes.json")
    return {path.name: path.read_bytes() for path in files}


def pairs_in(folder):
    return sum(pq.read_metadata(part).num_rows for part in Path(folder).glob("*.parquet"))


def assert_same_course(first, second, rel=2e-4):
    for a, b in zip(log_history(first), log_history(second), strict=True):
        for key in COMPARED & a.keys():
            assert a.get(key) == pytest.approx(b.get(key), rel=rel, abs=1e-5), key


@pytest.fixture
def caches(tmp_path):
    return {"uni_dpo_reference_cache": str(tmp_path / "ref"), "uni_dpo_image_cache": str(tmp_path / "img")}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Pairs of which some share a picture, one has two and one has none."""
    folder = tmp_path_factory.mktemp("data")
    rows = make_rows(folder, 10)
    rows[1]["images"] = rows[0]["images"]
    rows[2] |= {"instruction": "<image><image>Which?", "images": rows[2]["images"] + rows[0]["images"]}
    rows[3] |= {"instruction": "What is it?", "images": []}
    return write_dataset(folder, rows)


class Counts:
    """How often reference models are made, towers run and images processed."""

    def __init__(self, monkeypatch):
        """Count from now on."""
        from transformers import Qwen2VLImageProcessor, Qwen2VLImageProcessorFast
        from transformers.models.qwen2_vl import modeling_qwen2_vl as qwen

        from llamafactory.train.dpo import workflow

        self.references = self.towers = self.images = 0
        self._count(monkeypatch, workflow, "create_ref_model", "references")
        self._count(monkeypatch, qwen.Qwen2VisionTransformerPretrainedModel, "forward", "towers")
        for kind in {Qwen2VLImageProcessor, Qwen2VLImageProcessorFast}:  # one class, in transformers 5
            self._count(monkeypatch, kind, "preprocess", "images")

    def _count(self, monkeypatch, owner, name, what):
        original = getattr(owner, name)

        def counted(*args, **kwargs):
            setattr(self, what, getattr(self, what) + 1)
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, counted)


def test_the_same_course_cold_and_warm(tiny_model, data, tmp_path, caches, monkeypatch):
    """Evaluation data is stored too; a warm run makes no reference model and, while it trains, encodes no image."""
    evaluation = {"val_size": 2, "eval_strategy": "steps", "eval_steps": 3}
    for name, changes in (("plain", {}), ("cold", caches), ("warm", caches)):
        if name == "warm":
            kept, counts = stored(tmp_path / "ref") | stored(tmp_path / "img"), Counts(monkeypatch)
        train(options(tiny_model, data, tmp_path / name, **SHORT | evaluation | changes))
    assert_same_course(tmp_path / "plain", tmp_path / "cold")
    assert_same_course(tmp_path / "cold", tmp_path / "warm", rel=0)
    assert stored(tmp_path / "ref") | stored(tmp_path / "img") == kept
    assert pairs_in(tmp_path / "ref") == 10
    # The self-check's two pairs go through upstream's forward; tokenising asks for the sizes of ten pairs' images.
    assert (counts.references, counts.towers) == (0, 2) and counts.images <= 10 + 2
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("cold", "warm"))
    assert all((first[name] == second[name]).all() for name in first)


def test_each_distinct_image_is_kept_once(tiny_model, data, tmp_path, caches):
    train(options(tiny_model, data, tmp_path / "out", **SHORT | caches | {"max_steps": 1}))
    parts = [load_file(part) for part in (tmp_path / "img").glob("*.safetensors")]
    names = [name for part in parts for name in part if not name.endswith(".grid")]
    distinct = {
        Path(data, image).read_bytes()
        for row in json.loads((data / "pairs.json").read_text())
        for image in row["images"]
    }
    assert len(names) == len(set(names)) == len(distinct)


@pytest.mark.parametrize(
    "changes",
    [
        {"uni_dpo_qual_eta": 0.1, "uni_dpo_nll_lambda": 0.5, "pref_beta": 0.1, "learning_rate": 1e-3},
        {"pref_loss": "sigmoid", "pref_forward": "auto"},
        {"pref_loss": "ipo", "pref_forward": "auto"},
    ],
)
def test_a_sweep_computes_nothing_anew(tiny_model, data, tmp_path, caches, monkeypatch, changes):
    train(options(tiny_model, data, tmp_path / "first", **SHORT | caches | {"max_steps": 1}))
    kept, counts = stored(tmp_path / "ref"), Counts(monkeypatch)
    train(options(tiny_model, data, tmp_path / "cached", **SHORT | caches | changes))
    assert stored(tmp_path / "ref") == kept and counts.references == 0
    train(options(tiny_model, data, tmp_path / "plain", **SHORT | changes))
    assert_same_course(tmp_path / "plain", tmp_path / "cached")


def test_lora(tiny_model, data, tmp_path, caches):
    """The policy itself, without its adapter, is the reference."""
    lora = SHORT | {"finetuning_type": "lora", "lora_rank": 4, "learning_rate": 1e-2}
    for name, changes in (("plain", {}), ("cold", caches), ("warm", caches)):
        train(options(tiny_model, data, tmp_path / name, **lora | changes))
    assert_same_course(tmp_path / "plain", tmp_path / "cold")
    assert_same_course(tmp_path / "cold", tmp_path / "warm", rel=0)


def test_what_changed_is_computed_anew_and_nothing_else(tiny_model, data, tmp_path, caches):
    """Another answer makes another pair; another picture in the same file makes another image and another pair."""
    shutil.copytree(data, tmp_path / "data")
    run = options(tiny_model, tmp_path / "data", tmp_path / "out", **SHORT | caches | {"max_steps": 1})
    train(run)
    images = len(stored(tmp_path / "img"))
    rows = json.loads((tmp_path / "data" / "pairs.json").read_text())
    rows[5]["rejected"] += " Really."
    write_dataset(tmp_path / "data", rows)
    Image.new("RGB", (56, 56), (1, 2, 3)).save(tmp_path / "data" / rows[6]["images"][0])
    train(run | {"output_dir": str(tmp_path / "changed"), "overwrite_cache": True})
    assert pairs_in(tmp_path / "ref") == 12
    assert len(stored(tmp_path / "img")) == images + 1
    plain = run | {"output_dir": str(tmp_path / "plain"), **dict.fromkeys(caches)}
    train({name: value for name, value in plain.items() if value is not None})
    assert_same_course(tmp_path / "plain", tmp_path / "changed")


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"template": "default"}, "template: 'qwen2_vl' there, 'default' here"),
        ({"image_max_pixels": 2000}, "image_max_pixels: '589824' there, '2000' here"),
        ({"pref_forward": "upstream", "uni_dpo_image_cache": None}, "pref_forward: 'auto' there, 'upstream' here"),
        ({"model_name_or_path": "OTHER"}, "reference model: "),
    ],
)
def test_a_foreign_cache_is_refused_with_the_reason(tiny_model, data, tmp_path, caches, changes, said):
    run = options(tiny_model, data, tmp_path / "out", **SHORT | caches | {"max_steps": 1})
    train(run)
    if "model_name_or_path" in changes:
        shutil.copytree(tiny_model, tmp_path / "other")
        weights = load_file(tiny_model / "model.safetensors")
        name = next(name for name in weights if "layers.0.mlp" in name)
        weights[name] = weights[name] + 0.01
        save_file(weights, tmp_path / "other" / "model.safetensors", metadata={"format": "pt"})
        changes = {"model_name_or_path": str(tmp_path / "other")}
    kept = stored(tmp_path / "ref") | stored(tmp_path / "img")
    again = {name: value for name, value in (run | changes).items() if value is not None}
    with pytest.raises(UniDPOError, match="was made for another run and is not used") as refused:
        train(again | {"output_dir": str(tmp_path / "again")})
    assert said in str(refused.value)
    assert stored(tmp_path / "ref") | stored(tmp_path / "img") == kept


def test_another_policy_with_the_same_tower_shares_the_images(tiny_model, data, tmp_path, caches):
    """Only tensors of the tower count, so that a checkpoint trained with a frozen tower can go on with its images."""
    train(options(tiny_model, data, tmp_path / "first", **SHORT | caches))
    images = {"uni_dpo_image_cache": caches["uni_dpo_image_cache"]}
    kept = stored(tmp_path / "img")
    train(options(tmp_path / "first", data, tmp_path / "second", **SHORT | images))
    assert stored(tmp_path / "img") == kept


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"uni_dpo_image_cache_gb": 1e-6}, "more than `uni_dpo_image_cache_gb`"),
        ({"freeze_vision_tower": False}, "unless nothing in the vision tower trains"),
        ({"pref_forward": "upstream"}, "`uni_dpo_image_cache` is not possible with `pref_forward: upstream`"),
        ({"pref_loss": "simpo"}, "which has no reference"),
        ({"streaming": True, "max_steps": 2, "dataloader_num_workers": 1}, "need `streaming: false`"),
    ],
)
def test_refused_before_anything_is_written(tiny_model, data, tmp_path, caches, changes, said):
    with pytest.raises(UniDPOError, match=said):
        train(options(tiny_model, data, tmp_path / "out", **SHORT | caches | changes))
    assert not list(tmp_path.rglob("part-*"))


def test_a_folder_with_other_things_is_left_alone(tiny_model, data, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(UniDPOError, match="with other things in it"):
        train(options(tiny_model, data, tmp_path / "out", uni_dpo_reference_cache=str(tmp_path / "mine")))
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_weights_are_known_by_their_tensors(tiny_model, tmp_path):
    """However they are spread over files; one changed number makes another checkpoint."""
    weights = load_file(tiny_model / "model.safetensors")
    names = sorted(weights)
    for number, part in enumerate((names[::2], names[1::2])):
        save_file({name: weights[name] for name in part}, tmp_path / f"model-{number}.safetensors")
    assert weights_fingerprint(tmp_path, FileHashes(tmp_path / "h")) == weights_fingerprint(
        tiny_model, FileHashes(tmp_path / "h")
    )
    assert weights_fingerprint(tmp_path, FileHashes(tmp_path / "h"), "visual.") == weights_fingerprint(
        tiny_model, FileHashes(tmp_path / "h"), "visual."
    )
    text = next(name for name in part if "visual" not in name)
    weights[text].view(-1)[0] += 1
    save_file({name: weights[name] for name in part}, tmp_path / "model-1.safetensors")
    assert weights_fingerprint(tmp_path, FileHashes(tmp_path / "h")) != weights_fingerprint(
        tiny_model, FileHashes(tmp_path / "h")
    )
    assert weights_fingerprint(tmp_path, FileHashes(tmp_path / "h"), "visual.") == weights_fingerprint(
        tiny_model, FileHashes(tmp_path / "h"), "visual."
    )

"""Caches of reference log-probs and image features: the same training without a reference model or a vision tower."""

import json
import shutil
from pathlib import Path

import pytest
from cached import assert_same_course, images_in, pairs_in, stored
from engine_models import build
from pairs import make_rows, options, train, write_dataset
from PIL import Image
from safetensors.torch import load_file, save_file

from llamafactory.train.uni_dpo.caches.fingerprints import FileHashes, is_decoders, weights_fingerprint
from llamafactory.train.uni_dpo.engine.families.family import tower_weights
from llamafactory.train.uni_dpo.errors import UniDPOError


SHORT = {"learning_rate": 1e-4, "max_steps": 4, "pref_beta": 0.5}
EVALUATION = {"val_size": 2, "eval_strategy": "steps", "eval_steps": 2}
CACHES = ("uni_dpo_reference_cache", "uni_dpo_image_cache")


def caches_in(folder):
    return {name: str(folder / name) for name in CACHES}


def all_stored(folder):
    return stored(*(folder / name for name in CACHES))


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

    def __init__(self, patch):
        """Count from now on."""
        from transformers import Qwen2VLImageProcessor, Qwen2VLImageProcessorFast
        from transformers.models.qwen2_vl import modeling_qwen2_vl as qwen

        from llamafactory.train.dpo import workflow

        self.references = self.towers = self.images = 0
        self._count(patch, workflow, "create_ref_model", "references")
        self._count(patch, qwen.Qwen2VisionTransformerPretrainedModel, "forward", "towers")
        for kind in {Qwen2VLImageProcessor, Qwen2VLImageProcessorFast}:  # one class, in transformers 5
            self._count(patch, kind, "preprocess", "images")

    def _count(self, patch, owner, name, what):
        original = getattr(owner, name)

        def counted(*args, **kwargs):
            setattr(self, what, getattr(self, what) + 1)
            return original(*args, **kwargs)

        patch.setattr(owner, name, counted)


@pytest.fixture(scope="module")
def cold(tiny_model, data, tmp_path_factory):
    """A folder with a run without caches, one that filled them, and the caches as it left them."""
    folder = tmp_path_factory.mktemp("cold")
    for name, changes in (("plain", {}), ("cold", caches_in(folder))):
        train(options(tiny_model, data, folder / name, **SHORT | EVALUATION | changes))
    return folder


@pytest.fixture
def caches(cold, tmp_path):
    """Options that name copies of the filled caches."""
    for name in CACHES:
        shutil.copytree(cold / name, tmp_path / name)
    return caches_in(tmp_path)


def test_the_same_course_cold_and_warm(tiny_model, data, cold, caches, tmp_path, monkeypatch):
    """Evaluation data is stored too; a warm run makes no reference model and, while it trains, encodes no image."""
    kept, counts = all_stored(cold), Counts(monkeypatch)
    train(options(tiny_model, data, tmp_path / "warm", **SHORT | EVALUATION | caches))
    assert_same_course(cold / "plain", cold / "cold")
    assert_same_course(cold / "cold", tmp_path / "warm", rel=0)
    assert all_stored(tmp_path) == kept
    assert len(pairs_in(caches["uni_dpo_reference_cache"])) == 10
    # The self-check's pair goes through upstream's forward; tokenising asks for the sizes of ten pairs' images.
    assert (counts.references, counts.towers) == (0, 1) and counts.images <= 10 + 2
    first, second = (load_file(folder / "model.safetensors") for folder in (cold / "cold", tmp_path / "warm"))
    assert all((first[name] == second[name]).all() for name in first)


def test_each_distinct_image_is_kept_once(data, cold):
    rows = json.loads((data / "pairs.json").read_text())
    distinct = {Path(data, image).read_bytes() for row in rows for image in row["images"]}
    names = images_in(cold / "uni_dpo_image_cache")
    assert len(names) == len(set(names)) == len(distinct)


@pytest.mark.parametrize(
    "changes",
    [
        {"uni_dpo_qual_eta": 0.1, "uni_dpo_nll_lambda": 0.5, "pref_beta": 0.1, "learning_rate": 1e-3},
        {"pref_loss": "sigmoid", "pref_forward": "auto"},
    ],
)
def test_a_sweep_computes_nothing_anew(tiny_model, data, caches, tmp_path, monkeypatch, changes):
    kept, counts = all_stored(tmp_path), Counts(monkeypatch)
    train(options(tiny_model, data, tmp_path / "cached", **SHORT | caches | changes))
    assert all_stored(tmp_path) == kept and counts.references == 0
    train(options(tiny_model, data, tmp_path / "plain", **SHORT | changes))
    assert_same_course(tmp_path / "plain", tmp_path / "cached")


def test_lora(tiny_model, data, tmp_path):
    """The policy itself, without its adapter, is the reference."""
    lora = SHORT | {"finetuning_type": "lora", "lora_rank": 4, "learning_rate": 1e-2, "max_steps": 3}
    for name, changes in (("plain", {}), ("cold", caches_in(tmp_path)), ("warm", caches_in(tmp_path))):
        train(options(tiny_model, data, tmp_path / name, **lora | changes))
    assert_same_course(tmp_path / "plain", tmp_path / "cold")
    assert_same_course(tmp_path / "cold", tmp_path / "warm", rel=0)


def test_what_changed_is_computed_anew_and_nothing_else(tiny_model, data, caches, tmp_path):
    """Another answer makes another pair; another picture in the same file makes another image and another pair."""
    shutil.copytree(data, tmp_path / "data")
    images = len(stored(caches["uni_dpo_image_cache"]))
    rows = json.loads((data / "pairs.json").read_text())
    rows[5]["rejected"] += " Really."
    write_dataset(tmp_path / "data", rows)
    Image.new("RGB", (56, 56), (1, 2, 3)).save(tmp_path / "data" / rows[6]["images"][0])
    for name, changes in (("plain", {}), ("changed", caches)):
        train(options(tiny_model, tmp_path / "data", tmp_path / name, **SHORT | changes | {"max_steps": 1}))
    assert len(pairs_in(caches["uni_dpo_reference_cache"])) == 12
    assert len(stored(caches["uni_dpo_image_cache"])) == images + 1
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
def test_a_foreign_cache_is_refused_with_the_reason(tiny_model, data, caches, tmp_path, changes, said):
    if "model_name_or_path" in changes:
        shutil.copytree(tiny_model, tmp_path / "other")
        weights = load_file(tiny_model / "model.safetensors")
        name = next(name for name in weights if "layers.0.mlp" in name)
        weights[name] = weights[name] + 0.01
        save_file(weights, tmp_path / "other" / "model.safetensors", metadata={"format": "pt"})
        changes = {"model_name_or_path": str(tmp_path / "other")}
    kept = all_stored(tmp_path)
    with pytest.raises(UniDPOError, match="was made for another run and is not used") as refused:
        train(options(tiny_model, data, tmp_path / "again", **SHORT | caches | changes))
    assert said in str(refused.value)
    assert all_stored(tmp_path) == kept


def test_another_policy_with_the_same_tower_shares_the_images(data, cold, caches, tmp_path):
    """Only tensors of the tower count, so that a checkpoint trained with a frozen tower can go on with its images."""
    del caches["uni_dpo_reference_cache"]
    kept = all_stored(tmp_path)
    train(options(cold / "cold", data, tmp_path / "second", **SHORT | caches | {"max_steps": 1}))
    assert all_stored(tmp_path) == kept


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"uni_dpo_image_cache_gb": 1e-6}, "more than `uni_dpo_image_cache_gb`"),
        ({"freeze_vision_tower": False}, "unless nothing in the vision tower trains"),
        ({"pref_forward": "upstream"}, "`uni_dpo_image_cache` is not possible with `pref_forward: upstream`"),
        ({"pref_loss": "simpo"}, "which has no reference"),
        ({"streaming": True, "dataloader_num_workers": 1}, "need `streaming: false`"),
    ],
)
def test_refused_before_anything_is_written(tiny_model, data, tmp_path, changes, said):
    with pytest.raises(UniDPOError, match=said):
        train(options(tiny_model, data, tmp_path / "out", **SHORT | caches_in(tmp_path) | changes))
    assert not list(tmp_path.rglob("part-*"))


def test_a_folder_with_other_things_is_left_alone(tiny_model, data, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(UniDPOError, match="with other things in it"):
        train(options(tiny_model, data, tmp_path / "out", uni_dpo_reference_cache=str(tmp_path / "mine")))
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_weights_are_known_by_their_tensors(tiny_model, tmp_path):
    """However they are spread over files; one changed number makes another checkpoint, with the same tower here."""
    weights = load_file(tiny_model / "model.safetensors")
    names = sorted(weights)
    for number, part in enumerate((names[::2], names[1::2])):
        save_file({name: weights[name] for name in part}, tmp_path / f"model-{number}.safetensors")

    def same(*prefix):
        found = [weights_fingerprint(folder, FileHashes(tmp_path / "h"), *prefix) for folder in (tmp_path, tiny_model)]
        return found[0] == found[1]

    assert same() and same(True)
    weights[next(name for name in part if "visual" not in name)].view(-1)[0] += 1
    save_file({name: weights[name] for name in part}, tmp_path / "model-1.safetensors")
    assert not same() and same(True)


@pytest.mark.parametrize("kind", ["qwen2_vl", "qwen3_vl", "internvl", "gemma3", "llava", "glm4v", "qwen3_5"])
def test_a_tower_of_other_weights_is_another_one(kind, tmp_path):
    """Whatever its parts are called: the decoder's weights do not count, and something always does."""
    model = build(kind)
    model.save_pretrained(tmp_path)

    def found():
        return [weights_fingerprint(tmp_path, FileHashes(tmp_path / "h"), tower) for tower in (False, True)]

    file = tmp_path / "model.safetensors"
    before, weights = found(), load_file(file)
    seeing = [name for name in weights if not is_decoders(name)]
    assert len(tower_weights(model)) <= len(seeing) < len(weights)
    for name, changed in ((next(name for name in weights if is_decoders(name)), False), (seeing[0], True)):
        weights[name] = weights[name] + 1
        save_file(weights, file, {"format": "pt"})
        after = found()
        assert after[0] != before[0] and (after[1] != before[1]) is changed

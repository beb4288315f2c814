"""What a cache's content depends on is in its key, and names depend on content alone."""

import json
import shutil
from pathlib import Path

import pytest
from datasets import Dataset, Image, List
from pairs import options
from safetensors.torch import load_file, save_file
from tiny_models import adapter

import llamafactory.train.dpo  # noqa: F401 (joins our options to the parser)
from llamafactory.hparams import get_train_args
from llamafactory.train.uni_dpo.caches.fingerprints import (
    PAIR_COLUMNS,
    FileHashes,
    media_keys,
    moving_media_keys,
    pair_keys,
    undecoded,
)
from llamafactory.train.uni_dpo.caches.keys import image_key, reference_key
from llamafactory.train.uni_dpo.caches.store import Store
from llamafactory.train.uni_dpo.errors import UniDPOError


@pytest.fixture
def keys(pair_data, tmp_path):
    """Keys of both caches for a model and changed options."""
    hashes = FileHashes(tmp_path / "hashes.json")

    def made(model, **changes):
        model_args, data_args, training_args, finetuning_args, _ = get_train_args(
            options(model, pair_data, tmp_path / "out", overwrite_output_dir=True, **changes)
        )
        images = image_key(model_args, training_args, finetuning_args, hashes)
        return reference_key(model_args, data_args, training_args, finetuning_args, hashes), images

    return made


def differing(first, second):
    return {name for name in first if first[name] != second[name]}


def test_a_config_that_changes_what_weights_mean(tiny_model, tmp_path, keys):
    """The same tensors with another base of positions are another model; a text option leaves the tower alone."""
    model = shutil.copytree(tiny_model, tmp_path / "model")
    before = keys(model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"rope_theta": 12345.0, "use_cache": False}))
    after = keys(model)
    assert differing(before[0], after[0]) == {"its config"} and not differing(before[1], after[1])


def test_adapters_and_whatever_merges_them(tiny_model, tmp_path, keys):
    """LlamaFactory merges all adapters but the one it goes on with, and that depends on more than their names."""
    adapted = {"adapter_name_or_path": str(adapter(tiny_model, tmp_path / "adapter")), "finetuning_type": "lora"}
    found = [
        keys(tiny_model, **changes)
        for changes in (
            {"finetuning_type": "lora"},
            adapted,
            adapted | {"create_new_adapter": True},
            adapted | {"do_train": False, "do_eval": True, "eval_dataset": "pairs", "dataset": None},
        )
    ]
    for which in (0, 1):
        seen = [json.dumps(pair[which], sort_keys=True) for pair in found]
        assert len(set(seen)) == len(seen)


def test_where_an_adapter_lies_and_what_the_reference_sees(tiny_model, tmp_path, keys):
    """LlamaFactory's `adapter_folder`; positions stretched to `cutoff_len`; the pictures of the policy's processor."""
    for number, name in enumerate(("one", "two")):
        weights = adapter(tiny_model, tmp_path / "all" / name) / "adapter_model.safetensors"
        save_file({key: value + number for key, value in load_file(weights).items()}, weights)
    adapted = {"adapter_name_or_path": str(tmp_path / "all"), "finetuning_type": "lora", "create_new_adapter": True}
    one, two = (keys(tiny_model, adapter_folder=name, **adapted) for name in ("one", "two"))
    assert differing(one[0], two[0]) == differing(one[1], two[1]) == {"adapters"}
    near, far = (keys(tiny_model, rope_scaling="linear", cutoff_len=length)[0] for length in (512, 1024))
    assert differing(near, far) == {"reaches"} and "reaches" not in keys(tiny_model)[0]
    model = shutil.copytree(tiny_model, tmp_path / "model")
    before = keys(model, ref_model=str(tiny_model))[0]
    processor = model / "preprocessor_config.json"
    processor.write_text(json.dumps(json.loads(processor.read_text()) | {"image_mean": [0.1, 0.2, 0.3]}))
    assert differing(before, keys(model, ref_model=str(tiny_model))[0]) == {"image processor"}


def test_the_best_route_by_any_name(tiny_model, keys):
    auto, shared = keys(tiny_model), keys(tiny_model, pref_forward="shared_prefix")
    assert auto == shared
    assert differing(auto[0], keys(tiny_model, pref_forward="response_only")[0]) == {"pref_forward"}


def test_a_part_of_a_checkpoint_is_none(tiny_model, tmp_path, keys):
    model = shutil.copytree(tiny_model, tmp_path / "model")
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UniDPOError, match="lacks model-00002-of-00002.safetensors. Name a folder with the whole"):
        keys(model)


def test_a_name_that_nobody_knows(keys):
    """Without a network a hub's name has to be in its cache already."""
    with pytest.raises(UniDPOError, match="nobody/nothing is neither a folder nor .* Download it and name its folder"):
        keys("nobody/nothing")


def test_images_in_the_data_set_are_named_by_their_bytes(pair_data, rows, tmp_path):
    """And handed over as bytes: decoded, those of a large data set would not fit in memory."""
    paths = [str(Path(pair_data, row["images"][0])) for row in rows[:3]]
    hashes = FileHashes(tmp_path / "hashes.json")
    inside = [[{"bytes": Path(path).read_bytes(), "path": None}] for path in paths]
    held = Dataset.from_dict({"images": inside}).cast_column("images", List(Image()))
    assert media_keys(held, "images", hashes) == media_keys(
        Dataset.from_dict({"images": [[p] for p in paths]}), "images", hashes
    )
    assert undecoded(held, "images")[0]["images"][0]["bytes"] == Path(paths[0]).read_bytes()


def test_pairs_differ_by_tokens_labels_and_media():
    rows = [[[1, 2], [-100, 2], [1, 3], [-100, 3]], [[1, 2], [1, 2], [1, 3], [-100, 3]], [[1], [2], [-100, 2, 1], [3]]]
    data = Dataset.from_dict({name: [row[i] for row in rows] for i, name in enumerate(PAIR_COLUMNS)})
    names = pair_keys(data, [["a"], ["a"], ["a"]])
    assert len(set(names)) == 3
    assert pair_keys(data.select([2, 0]), [["a"], ["a"]]) == [names[2], names[0]]
    assert pair_keys(data.select([0]), [["b"]]) != [names[0]]


def test_pairs_differ_by_their_videos_and_sounds(tmp_path):
    """The same tokens about another video or sound of the same length are another pair."""
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    rows = [([a], []), ([b], []), ([], [a]), ([], [b]), ([[a, b]], []), ([[b, a]], [])]
    tokens = dict.fromkeys(PAIR_COLUMNS, [1, 2])
    hashes = FileHashes(tmp_path / "memory.json")
    names = [
        pair_keys(data, moving_media_keys(data, hashes, rate))[0]
        for rate in (16000, 24000)
        for videos, audios in rows
        for data in [Dataset.from_list([tokens | {"videos": videos, "audios": audios}])]
    ]
    assert len(set(names[:6])) == 6 and len(set(names)) == 8  # the rate is one of sounds only


def test_two_runs_may_make_a_folder_at_the_same_time(tmp_path):
    """One finds what the other, or one that was killed, is about to rename, or has just renamed."""
    folder = tmp_path / "cache"
    folder.mkdir()
    (folder / ".key.json.abc.tmp").write_text("{")
    for _ in range(2):
        Store("uni_dpo_reference_cache", str(folder), {"version": 1})
    with pytest.raises(UniDPOError, match="version: 1 there, 2 here"):
        Store("uni_dpo_reference_cache", str(folder), {"version": 2})

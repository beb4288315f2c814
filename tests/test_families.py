"""Whole training runs of models of today's families, by LlamaFactory's own templates and processors."""

import shutil

import pytest
from engine_models import TEXT_KINDS, TEXT_STRANGERS
from family_checkpoints import checkpoint_of, text_checkpoint_of
from figures import LONG
from pairs import ALPACA, make_rows, mixed, options, write_dataset
from ranks import course, job, said, statuses, train_jobs
from recorded import recorded_run

from llamafactory.train.uni_dpo.data import collate
from llamafactory.train.uni_dpo.errors import UniDPOError


SLOW = {"learning_rate": 1e-4, "gradient_accumulation_steps": 1, "pref_beta": 0.5, "max_steps": 20}
KINDS = {"qwen3_vl": "qwen3_vl_nothink", "qwen3_5": "qwen3_5_nothink"}
EXPERTS = {f"{kind}_moe": template for kind, template in KINDS.items()}
OTHERS = {"glm4v": "glm4v", "internvl": "intern_vl", "gemma3": "gemma3", "llava": "llava"}
RARE = {"glm4v_moe": "glm4_5v", "llava_next": "llava_next", "gemma4": "gemma4"}
TEMPLATES = KINDS | OTHERS | EXPERTS | RARE
# LlamaFactory trains a part of the one's tower, without LoRA; the other's features are a list.
NO_IMAGE_CACHE = [(kind, "full") for kind in ("glm4v", "glm4v_moe", "llava", "llava_next")]
NO_IMAGE_CACHE += [("llava", "lora"), ("llava_next", "lora")]
# Those whose own forward runs; all others share.
ROUTES = dict.fromkeys(("gemma3", "llava", "llava_next", "gemma4"), "response_only")
TUNINGS = {"full": {}, "lora": {"finetuning_type": "lora", "lora_rank": 4}}
ALWAYS = [("qwen3_vl", "full"), ("qwen3_5", "full"), ("gemma3", "lora")]  # of each way through a model one
RARELY = [(kind, tuning) for kind in TEMPLATES for tuning in TUNINGS if (kind, tuning) not in ALWAYS]


@pytest.fixture(scope="module")
def data(rows, pair_data):
    """Pairs without a picture, with one and with two."""
    return write_dataset(pair_data, mixed(rows), name="mixed")


@pytest.mark.parametrize(
    ("kind", "tuning"), [*ALWAYS, *(pytest.param(*case, marks=pytest.mark.long) for case in RARELY)]
)
def test_twenty_steps(kind, tuning, tiny_model, data, tmp_path):
    """The best route, with and without both caches, gives the losses of upstream's forward."""
    model, caches = checkpoint_of(kind, tiny_model, tmp_path / "model"), tmp_path / "caches"
    run = options(model, data, tmp_path, dataset="mixed", **SLOW, **TUNINGS[tuning])
    run |= {"template": TEMPLATES[kind], "cutoff_len": 2048}
    names = ["reference"] if (kind, tuning) in NO_IMAGE_CACHE else ["image", "reference"]
    stored = {f"uni_dpo_{name}_cache": str(caches / name) for name in names}
    ways = {"upstream": {"pref_forward": "upstream"}, "auto": {}, "stored": stored, "stored again": stored}
    found = {
        name: recorded_run(run | way | {"output_dir": str(tmp_path / name.replace(" ", "_"))})
        for name, way in ways.items()
    }
    theirs = found.pop("upstream")
    assert max(theirs.losses) - min(theirs.losses) > 1e-2
    for ours in found.values():
        (route,) = ours.about("pref_forward")
        assert route.startswith(f"pref_forward: {ROUTES.get(kind, 'shared_prefix')}")
        assert ours.about("Self-check of pref_forward: within")
        # A choice among experts jumps: weights one rounding off move the losses of upstream's forward as far.
        assert ours.losses == pytest.approx(theirs.losses, rel=5e-4 if kind.endswith("moe") else 1e-4, abs=1e-5)
    for what in ("Reference log-probs", "Image features")[: len(names)]:
        assert found["stored again"].about(f"{what}: all stored already")


@pytest.mark.long
@pytest.mark.parametrize("tuning", TUNINGS)
@pytest.mark.parametrize("kind", [*TEXT_KINDS, *TEXT_STRANGERS])
def test_twenty_steps_of_text_models(kind, tuning, tiny_model, rows, pair_data, tmp_path):
    model = text_checkpoint_of(kind, tiny_model, tmp_path / "model")
    words = [row | {"instruction": row["instruction"].removeprefix("<image>")} for row in rows]
    columns = {name: column for name, column in ALPACA.items() if name != "images"}
    data = write_dataset(pair_data, words, name="words", columns=columns)
    run = options(model, data, tmp_path / "upstream", dataset="words", **SLOW, **TUNINGS[tuning]) | {
        "template": "qwen"
    }
    theirs = recorded_run(run | {"pref_forward": "upstream"})
    ours = recorded_run(
        run | {"uni_dpo_reference_cache": str(tmp_path / "cache"), "output_dir": str(tmp_path / "ours")}
    )
    route = "response_only" if kind in TEXT_STRANGERS else "shared_prefix"
    assert ours.about("pref_forward")[0].startswith(f"pref_forward: {route}")
    assert ours.losses == pytest.approx(theirs.losses, rel=1e-4, abs=1e-5)


@pytest.fixture(scope="module")
def videos(rows, pair_data, video):
    """Every other pair of `data` is about a video instead."""
    shutil.copy(video, pair_data / "colours.mp4")
    changed = []
    for i, row in enumerate(mixed(rows)):
        if i % 2:
            question = row["instruction"].replace("<image>", "")
            row = row | {"instruction": f"<video>{question}", "images": [], "videos": ["colours.mp4"]}
        changed.append({"videos": []} | row)
    return write_dataset(pair_data, changed, name="videos", columns=ALPACA | {"videos": "videos"})


@pytest.mark.parametrize("kind", ["qwen3_vl", pytest.param("qwen3_5", marks=pytest.mark.long)])
def test_twenty_steps_with_videos(kind, tiny_model, videos, tmp_path):
    """Beside images and without any, with the caches on."""
    model = checkpoint_of(kind, tiny_model, tmp_path / "model")
    run = options(model, videos, tmp_path / "upstream", dataset="videos", **SLOW) | {"template": TEMPLATES[kind]}
    theirs = recorded_run(run | {"pref_forward": "upstream"})
    stored = {f"uni_dpo_{name}_cache": str(tmp_path / name) for name in ("image", "reference")}
    for name, way in {"ours": {}, "stored": stored}.items():
        ours = recorded_run(run | way | {"pref_forward": "shared_prefix", "output_dir": str(tmp_path / name)})
        assert ours.losses == pytest.approx(theirs.losses, rel=1e-4, abs=1e-5)
    assert any("pixel_values_videos" in batch for batch in theirs.batches)


def test_a_plugin_that_brings_more_than_we_know_of(tiny_model, videos, tmp_path, monkeypatch):
    """Its media are not halved, and both rows of a pair run."""
    known = tuple(name for name in collate.MEDIA_KEYS if name != "video_metadata")
    monkeypatch.setattr(collate, "MEDIA_KEYS", known)
    model = checkpoint_of("qwen3_vl", tiny_model, tmp_path / "model")
    run = options(model, videos, tmp_path / "upstream", dataset="videos", **SLOW | {"max_steps": 4})
    run["template"] = TEMPLATES["qwen3_vl"]
    theirs = recorded_run(run | {"pref_forward": "upstream"})
    ours = recorded_run(run | {"pref_forward": "shared_prefix", "output_dir": str(tmp_path / "ours")})
    assert ours.losses == pytest.approx(theirs.losses, rel=1e-4, abs=1e-5)


def test_image_features_that_are_a_list_are_not_stored(tiny_model, data, tmp_path):
    model = checkpoint_of("llava", tiny_model, tmp_path / "model")
    run = options(model, data, tmp_path / "out", dataset="mixed", template="llava")
    with pytest.raises(UniDPOError, match="not possible with models of type 'llava'; remove the option"):
        recorded_run(run | {"uni_dpo_image_cache": str(tmp_path / "cache")})


LAYERS = {
    "qwen3_vl": "Qwen3VLTextDecoderLayer,Qwen3VLVisionBlock",
    "qwen3_vl_moe": "Qwen3VLMoeTextDecoderLayer,Qwen3VLMoeVisionBlock",
    "qwen3_5": "Qwen3_5DecoderLayer,Qwen3_5VisionBlock",
    "qwen3_5_moe": "Qwen3_5MoeDecoderLayer,Qwen3_5MoeVisionBlock",
    "glm4v": "Glm4vTextDecoderLayer,Glm4vVisionBlock",
    "internvl": "Qwen2DecoderLayer,InternVLVisionLayer",
    "gemma3": "Gemma3DecoderLayer,SiglipEncoderLayer",
    "llava": "LlamaDecoderLayer,SiglipEncoderLayer",
    "llava_next": "LlamaDecoderLayer,SiglipEncoderLayer",
    "glm4v_moe": "Glm4vMoeTextDecoderLayer,Glm4vMoeVisionBlock",
    "gemma4": "Gemma4TextDecoderLayer,Gemma4VisionEncoderLayer",
}
# How many ranks, by which strategy, and what they tune; all are compared with one process and upstream's forward.
RANKS = [("ddp", 2, "lora"), ("zero3", 2, "full")]
RANKS += [("alone", 0, "lora"), ("fsdp2", 2, "full"), ("zero2", 2, "full")] if LONG else []
TOWER = {"full": {"freeze_vision_tower": False}, "lora": {}}
NO_ZERO3 = ("qwen3_5", *EXPERTS, "glm4v_moe", "gemma4")
PAIRS, AT_ONCE, BATCH, RATE = 24, 8, 2, 1e-4


def in_turn(rows):
    """Batches without a picture beside others with one or two, so that a rank has none while the other has some."""
    none, one, two = (mixed(rows)[kind::3] for kind in range(3))
    return [pair for i in range(0, 8, 2) for kind in (none, one, none, two) for pair in kind[i : i + 2]][:PAIRS]


@pytest.mark.parametrize(
    "kind", [*KINDS, *(pytest.param(kind, marks=pytest.mark.long) for kind in OTHERS | EXPERTS | RARE)]
)
def test_ranks_equal_one_process(kind, tiny_model, tmp_path):
    """Losses, gradient norms and weights, with LoRA and with a trained tower, as far as float32 goes."""
    rows = in_turn(make_rows(tmp_path / "data", PAIRS))
    data, model = write_dataset(tmp_path / "data", rows), checkpoint_of(kind, tiny_model, tmp_path / "model")
    always = {
        "template": TEMPLATES[kind],
        "cutoff_len": 2048,
        "disable_shuffling": True,
        "max_steps": 3,
        "uni_dpo_log_pairs": True,
    }
    always |= {"learning_rate": RATE, "adam_epsilon": 1e-5, "pref_beta": 0.5}

    def planned(strategy, ranks, tuning, forward="auto"):
        folder = tmp_path / f"{strategy}-{tuning}-{forward}"
        accumulation = {"gradient_accumulation_steps": AT_ONCE // (max(1, ranks) * BATCH), "pref_forward": forward}
        run = options(model, data, folder, **always | TUNINGS[tuning] | TOWER[tuning] | accumulation)
        return folder, job(folder, strategy, ranks, run, LAYERS[kind])

    plans = {case: planned(*case) for case in RANKS}
    theirs = {tuning: planned("alone", 0, tuning, "upstream") for tuning in TUNINGS}
    train_jobs([described for _, described in [*theirs.values(), *plans.values()]])
    for (strategy, _, tuning), (folder, _) in plans.items():
        if strategy == "zero3" and kind in NO_ZERO3:  # transformers loads other weights, or none
            assert "loads wrongly under ZeRO-3" in said(folder) and 0 not in statuses(folder)
            continue
        assert set(statuses(folder)) == {0}, said(folder)[-3000:]
        assert f"pref_forward: {ROUTES.get(kind, 'shared_prefix')}" in said(folder)
        loss, weight = course(folder / "out", PAIRS).off(course(theirs[tuning][0] / "out", PAIRS))
        assert loss < 2e-4 and weight < 0.1 * RATE, (strategy, tuning, loss, weight)

"""Random checkpoints of real shapes: as many weights as the public ones, and small ones that load as those do."""

import json

import pytest
import torch
from PIL import Image
from real_shape import main
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from launcher.memory import KNOWN_SIZES, TOWER
from shapes import FAMILIES, SHAPES, config_values


# `safetensors.total` of the public checkpoints. Qwen3.5's includes a head for several tokens, which training drops.
PUBLIC = {
    "Qwen2-VL-2B": 2_208_985_600,
    "Qwen2-VL-7B": 8_291_375_616,
    "Qwen2.5-VL-3B": 3_754_622_976,
    "Qwen2.5-VL-7B": 8_292_166_656,
    "Qwen3-VL-2B": 2_127_532_032,
    "Qwen3-VL-4B": 4_437_815_808,
    "Qwen3-VL-8B": 8_767_123_696,
    "Qwen3.5-0.8B": 873_438_784,
    "Qwen3.5-2B": 2_274_069_824,
    "Qwen3.5-4B": 4_659_865_088,
    "Qwen3.5-9B": 9_653_104_368,
    "InternVL3-1B": 938_193_024,
    "InternVL3-2B": 2_088_957_440,
    "InternVL3-8B": 7_944_373_760,
    "InternVL3_5-4B": 4_732_489_216,
    "gemma-3-4b": 4_300_079_472,
}


def test_every_shape_is_counted():
    assert set(SHAPES) == set(PUBLIC) == set(KNOWN_SIZES)


@pytest.mark.parametrize("name", SHAPES)
def test_has_as_many_weights_as_the_public_one(name, tmp_path):
    """All of them, and those that the launcher counts for the language model and for the tower."""
    (tmp_path / "config.json").write_text(json.dumps(config_values(name)))
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(tmp_path))
    model.tie_weights()
    assert [type(model).__name__] == model.config.architectures
    counts = {name: weight.numel() for name, weight in model.named_parameters()}
    tower = sum(count for name, count in counts.items() if any(part in name for part in TOWER))
    total = sum(counts.values())
    if SHAPES[name].family == "qwen3_5":
        assert 0.97 < total / PUBLIC[name] < 0.98
    else:
        assert total == PUBLIC[name]
    assert KNOWN_SIZES[name] == pytest.approx((total - tower, tower), abs=5e5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_small_one_of_each_family_loads(family, tmp_path):
    """Every file of it, and its image is as many tokens as the model makes of it."""
    name = next(name for name, shape in SHAPES.items() if shape.family == family)
    assert main([str(tmp_path / "small"), "--shape", name, "--small"]) == 0
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "small", dtype="auto")
    assert model.dtype == torch.bfloat16 and sum(weight.numel() for weight in model.parameters()) < 10e6
    assert all(weight.isfinite().all() for weight in model.parameters())
    processor = AutoProcessor.from_pretrained(tmp_path / "small")
    assert type(processor).__name__ == FAMILIES[family].processor
    text = f"A picture: {getattr(processor, 'boi_token', processor.image_token)}"
    picture = Image.open(tmp_path / "small" / "data" / "a.png")
    inputs = processor(images=[[picture]], text=[text], return_tensors="pt", return_mm_token_type_ids=True)
    with torch.no_grad():
        logits = model(**inputs.to(torch.bfloat16)).logits
    assert logits.shape[:2] == inputs["input_ids"].shape and logits.isfinite().all()

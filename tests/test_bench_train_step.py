"""The benchmark of a preference step: its counts of operations, and a small run of all it does. No test times."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from pairs import ROOT
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from bench_train_step import measure, models, report, steps
from bench_train_step.command import main
from bench_train_step.counts import encoding, operations
from bench_train_step.sizes import KINDS, SIZES, Sizes
from bench_train_step.variants import DEFAULT_SHAPES, UPSTREAM, VARIANTS, obstacles, pairs_of, shapes_of, variants_of


# Operations of Qwen2-VL, worked out independently of this code: upstream's forward in 1e12, and how many times less
# the parts take, then everything, both caches, and everything with the 7B's sizes. Rows without padding, and an output
# layer in chunks wherever all parts are together.
PARTS = ("response_only", "image_per_pair", "image_once", "shared_prefix", "everything", "both_cached")
COUNTED = {
    "300/30": (15.9, (1.08, 1.35, 1.54, 2.03, 2.49, 4.05), 2.05),
    "1100/30": (65.9, (1.07, 1.42, 1.71, 2.10, 2.78, 5.17), 2.24),
    "1100/250": (72.9, (1.06, 1.37, 1.60, 1.90, 2.36, 3.93), 1.90),
}
QWEN = SIZES["qwen2_vl"]
OTHERS = [kind for kind in KINDS if kind != "qwen2_vl"]
TINY = replace(QWEN["small"], hidden=64, layers=2, heads=2, mlp=96, vision_hidden=32, vision_layers=2)


def count(shape: str, name: str, size: str = "2b") -> float:
    chunked = name in ("everything", "both_cached")
    return operations(QWEN[size], pairs_of(shape), VARIANTS[name], chunked, padded_to=1)


@pytest.mark.parametrize("shape", COUNTED)
def test_ceilings(shape):
    """A wrong ceiling would let a slow engine look as good as can be, or a good one look slow."""
    base, ratios, larger = COUNTED[shape]
    assert count(shape, UPSTREAM) / 1e12 == pytest.approx(base, abs=0.05)
    for name, ratio in zip(PARTS, ratios, strict=True):
        assert count(shape, UPSTREAM) / count(shape, name) == pytest.approx(ratio, abs=0.0051), name
    assert count(shape, UPSTREAM, "7b") / count(shape, "everything", "7b") == pytest.approx(larger, abs=0.0051)


def test_by_hand():
    """One layer of width 1 and one pair, counted on paper.

    Two rows of 3 + 2 tokens, padded to 8: 16 tokens and 2 * 8 * 9 / 2 = 72 pairs of query and key. A token costs
    2 * (2 + 2 + 3) = 14 in the layer, and a pair of query and key 4: 16 * 14 + 72 * 4 = 512, five times with
    checkpointing. The output layer of 10 words costs 20 at each of 16 positions, four times: 1280. Together 3840.

    Shared: 3 + 2 + 2 = 7 tokens; 15 pairs of query and key for prompt and chosen, 3 for rejected among themselves, 6
    from rejected to the prompt: 7 * 14 + 24 * 4 = 194, five times 970. The output layer scores 4 tokens: 320.
    """
    sizes = Sizes(1, 1, 1, 1, 1, 10, 1, 0, 1)
    pairs = (replace(pairs_of("40/2")[0], prompt=3, image=(0, 0)),)
    assert operations(sizes, pairs, VARIANTS[UPSTREAM]) == 3840
    assert operations(sizes, pairs, VARIANTS["everything"]) == 1290
    assert operations(sizes, pairs, VARIANTS["reference_cached"]) == 4 * 194 + 240
    plain = replace(sizes, checkpointing=False)
    assert operations(plain, pairs, VARIANTS["everything"], chunked=True) == 4 * 194 + 5 * 80


def test_shapes():
    """The pairs are as long as their names say, and fit their images; what is no shape is refused."""
    for shape in DEFAULT_SHAPES:
        for pair in pairs_of(shape):
            assert pair.image_tokens + 2 < pair.prompt
            assert shape in ("mixed", f"{pair.prompt}/{pair.chosen}")
    for shape in ("", "300", "300/x", "20/5", "300/1", "mixed/3"):
        with pytest.raises(ValueError, match="is no shape|is too small"):
            pairs_of(shape)


@pytest.fixture(scope="module")
def built():
    return models.build(TINY, "cpu")


def test_models_are_what_they_stand_for(built):
    """The CPU's model spends its operations as Qwen2-VL-2B does, and of both trains what LlamaFactory trains."""
    (pair,) = pairs_of("300/30")
    shares = []
    for size in ("small", "2b"):
        sizes, whole = QWEN[size], count("300/30", UPSTREAM, size)
        image, head = 4 * encoding(sizes, pair.image_tokens), 4 * 2 * 660 * sizes.hidden * sizes.vocabulary
        shares.append((image / whole, head / whole))
    assert shares[0] == pytest.approx(shares[1], abs=0.01)
    assert models.parameters(built)["head"] == TINY.hidden * TINY.vocabulary
    assert built.policy.is_gradient_checkpointing
    assert not any(weight.requires_grad for weight in built.policy.model.visual.parameters())
    assert not any(weight.requires_grad for weight in built.reference.parameters())
    trained = [weight.requires_grad for weight in built.policy.model.language_model.parameters()]
    assert all(trained)


@pytest.mark.parametrize("kind", OTHERS)
def test_small_models_have_the_ceilings_of_real_ones(kind):
    small, real = SIZES[kind].values()
    for shape in shapes_of(kind):
        (pair,) = pairs_of(shape)
        assert KINDS[kind].tokens in (0, pair.image[0])
        for name, variant in variants_of(kind).items():
            if name not in obstacles(kind):
                found = [
                    operations(it, (pair,), VARIANTS[UPSTREAM]) / operations(it, (pair,), variant)
                    for it in (small, real)
                ]
                assert found[0] == pytest.approx(found[1], abs=0.06), (shape, name)


@pytest.mark.long
@pytest.mark.parametrize("kind", OTHERS)
def test_counts_are_what_torch_counts(kind):
    """Of a forward and backward of LlamaFactory's, whose attention, computed by plain products, makes full squares."""
    models_ = models.build(replace(SIZES[kind]["small"], checkpointing=False), "cpu")
    sizes, pairs = models_.sizes, pairs_of(shapes_of(kind)[0])
    step = steps.Steps(models_, pairs)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        step.run(UPSTREAM)
    length = step.upstream["input_ids"].shape[1]
    beyond = 4 * sizes.attending * sizes.heads * sizes.head_size * length * (length - 1)
    expected = operations(sizes, pairs, VARIANTS[UPSTREAM]) + 4 * beyond
    counted = counter.get_flop_counts()["Global"]
    if sizes.delta:  # torch takes the backward of a convolution of single channels for one of all with all
        del counted[torch.ops.aten.convolution_backward]
    assert sum(counted.values()) == pytest.approx(expected, rel=0.02)


@pytest.mark.long
@pytest.mark.parametrize("kind", OTHERS)
def test_all_variants_of_other_kinds_agree(kind):
    built = models.build(SIZES[kind]["small"], "cpu")
    names = [name for name in variants_of(kind) if name not in obstacles(kind)]
    prompt = shapes_of(kind)[0].split("/")[0]
    assert set(measure.check(steps.Steps(built, pairs_of(f"{prompt}/5")), names)) == set(names)


def test_options_that_do_not_fit_each_other_are_refused(capsys):
    for words, said in {
        ("--model", "llava", "--shapes", "300/30"): "every image of llava takes 24 x 24 tokens, as 620/30 has",
        ("--model", "qwen3_vl", "--size", "7b"): "qwen3_vl has small, 4b",
        ("--model", "glm4v", "--variants", "image_once"): "LlamaFactory trains a part of the vision tower",
        ("--model", "gemma3", "--variants", "shared_prefix"): "the engine knows no shared prompt",
    }.items():
        with pytest.raises(SystemExit):
            main(list(words))
        assert said in capsys.readouterr().err


def test_all_variants_agree_and_a_wrong_one_is_seen(built):
    """The check before timing passes pairs of unequal lengths, and sees a position that is off by one."""
    first, second = pairs_of("40/3")[0], pairs_of("60/5")[0]
    step = steps.Steps(built, (replace(first, rejected=7), second))
    names = [name for name in VARIANTS if name not in obstacles()]
    assert set(measure.check(step, names)) == set(names)
    step.batches["packed"]["pair_layout"].position_ids[0, :, -1] += 1
    with pytest.raises(measure.Disagreement, match="shared_prefix differs from upstream's forward by up to"):
        measure.check(step, names)


def test_a_step_depends_on_reference_and_media(built):
    """Policy and reference differ by more than the check allows (0.002), and so do images.

    Else it would see neither mixed up nor missing ones.
    """
    step = steps.Steps(built, pairs_of("40/3"))
    policy, reference = step.run("both_cached").chunk(2)
    assert (policy - reference).abs().min() > 0.004
    step.cached_features["image"] = step.cached_features["image"].flip(0)
    flipped, _ = step.run("both_cached").chunk(2)
    assert (policy - flipped).abs().min() > 0.004


def test_ratios_are_taken_turn_by_turn():
    """Two turns, the second on a machine half as fast: the ratio is 2 in both, and 30 tokens take 1.5 s."""
    seconds = {UPSTREAM: [(2.0, 2.5), (4.0, 4.5)], "everything": [(1.0, 1.0), (2.0, 2.0)]}
    pairs = (replace(pairs_of("40/3")[0], prompt=12),)
    found = report.summary(seconds, pairs, {UPSTREAM: 30.0, "everything": 10.0})["everything"]
    assert found["ratio"] == {"median": 2.0, "least": 2.0, "most": 2.0}
    assert found["ceiling"] == 3.0
    assert found["tokens_per_second"] == 20.0
    assert found["wall_seconds"] == [1.0, 2.0]


@pytest.mark.parametrize("weighed", [False, pytest.param(True, marks=pytest.mark.long)])
def test_run(tmp_path, weighed, capsys):
    """Every variant agrees, is timed, and everything is written; by the long part as a user gives it, and weighed.

    Weighing starts a Python for each variant.
    """
    words = ["--output", str(tmp_path), "--shapes", "40/3", "--repeats", "1", "--vocabulary", "2000"]
    words += ["--variants", "everything"]
    if weighed:
        command = [sys.executable, str(ROOT / "scripts" / "bench_train_step.py"), *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=os.environ)
        assert done.returncode == 0, done.stderr
        said = done.stdout
    else:
        assert main([*words, "--no-memory"]) == 0
        said = capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ratios.png", "results.json"]
    result = json.loads((tmp_path / "results.json").read_text())
    assert result["versions"]["torch"] and result["threads"] == 1 and "--vocabulary 2000" in result["command"]
    assert result["model"]["sizes"]["vocabulary"] == 2000
    (shape,) = result["shapes"]
    assert shape["pairs"] == [{"prompt": 40, "image": [4, 4], "chosen": 3, "rejected": 3}]
    assert list(shape["variants"]) == [UPSTREAM, "everything"]
    for name, found in shape["variants"].items():
        assert len(found["seconds"]) == len(found["wall_seconds"]) == 1 and found["seconds"][0] > 0
        assert found["ceiling"] >= 1 and found["off_by"] < 2e-3
        assert not weighed or found["peak_bytes"] > 0 or not measure.can_measure_memory()
        assert name in said


def test_output_that_is_a_file_is_refused_before_measuring(tmp_path, capsys):
    """Half an hour of measuring must not end in an error about the folder it should go to."""
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit):
        main(["--output", str(tmp_path / "file")])
    assert "--output" in capsys.readouterr().err

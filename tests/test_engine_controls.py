"""What the parity tests must catch: four mistakes of a shared prompt, and images given to the wrong pair.

Each is made on purpose, in the layout or the features of an engine that otherwise agrees with LlamaFactory's forward.
If one of them changed nothing here, the parity tests would prove nothing about it.
"""

import pytest
import torch
from engine_cases import collate, media_of, pair
from engine_mistakes import MISTAKES, PAIRS, VISIBLE, positions_are_token_indices
from engine_models import build, sees_images
from engine_oracle import MEDIA_IDS, exact_float64, upstream_logps  # noqa: F401
from rounding_rates import PRECISIONS, trial

from llamafactory.train.uni_dpo.engine import Choice, attach, choose, lay_out, pair_logps
from llamafactory.train.uni_dpo.engine.families import Family, family_of, gated_delta
from llamafactory.train.uni_dpo.training.rounding import rounded_again
from llamafactory.train.uni_dpo.training.self_check import BOUND, bounds


exact = pytest.mark.usefixtures("exact_float64")


def logps(layout_kind, tamper=None, mix=None):
    """Return LlamaFactory's log-probs and the engine's, with a mistake in its layout or its features."""
    model = build("qwen2_vl", torch.float64, "eager" if layout_kind == "masked" else "sdpa").requires_grad_(False)
    batch = collate(model, PAIRS)
    theirs, _ = upstream_logps(model, batch)
    attach(model, Choice("shared_prefix", layout_kind))
    layout = lay_out(batch, layout_kind, MEDIA_IDS)
    if tamper is not None:
        tamper(layout)
    features = pair_logps(model, layout, media_of(batch)).features
    if mix is not None:
        features = {"image": mix(features["image"])}
    return theirs, pair_logps(model, layout, None, features).logps


@exact
@pytest.mark.parametrize("layout", ["packed", "masked"])
def test_without_a_mistake(layout):
    theirs, ours = logps(layout)
    assert (ours - theirs).abs().max() < 1e-9


@exact
@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("layout", ["packed", "masked"])
def test_mistakes_of_a_shared_prompt_show(layout, mistake):
    theirs, ours = logps(layout, mistake)
    chosen, rejected = (ours - theirs).abs().chunk(2)
    assert rejected.max() > VISIBLE
    if mistake is not positions_are_token_indices:  # the others are mistakes about the rejected answer alone
        assert chosen.max() < 1e-9


@exact
@pytest.mark.parametrize("layout", ["packed", "masked", "rows"])
def test_images_of_another_pair_show(layout):
    """Features are in order of pairs, and that order must hold."""
    theirs, ours = logps(layout, mix=lambda features: torch.cat(features.chunk(2)[::-1]))
    assert (ours - theirs).abs().min() > VISIBLE


@exact
def test_a_broken_number_of_features_is_refused():
    """Of images cut off by `cutoff_len`, say."""
    with pytest.raises(ValueError, match="8 image placeholders and 7 image features.*cutoff_len"):
        logps("packed", mix=lambda features: features[1:])


@exact
def test_videos_without_placeholders_are_refused():
    """Those of GLM-4V stand at placeholders of images; nobody would have seen them."""
    model = build("glm4v", torch.float64).requires_grad_(False)
    batch = collate(model, PAIRS)
    attach(model, choose(model))
    media = media_of(batch)
    videos = {"pixel_values_videos": media["pixel_values"], "video_grid_thw": media["image_grid_thw"]}
    with pytest.raises(ValueError, match="0 video placeholders.*`pref_forward: upstream`"):
        pair_logps(model, lay_out(batch, "packed", MEDIA_IDS), videos)


# ---- what only some families have: each left out on purpose ----


def without_deepstack(family, monkeypatch):
    """Give the decoder embeddings alone, as a call of the model's body would."""
    monkeypatch.setattr(
        type(family),
        "decode",
        lambda self, model, embeds, media, **inputs: Family.decode(
            self, model, embeds, [(where, features[:, : embeds.shape[-1]]) for where, features in media], **inputs
        ),
    )


def without_state(family, monkeypatch):
    """Start both answers as if nothing had been said before."""
    run = gated_delta._recur_pairs

    def apart(rule, row, options, spans):
        return run(rule, row, options, [(0, part, 0) for span in spans for part in span if part])

    monkeypatch.setattr(gated_delta, "_recur_pairs", apart)


def without_context(family, monkeypatch):
    """Let the convolution of the rejected answer begin with nothing."""
    run = gated_delta._convolve_pairs
    monkeypatch.setattr(gated_delta, "_convolve_pairs", lambda whole, x, spans, reach: run(whole, x, spans, 0))


def with_one_state_for_all(family, monkeypatch):
    """Let the state run through the whole row, chosen answer and other pairs included."""
    monkeypatch.setattr(gated_delta, "_recur_pairs", lambda rule, row, options, spans: rule(*row, **options)[0])


FAMILY_MISTAKES = [
    ("qwen3_vl", without_deepstack),
    ("qwen3_5", without_state),
    ("qwen3_5", without_context),
    ("qwen3_5", with_one_state_for_all),
    ("qwen3_next", without_state),
]


@exact
@pytest.mark.parametrize("kind, mistake", FAMILY_MISTAKES)
def test_what_a_family_has_beyond_attention_shows(kind, mistake, monkeypatch):
    pairs = PAIRS if sees_images(kind) else [pair(8, 11, 9), pair(5, 6, 14, common=2)]
    model = build(kind, torch.float64).requires_grad_(False)
    batch = collate(model, pairs)
    theirs, _ = upstream_logps(model, batch)
    attach(model, choose(model))
    layout = lay_out(batch, "packed", MEDIA_IDS)
    assert (pair_logps(model, layout, media_of(batch)).logps - theirs).abs().max() < 1e-9
    mistake(family_of(model), monkeypatch)
    assert (pair_logps(model, layout, media_of(batch)).logps - theirs).abs().max() > VISIBLE


@exact
def test_a_soft_cap_that_is_skipped_shows():
    """The output layer alone is not what this model says."""
    model = build("gemma2", torch.float64).requires_grad_(False)
    batch = collate(model, [pair(8, 11, 9), pair(5, 6, 14)])
    theirs, _ = upstream_logps(model, batch)
    attach(model, choose(model))
    layout = lay_out(batch, "rows", MEDIA_IDS)
    assert (pair_logps(model, layout).logps - theirs).abs().max() < 1e-9
    model.config.final_logit_softcapping = None
    assert (pair_logps(model, layout).logps - theirs).abs().max() > VISIBLE


# ---- the bound of the self-check in low precision: rounding stays within it, mistakes do not ----


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_sample_of_models(precision):
    """The whole of it is a command, `python tests/support/rounding_rates.py`."""
    trials = [trial(precision, seed) for seed in range(6)]
    assert not any(each.alarm for each in trials) and max(each.reach for each in trials) < 3
    caught = [caught for each in trials for caught in each.caught.values()]
    assert len(caught) >= 8 and sum(caught) >= 0.75 * len(caught)


def test_one_more_rounding_leaves_everything_as_it_was():
    """Neither the model, nor the batch, nor the random numbers of training notice."""
    model = build("qwen2_vl", torch.bfloat16).eval()
    batch = collate(model, [pair(5, 9, 4, (1, 4, 4))])
    kept, state = {name: value.clone() for name, value in batch.items()}, torch.get_rng_state()
    with torch.no_grad():
        before, _ = upstream_logps(model, batch)
        with rounded_again(model, None):
            moved, _ = upstream_logps(model, batch)
        after, _ = upstream_logps(model, batch)
    assert torch.equal(before, after) and 0 < (moved - before).abs().max() < 1
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(batch[name], value) for name, value in kept.items())


def test_the_bound_by_hand():
    """Two sums of -100 nats over 4 and 16 tokens, moved by 0.2 and 0.4: 0.1 a token and its root, six times over."""
    theirs, lengths = torch.tensor([-100.0, -100.0]), torch.tensor([4, 16])
    moved = theirs + torch.tensor([0.2, -0.4])
    expected = [BOUND[0] + BOUND[1] * 100 + 6 * 0.1 * root for root in (2, 4)]
    assert bounds(theirs, moved, lengths).tolist() == pytest.approx(expected, rel=1e-4)
    assert bounds(theirs, theirs, lengths).tolist() == pytest.approx([0.02, 0.02])

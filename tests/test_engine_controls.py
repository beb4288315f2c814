"""What the parity tests must catch: four mistakes of a shared prompt, and images given to the wrong pair.

Each is made on purpose, in the layout or the features of an engine that otherwise agrees with LlamaFactory's forward.
If one of them changed nothing here, the parity tests would prove nothing about it.
"""

import pytest
import torch
from engine_cases import IMAGE, build, collate, media_of, pair
from engine_oracle import MEDIA_IDS, exact_float64, upstream_logps  # noqa: F401

from llamafactory.train.uni_dpo.engine import Choice, attach, lay_out, pair_logps


# Both images of the same size, so that features of another pair fit.
PAIRS = [pair(8, 11, 9, (1, 4, 4)), pair(5, 6, 14, (1, 4, 4), common=2)]
VISIBLE = 0.1  # nats, of sums between 20 and 80; measured: 0.2 to 2.5

pytestmark = pytest.mark.usefixtures("exact_float64")


def spans(layout):
    """Read each pair's (start, end of shared part, end of chosen rest, end of all) off the branches or spans."""
    lengths, start = layout.spans or [], 0
    if layout.branches is not None:
        counts = layout.branches[0].bincount(minlength=3 * len(PAIRS)).view(-1, 3)
        lengths = [tuple(row) for row in counts.tolist()]
    for shared, chosen, rejected in lengths:
        yield start, start + shared, start + shared + chosen, start + shared + chosen + rejected
        start += shared + chosen + rejected


def rejected_sees_chosen(layout):
    """Leave plain causal attention over the whole pair."""
    if layout.spans is not None:
        layout.spans = [(sum(span), 0, 0) for span in layout.spans]
    else:
        layout.branches = layout.branches // 3 * 3


def rejected_positions_go_on_after_chosen(layout):
    """Count through the row."""
    for _, _, middle, end in spans(layout):
        layout.position_ids[:, 0, middle:end] += (
            layout.position_ids[0, 0, middle - 1] + 1 - (layout.position_ids[0, 0, middle])
        )


def positions_are_token_indices(layout):
    """Forget that an image of many tokens takes few positions; both answers still start at the same one."""
    for start, shared, middle, end in spans(layout):
        layout.position_ids[:, 0, shared:middle] = torch.arange(shared - start, middle - start)
        layout.position_ids[:, 0, middle:end] = torch.arange(shared - start, shared - start + end - middle)


def first_rejected_token_from_last_chosen(layout):
    """Predict it from the token before it in the row."""
    at = sum(layout.lengths[: len(PAIRS)])
    for (_, _, middle, _), length, common in zip(spans(layout), layout.lengths[len(PAIRS) :], (0, 2), strict=True):
        layout.sources[at + common] = middle - 1
        at += length


MISTAKES = [
    rejected_sees_chosen,
    rejected_positions_go_on_after_chosen,
    positions_are_token_indices,
    first_rejected_token_from_last_chosen,
]


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


@pytest.mark.parametrize("layout", ["packed", "masked"])
def test_without_a_mistake(layout):
    theirs, ours = logps(layout)
    assert (ours - theirs).abs().max() < 1e-9


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("layout", ["packed", "masked"])
def test_mistakes_of_a_shared_prompt_show(layout, mistake):
    theirs, ours = logps(layout, mistake)
    chosen, rejected = (ours - theirs).abs().chunk(2)
    assert rejected.max() > VISIBLE
    if mistake is not positions_are_token_indices:  # the others are mistakes about the rejected answer alone
        assert chosen.max() < 1e-9


@pytest.mark.parametrize("layout", ["packed", "masked", "rows"])
def test_images_of_another_pair_show(layout):
    """Features are in order of pairs, and that order must hold."""
    theirs, ours = logps(layout, mix=lambda features: torch.cat(features.chunk(2)[::-1]))
    assert (ours - theirs).abs().min() > VISIBLE


def test_a_broken_number_of_features_is_refused():
    """Of images cut off by `cutoff_len`, say."""
    with pytest.raises(ValueError, match="8 image placeholders and 7 image features.*cutoff_len"):
        logps("packed", mix=lambda features: features[1:])


def test_placeholders_are_where_the_model_looks_for_them():
    assert IMAGE == build("qwen2_vl").config.image_token_id

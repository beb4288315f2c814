"""The engine against LlamaFactory's forward in float64: sums of log-probs and every parameter's gradient.

A failure means that training with the engine is not the training that was asked for.
"""

import pytest
import torch
from engine_cases import CASES, KINDS, VISION_KINDS, build, build_two, cases_of, collate, media_of
from engine_oracle import (
    MEDIA_IDS,
    ROUTES,
    by_engine,
    by_upstream,
    exact_float64,  # noqa: F401
    loss_of_means,
    loss_of_sums,
    relative,
    upstream_logps,
)

from llamafactory.train.uni_dpo.engine import Choice, attach, lay_out, pair_logps
from llamafactory.train.uni_dpo.engine import layout as layout_module


LAYOUTS = ("packed", "masked", "rows")
EXACT = 1e-9  # relative; measured: below 4e-14

pytestmark = pytest.mark.usefixtures("exact_float64")


def distance(kind, pairs, layout, side="right", stand_in=False, loss=None, **options):
    """Take the same step both ways, with models of the same weights, and return how far apart the outcomes are."""
    options = {"dtype": torch.float64, "attention": "eager" if layout == "masked" else "sdpa"} | options
    stock, ours = build_two(kind, **options), build_two(kind, **options)
    batch = collate(stock[0], pairs, side, stand_in)
    losses = {} if loss is None else {"loss": loss}
    return by_engine(*ours, batch, layout, **losses).distance(by_upstream(*stock, batch, **losses))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", CASES)
def test_every_kind_of_batch(case, layout):
    """Images of several sizes, answers of 1 to 300 tokens, common starts, padding, several pairs in one row."""
    assert distance("qwen2_vl", CASES[case], layout) < EXACT


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_model(kind, layout):
    """Text models too, and Qwen2.5-VL, whose tower attends in windows."""
    for pairs in [cases_of(kind)["batch"]] if kind in VISION_KINDS else cases_of(kind).values():
        assert distance(kind, pairs, layout) < EXACT


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", VISION_KINDS)
def test_gradients_of_a_trainable_tower(kind, layout):
    """Every image is encoded once, so its gradient has to come from both answers."""
    for case in ("batch", "two images"):
        assert distance(kind, CASES[case], layout, frozen_tower=False) < EXACT


@pytest.mark.parametrize("layout", LAYOUTS)
def test_tied_embeddings(layout):
    """The embedding's gradient then is the sum of the input's and of the scores'."""
    for kind in ("qwen2_vl", "qwen2"):
        assert distance(kind, cases_of(kind)["batch"], layout, tie_word_embeddings=True) < EXACT


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("loss", [loss_of_sums, loss_of_means])
def test_losses_of_sums_and_of_means(loss, layout):
    """Losses like SimPO's divide by lengths, which therefore have to be LlamaFactory's."""
    assert distance("qwen2_vl", CASES["batch"], layout, loss=loss) < EXACT


@pytest.mark.parametrize("layout", LAYOUTS)
def test_ld_alpha_and_mean_logits(layout):
    """LD-DPO's smaller weight beyond the shorter answer's length, lengths, and what metrics show of the logits."""
    model = build("qwen2_vl", torch.float64, "eager" if layout == "masked" else "sdpa").requires_grad_(False)
    batch = collate(model, CASES["batch"])
    theirs, lengths = upstream_logps(model, batch, ld_alpha=0.3)
    logits = model(**batch | {name: torch.cat([value] * 2) for name, value in media_of(batch).items()}).logits
    scored = batch["labels"][:, 1:] != -100
    means = torch.stack([row[where].mean() for row, where in zip(logits[:, :-1], scored, strict=True)])
    attach(model, Choice(ROUTES[layout], layout))
    ours = pair_logps(model, lay_out(batch, layout, MEDIA_IDS), media_of(batch), ld_alpha=0.3)
    assert relative(ours.logps, theirs) < EXACT and relative(ours.logits, means) < EXACT
    assert torch.equal(ours.lengths, lengths)


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_stand_in_picture(layout, frozen):
    """LlamaFactory hides a picture in a batch without any, so that every rank runs the tower; nobody may see it."""
    assert distance("qwen2_vl", CASES["text only"], layout, stand_in=True, frozen_tower=frozen) < EXACT


@pytest.mark.parametrize("layout", LAYOUTS)
def test_left_padding(layout):
    """Some templates pad on the left. A text model then counts from the padding: only differences matter to it.

    Hence the second bound, as transformers computes angles in float32; measured: 4e-7.
    """
    assert distance("qwen2_vl", CASES["batch"], layout, side="left") < EXACT
    assert distance("qwen2", cases_of("qwen2")["batch"], layout, side="left") < 1e-5


def test_masked_rows_are_filled_up_to_a_bound(monkeypatch):
    """With an explicit mask pairs are spread over rows, padded to the longest."""
    monkeypatch.setattr(layout_module, "MASKED_ROW_TOKENS", 70)
    batch = collate(build("qwen2_vl"), CASES["batch"])
    assert lay_out(batch, "masked", MEDIA_IDS).input_ids.shape[0] == 3
    assert distance("qwen2_vl", CASES["batch"], "masked") < EXACT

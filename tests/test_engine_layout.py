"""From padded rows to a packed row and back, over random batches.

Whatever the layout, each sequence must read as it did, at the positions it had, and each of its scored tokens must be
predicted from the token before it.
"""

import pytest
import torch
from engine_cases import CASES, Pair, collate, pair
from engine_models import IMAGE, VIDEO, VISION_KINDS, build
from engine_oracle import MEDIA_IDS
from hypothesis import given, settings
from hypothesis import strategies as st

from llamafactory.train.uni_dpo.engine import PairLayout, lay_out


MODELS = {kind: build(kind) for kind in (*VISION_KINDS, "qwen2")}
GRIDS = st.sampled_from([(1, 2, 2), (1, 2, 4), (1, 4, 4), (1, 6, 2)])


@st.composite
def batches(draw, kinds=tuple(MODELS)):
    """Draw a batch of one to four pairs, with few different words, so that answers often have a start in common."""
    kind, pairs = draw(st.sampled_from(kinds)), []
    for _ in range(draw(st.integers(1, 4))):
        answers = [draw(st.lists(st.sampled_from([11, 12]), min_size=1, max_size=9)) for _ in range(2)]
        images = draw(st.lists(GRIDS, max_size=2)) if kind in VISION_KINDS else []
        pairs.append(Pair(draw(st.integers(2, 6)), *answers, tuple(images)))
    return collate(MODELS[kind], pairs, draw(st.sampled_from(["right", "left"])))


def unpacked(layout: PairLayout):
    """Yield, chosen ones first, the flat places in the layout that make up each sequence."""
    flat = torch.arange(layout.input_ids.numel())
    if layout.branches is not None:
        branches = layout.branches.flatten()
        for side in (1, 2):
            for number in range(len(layout.lengths) // 2):
                yield flat[(branches == 3 * number) | (branches == 3 * number + side)]
        return
    for side in (0, 1):
        start = 0
        for shared, chosen, rejected in layout.spans:
            first, last = (0, chosen) if side == 0 else (chosen, chosen + rejected)
            rest = flat[start + shared + first : start + shared + last]
            yield torch.cat([flat[start : start + shared], rest])
            start += shared + chosen + rejected


def positions(batch_or_layout) -> torch.Tensor | None:
    """Return positions as (components, rows * length), without upstream's fourth component."""
    where = batch_or_layout["position_ids"] if isinstance(batch_or_layout, dict) else batch_or_layout.position_ids
    return where[-3:].flatten(1) if where.dim() == 3 else where.flatten()[None]


@settings(max_examples=60, deadline=None)
@given(batch=batches(), kind=st.sampled_from(["packed", "masked"]))
def test_both_sequences_can_be_read_from_a_packed_row(batch, kind):
    """Words, positions, sources and targets of every sequence, in the order of upstream's rows."""
    layout = lay_out(batch, kind, MEDIA_IDS)
    ends = torch.tensor(layout.lengths).cumsum(0).tolist()
    total = 0
    for row, places in enumerate(unpacked(layout)):
        real = batch["attention_mask"][row].bool()
        ids, labels = batch["input_ids"][row][real], batch["labels"][row][real]
        assert layout.input_ids.flatten()[places].tolist() == ids[:-1].tolist()  # nothing follows the last token
        if "position_ids" in batch:
            where = batch["position_ids"][-3:, row][:, real][:, :-1]
        else:
            where = torch.arange(len(ids) - 1)[None]
        assert torch.equal(positions(layout)[:, places], where)
        scored = (labels != -100).nonzero()[:, 0]
        mine = slice(ends[row] - layout.lengths[row], ends[row])
        assert layout.targets[mine].tolist() == ids[scored].tolist()
        assert layout.sources[mine].tolist() == places[scored - 1].tolist()
        total += len(scored)
    assert total == len(layout.sources) == len(layout.targets) == len(layout.in_common_length)


@settings(max_examples=30, deadline=None)
@given(batch=batches())
def test_as_much_as_possible_is_shared(batch):
    """The part that is computed once ends where the two sequences, or one of them, do; and nothing is left over."""
    layout = lay_out(batch, "packed", MEDIA_IDS)
    assert layout.attention_mask is None and layout.branches is None and not layout.media_once
    assert sum(map(sum, layout.spans)) == layout.input_ids.numel()
    sequences = list(unpacked(layout))
    for number, (shared, chosen, rejected) in enumerate(layout.spans):
        both = [sequences[number], sequences[number + len(layout.spans)]]
        first, second = (layout.input_ids[0][places].tolist() for places in both)
        assert first[:shared] == second[:shared]
        assert chosen == 0 or rejected == 0 or first[shared] != second[shared]


@pytest.mark.parametrize("kind, times", [("packed", 1), ("masked", 1), ("rows", 2)])
def test_placeholders_are_counted(kind, times):
    """Once a pair in a packed row, once a row in rows; videos apart."""
    batch = collate(MODELS["qwen2_vl"], CASES["batch"])
    once = int((batch["input_ids"][:4] == IMAGE).sum())
    assert lay_out(batch, kind, MEDIA_IDS).media_tokens == (times * once, 0)
    assert lay_out(batch, kind, (VIDEO, IMAGE)).media_tokens == (0, times * once)
    assert lay_out(batch, kind, (None, None)).media_tokens == (0, 0)


@pytest.mark.parametrize("kind", ["packed", "masked"])
def test_an_image_that_one_sequence_has_alone_keeps_rows(kind):
    """A prompt that differs before its image is not shared, and the image then is one sequence's own."""
    batch = collate(MODELS["qwen2_vl"], [pair(5, 4, 3, (1, 2, 4))])
    batch["input_ids"][1, 0] += 1
    layout = lay_out(batch, kind, MEDIA_IDS)
    assert layout.spans is None and layout.branches is None
    assert torch.equal(layout.input_ids, batch["input_ids"]) and layout.media_tokens == (4, 0)


def test_the_same_words_at_other_positions_are_not_shared():
    """As when two images of different sizes have equally many placeholders."""
    batch = collate(MODELS["qwen2"], [pair(5, 4, 3, common=2)])
    batch["position_ids"] = torch.arange(batch["input_ids"].shape[1]).expand(2, -1).clone()
    assert lay_out(batch, "packed", MEDIA_IDS).spans == [(7, 1, 0)]
    batch["position_ids"][1, 4:] += 1
    assert lay_out(batch, "packed", MEDIA_IDS).spans == [(4, 4, 3)]

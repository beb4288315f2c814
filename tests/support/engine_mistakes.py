"""Mistakes of a shared prompt, made on purpose in a layout, and pairs on which each of them shows."""

import torch
from engine_cases import pair


# Both images of the same size, so that features of another pair fit.
PAIRS = [pair(8, 11, 9, (1, 4, 4)), pair(5, 6, 14, (1, 4, 4), common=2)]
VISIBLE = 0.1  # nats, of sums between 20 and 80; measured: 0.2 to 2.5


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
    answers = layout.targets.split(layout.lengths)
    at = sum(layout.lengths[: len(PAIRS)])
    for (_, _, middle, _), chosen, rejected in zip(spans(layout), answers, answers[len(PAIRS) :], strict=False):
        both = zip(chosen, rejected, strict=False)
        parted = next(place for place, (first, second) in enumerate(both) if first != second)
        layout.sources[at + parted] = middle - 1
        at += len(rejected)


MISTAKES = [
    rejected_sees_chosen,
    rejected_positions_go_on_after_chosen,
    positions_are_token_indices,
    first_rejected_token_from_last_chosen,
]

"""From padded rows to one row: what each position of a pair's two sequences becomes.

Upstream's batch of n pairs has 2n padded rows, chosen first. Whatever the two rows of a pair have in common at their
start (the prompt with its images, and the first words of both answers where they agree) is computed once:

    [shared | rest of chosen | rest of rejected] [shared | ...] ...

The hidden state that predicts a token is that of the token before it, so the first token of both rests is predicted
from the end of the shared part, and the last token of a sequence need not be computed at all. Positions are those of
the padded rows, in all three components of a multimodal rotary embedding: both rests go on where the shared part ends.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch


IGNORED = -100

# With an explicit mask, whose size is quadratic in the row, pairs fill rows of about this many tokens. Without one the
# cost of a pair does not depend on its row, so that all of a batch go into one.
MASKED_ROW_TOKENS = 4096


@dataclass
class PairLayout:
    """What the model computes for n pairs, and where their tokens are scored.

    Attributes:
        input_ids: token ids, shape (rows, length).
        position_ids: shape (components, rows, length), or (rows, length) for a text model; None: the model counts.
        attention_mask: 1 for tokens and 0 for padding, shape (rows, length); None where `branches` or `spans` rule.
        spans: for one packed row, the lengths (shared, rest of chosen, rest of rejected) of each pair in turn.
        branches: for packed rows with a mask, shape (rows, length): 3 * pair, plus 0 in the shared part, 1 in the
            chosen rest, 2 in the rejected rest; -1 is padding.
        sources: flat positions in (rows * length) whose hidden states predict, shape (tokens,); sequence by sequence,
            all chosen ones first.
        targets: the token ids they have to predict, shape (tokens,).
        in_common_length: whether a token's place in its answer exists in the other answer too (for `ld_alpha`).
        lengths: scored tokens of each of the 2n sequences.
        media_tokens: placeholders of images and of videos in `input_ids`.
        media_once: whether the batch brings the media of each pair once; else once a row, as upstream does.
        squares: whether, beside log-probs, the sums of squared probabilities are wanted (for WPO's weights).
    """

    input_ids: torch.Tensor
    position_ids: torch.Tensor | None
    attention_mask: torch.Tensor | None
    spans: list[tuple[int, int, int]] | None
    branches: torch.Tensor | None
    sources: torch.Tensor
    targets: torch.Tensor
    in_common_length: torch.Tensor
    lengths: list[int]
    media_tokens: tuple[int, int] = (0, 0)
    media_once: bool = False
    squares: bool = False

    @property
    def tokens(self) -> int:
        """How many tokens the model computes, padding included."""
        return self.input_ids.numel()

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "PairLayout":
        """Copy the tensors to a device."""
        return self._with_tensors(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "PairLayout":
        """Copy the tensors to page-locked memory, which a data loader asks for."""
        return self._with_tensors(torch.Tensor.pin_memory)

    def _with_tensors(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "PairLayout":
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: change(value) for name, value in values.items() if torch.is_tensor(value)})


def lay_out(batch: Mapping[str, Any], kind: str, media_ids: tuple[int | None, int | None]) -> PairLayout:
    """Lay out a batch of padded pairs.

    Args:
        batch: `input_ids`, `attention_mask` and `labels`, each of shape (2n, length), chosen rows first, on the CPU;
            for models with a multimodal rotary embedding also `position_ids`, (3 or 4, 2n, length).
        kind: `packed` (one row, attention by `spans`), `masked` (rows of bounded length, attention by `branches`) or
            `rows` (the padded rows as they are).
        media_ids: token ids of the image and the video placeholder, None where the model has none.

    Returns:
        The layout. A placeholder in the part that is not shared makes it `rows`, as its image then belongs to one
        sequence only.
    """
    positions = batch.get("position_ids")
    if positions is not None and positions.dim() == 3 and positions.shape[0] == 4:
        positions = positions[1:]  # the first component is upstream's way to find packed sequences
    if kind != "rows":
        pairs = [_Pair(*_sequences(batch, positions, pair)) for pair in range(len(batch["labels"]) // 2)]
        if not any(pair.has_media_outside(media_ids) for pair in pairs):
            return _packed(pairs, kind, media_ids)
    return _rows(batch, positions, media_ids)


def join(layouts: Sequence[PairLayout]) -> PairLayout:
    """Put packed rows one behind the other, so that the model is called once for the pairs of all of them.

    Args:
        layouts: each of one packed row, with media once a pair or without any.
    """
    sides: dict[str, tuple[list[torch.Tensor], list[torch.Tensor]]] = {}
    lengths: tuple[list[int], list[int]] = ([], [])
    start = 0
    for layout in layouts:
        half = len(layout.lengths) // 2
        chosen = sum(layout.lengths[:half])
        lengths[0].extend(layout.lengths[:half])
        lengths[1].extend(layout.lengths[half:])
        moved = {name: getattr(layout, name) for name in ("targets", "in_common_length")}
        for name, values in (moved | {"sources": layout.sources + start}).items():
            first, second = sides.setdefault(name, ([], []))
            first.append(values[:chosen])
            second.append(values[chosen:])
        start += layout.tokens
    return PairLayout(
        input_ids=torch.cat([layout.input_ids for layout in layouts], dim=1),
        position_ids=torch.cat([layout.position_ids for layout in layouts], dim=-1),
        attention_mask=None,
        spans=[span for layout in layouts for span in layout.spans],
        branches=None,
        **{name: torch.cat([*first, *second]) for name, (first, second) in sides.items()},
        lengths=[*lengths[0], *lengths[1]],
        media_tokens=tuple(map(sum, zip(*(layout.media_tokens for layout in layouts), strict=True))),
        media_once=True,
    )


@dataclass
class _Sequence:
    """One row without padding and without its last scored token, which nothing follows."""

    ids: torch.Tensor  # (inputs,)
    positions: torch.Tensor  # (components, inputs)
    sources: torch.Tensor  # (scored,) index of the input that predicts
    targets: torch.Tensor  # (scored,)


class _Pair:
    """A pair's sequences, and how much of their start they share."""

    def __init__(self, chosen: _Sequence, rejected: _Sequence):
        self.chosen, self.rejected = chosen, rejected
        length = min(len(chosen.ids), len(rejected.ids))
        same = chosen.ids[:length] == rejected.ids[:length]
        same &= (chosen.positions[:, :length] == rejected.positions[:, :length]).all(0)
        self.shared = length if same.all() else int(same.int().argmin())
        self.span = (self.shared, len(chosen.ids) - self.shared, len(rejected.ids) - self.shared)

    def has_media_outside(self, media_ids: tuple[int | None, int | None]) -> bool:
        rests = (self.chosen.ids[self.shared :], self.rejected.ids[self.shared :])
        return any((rest == token).any() for rest in rests for token in media_ids if token is not None)

    def sources(self, start: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Find where the tokens of both sequences are predicted in a row in which this pair starts at `start`."""
        chosen, rejected = self.chosen.sources, self.rejected.sources
        return chosen + start, rejected + start + (rejected >= self.shared) * self.span[1]


def _sequences(batch: Mapping[str, Any], positions: torch.Tensor | None, pair: int) -> Iterator[_Sequence]:
    for row in (pair, pair + len(batch["labels"]) // 2):
        real = batch["attention_mask"][row].bool()
        ids, labels = batch["input_ids"][row][real], batch["labels"][row][real]
        where = torch.arange(len(ids))[None] if positions is None else _components(positions, row)[:, real]
        scored = (labels[1:] != IGNORED).nonzero()[:, 0]
        inputs = int(scored[-1]) + 1 if len(scored) else 0
        yield _Sequence(ids[:inputs], where[:, :inputs], scored, labels[1:][scored])


def _components(positions: torch.Tensor, row: int) -> torch.Tensor:
    return positions[:, row] if positions.dim() == 3 else positions[row][None]


def _packed(pairs: list[_Pair], kind: str, media_ids: tuple[int | None, int | None]) -> PairLayout:
    rows = [pairs] if kind == "packed" else _fill_rows(pairs)
    length = max(sum(sum(pair.span) for pair in row) for row in rows)
    components = len(pairs[0].chosen.positions)
    input_ids = torch.zeros(len(rows), length, dtype=torch.long)
    position_ids = torch.zeros(components, len(rows), length, dtype=torch.long)
    branches = torch.full((len(rows), length), -1)
    sources: tuple[list[torch.Tensor], list[torch.Tensor]] = ([], [])
    for number, row in enumerate(rows):
        start = 0
        for pair in row:
            end = start + sum(pair.span)
            input_ids[number, start:end] = torch.cat([pair.chosen.ids, pair.rejected.ids[pair.shared :]])
            where = [pair.chosen.positions, pair.rejected.positions[:, pair.shared :]]
            position_ids[:, number, start:end] = torch.cat(where, dim=1)
            first = 3 * len(sources[0])
            branches[number, start:end] = torch.arange(first, first + 3).repeat_interleave(torch.tensor(pair.span))
            for side, found in zip(sources, pair.sources(number * length + start), strict=True):
                side.append(found)
            start = end
    return PairLayout(
        input_ids=input_ids,
        position_ids=position_ids if components > 1 else position_ids[0],
        attention_mask=None,
        spans=[pair.span for pair in pairs] if kind == "packed" else None,
        branches=branches if kind == "masked" else None,
        **_scored(sources, ([pair.chosen.targets for pair in pairs], [pair.rejected.targets for pair in pairs])),
        media_tokens=_count(input_ids, branches >= 0, media_ids),
    )


def _rows(
    batch: Mapping[str, Any], positions: torch.Tensor | None, media_ids: tuple[int | None, int | None]
) -> PairLayout:
    length = batch["labels"].shape[1]
    scored = [(labels[1:] != IGNORED).nonzero()[:, 0] for labels in batch["labels"]]
    sources = [row * length + places for row, places in enumerate(scored)]
    targets = [labels[1:][places] for labels, places in zip(batch["labels"], scored, strict=True)]
    half = len(scored) // 2
    return PairLayout(
        input_ids=batch["input_ids"],
        position_ids=positions,
        attention_mask=batch["attention_mask"],
        spans=None,
        branches=None,
        **_scored((sources[:half], sources[half:]), (targets[:half], targets[half:])),
        # Upstream hides its stand-in picture of a text-only batch behind the mask; its placeholders are there.
        media_tokens=_count(batch["input_ids"], torch.ones_like(batch["input_ids"], dtype=torch.bool), media_ids),
    )


def _fill_rows(pairs: list[_Pair]) -> list[list[_Pair]]:
    rows, free = [], 0
    for pair in pairs:
        if not rows or sum(pair.span) > free:
            rows.append([])
            free = MASKED_ROW_TOKENS
        rows[-1].append(pair)
        free -= sum(pair.span)
    return rows


def _scored(sources: tuple[list, list], targets: tuple[list, list]) -> dict[str, Any]:
    lengths = [len(places) for side in sources for places in side]
    half = len(lengths) // 2
    common = [min(pair) for pair in zip(lengths[:half], lengths[half:], strict=True)] * 2
    within = [torch.arange(length) < shorter for length, shorter in zip(lengths, common, strict=True)]
    return {
        "sources": torch.cat([*sources[0], *sources[1]]),
        "targets": torch.cat([*targets[0], *targets[1]]),
        "in_common_length": torch.cat(within),
        "lengths": lengths,
    }


def _count(ids: torch.Tensor, real: torch.Tensor, media_ids: tuple[int | None, int | None]) -> tuple[int, int]:
    return tuple(0 if token is None else int(((ids == token) & real).sum()) for token in media_ids)

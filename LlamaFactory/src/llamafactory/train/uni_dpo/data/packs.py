"""Several collated batches as one, for a model that is called once for all of their pairs."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from ....extras.constants import IGNORE_INDEX
from ..engine import join
from .columns import CARRIED_DTYPES, MEDIA_KEYS, ROW_KEYS


# The layout has what these say of padded rows.
IN_LAYOUT = ("pair_layout", "position_ids", "rope_deltas")
# Of 2n padded rows, chosen ones first.
TOKEN_KEYS = ("input_ids", "attention_mask", "labels", *ROW_KEYS)
# What there is of each image, ...
IMAGE_KEYS = tuple(name for name in MEDIA_KEYS if "video" not in name and name != "second_per_grid_ts")
# ... and all that can be joined.
KNOWN = {"image_features", *IN_LAYOUT, *TOKEN_KEYS, *MEDIA_KEYS, *CARRIED_DTYPES}

# The key of a joined batch under which the numbers of pairs of its parts are.
SIZES = "pack_sizes"


def can_join(batch: dict[str, Any]) -> bool:
    """Tell whether a batch is one packed row, with media that `join_batches` knows, once a pair."""
    layout = batch.get("pair_layout")
    if layout is None or layout.spans is None or not batch.keys() <= KNOWN:
        return False
    return layout.media_once or not any(layout.media_tokens)


def join_batches(batches: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Make one batch of several for which `can_join` holds; `pack_sizes` says how many pairs each of them had.

    A stand-in picture of pairs without one stays only where no pair has one, as it has no placeholders.
    """
    layout = join([batch["pair_layout"] for batch in batches])
    names = dict.fromkeys(name for batch in batches for name in batch if name not in IN_LAYOUT)
    with_images = [batch for batch in batches if batch["pair_layout"].media_tokens[0]] or list(batches[:1])
    joined: dict[str, Any] = {"pair_layout": layout, SIZES: [len(batch["labels"]) // 2 for batch in batches]}
    for name in names:
        values = [batch[name] for batch in (with_images if name in IMAGE_KEYS else batches) if name in batch]
        if name in TOKEN_KEYS:
            joined[name] = _rows(values, IGNORE_INDEX if name == "labels" else 0)
        elif values and values[0] is not None:
            joined[name] = (
                torch.cat(values) if torch.is_tensor(values[0]) else [item for part in values for item in part]
            )
    return joined


def _rows(values: list[torch.Tensor], padding: int) -> torch.Tensor:
    """Put the chosen rows of all before the rejected ones of all, padded to the longest."""
    longest = max(rows.shape[1] for rows in values)
    padded = [F.pad(rows, (0, longest - rows.shape[1]), value=padding).chunk(2) for rows in values]
    return torch.cat([side for sides in zip(*padded, strict=True) for side in sides])

"""The columns of a data set of pairs, and the keys of a batch, that more than one room uses."""

from typing import Any

import torch
from datasets import Image

from ..objective.pairs import SIDES, WEIGHT


# What the batch carries besides the model's inputs: which pair of which data set each row is, ...
PLACE_DTYPES = {"pair_dataset": torch.long, "pair_row": torch.long}
# ... and what the data say of it in numbers, as far as a run needs them.
SCORED_DTYPES = PLACE_DTYPES | dict.fromkeys((*SIDES, WEIGHT), torch.float32)

# Columns that a data set gets from the cache of reference log-probs: sums over an answer's tokens, in nats.
REFERENCE_COLUMNS = ("reference_chosen_logps", "reference_rejected_logps")

# Columns of shape (n,) that travel beside the model's inputs, where a data set has them.
CARRIED_DTYPES = SCORED_DTYPES | dict.fromkeys(REFERENCE_COLUMNS, torch.float64)

# What upstream's plugins make of images and videos, one entry for each of them (or of their patches) in turn.
MEDIA_KEYS = (
    *("pixel_values", "image_grid_thw", "image_sizes", "image_position_ids"),
    *("pixel_values_videos", "video_grid_thw", "video_position_ids", "second_per_grid_ts", "video_metadata"),
)
# What they make of the tokens of rows, one entry for each row.
ROW_KEYS = ("token_type_ids", "mm_token_type_ids")
# Of these, what the positions of both rows of a pair are computed from.
POSITION_KEYS = ("image_grid_thw", "video_grid_thw", "second_per_grid_ts")


def undecoded(dataset: Any, column: str) -> Any:
    """Let a data set that holds its images itself hand them over as the bytes that they are stored in."""
    feature = dataset.features.get(column)
    inner = getattr(feature, "feature", None) or (feature[0] if isinstance(feature, list) else None)
    return dataset.cast_column(column, [Image(decode=False)]) if isinstance(inner, Image) else dataset

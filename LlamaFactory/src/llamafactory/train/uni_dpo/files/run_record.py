"""What a run trains with, kept with its checkpoints, so that a run with something else does not go on in its folder.

Three things: options that decide what is learned; the rows, by a digest of what training sees of them; and how many
pairs a step takes, in which order. The options must be the same unless the checkpoint is named by
`resume_from_checkpoint`; rows and order must be the same always, or some pairs would come twice and others never.
"""

import json
import os
from contextlib import suppress
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from ..errors import UniDPOError
from .changeable import CHANGEABLE, CHANGEABLE_IN_TRAINING
from .disk import read_json, replacing


RECORD = "uni_dpo_run.json"


def learning_options(*groups: Any) -> dict[str, Any]:
    """Collect options that decide what is learned and are not at their defaults, as JSON keeps them.

    Args:
        *groups: upstream's four objects of options.
    """
    found = {}
    for group in groups:
        for option in fields(group):
            default = option.default if option.default_factory is MISSING else option.default_factory()
            value = getattr(group, option.name)
            if option.init and value != default and not _is_changeable(option.name):
                found[option.name] = os.path.abspath(value) if _is_folder(value) else value
    return json.loads(json.dumps(found, default=str))


def _is_changeable(name: str) -> bool:
    return bool(CHANGEABLE.fullmatch(name) or CHANGEABLE_IN_TRAINING.fullmatch(name))


def _is_folder(value: Any) -> bool:
    return isinstance(value, str) and os.path.isdir(value)


def read_record(folder: str | os.PathLike) -> dict[str, Any] | None:
    """Read what `write_record` wrote; None if there is nothing."""
    return read_json(Path(folder) / RECORD)


def write_record(folder: str | os.PathLike, options: dict[str, Any], order: dict[str, Any]) -> None:
    """Keep what a run trains with."""
    text = json.dumps({"options": options, "order": order}, indent=1, sort_keys=True)
    Path(folder, RECORD).write_text(text, encoding="utf-8")


def mark_ended(output: str | os.PathLike) -> None:
    """Note beside a trained model that its run has nothing left to do, evaluation and pictures included."""
    record = read_record(output)
    if record is None:  # nothing was trained: only caches were filled
        return
    with suppress(OSError), replacing(Path(output, RECORD)) as scratch:  # no room: the next start ends it once more
        scratch.write_text(json.dumps(record | {"ended": True}, indent=1, sort_keys=True), encoding="utf-8")


def refuse_other_rows(checkpoint: str, order: dict[str, Any]) -> None:
    """Refuse to go on with other rows, or with rows in another order, than those a checkpoint was trained on.

    Args:
        checkpoint: its folder; one without a record is taken.
        order: what `row_order` says of this run.

    Raises:
        UniDPOError: they are others.
    """
    before = (read_record(checkpoint) or {}).get("order", order)
    changed = [f"{name}: {before.get(name)} -> {order[name]}" for name in order if before.get(name) != order[name]]
    if changed:
        raise UniDPOError(
            f"This run would not see the pairs that {checkpoint} has left ({', '.join(changed)}): some would come "
            "twice and others never. Give it the data, the seed and the pairs a step (per_device_train_batch_size x "
            "gradient_accumulation_steps x processes) that it had; or start a new run from its weights, in another "
            "`output_dir`; or set `ignore_data_skip: true` to go on all the same, from the beginning of the data."
        )

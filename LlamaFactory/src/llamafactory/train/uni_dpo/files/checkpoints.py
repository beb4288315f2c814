"""Which checkpoints of an output folder a run goes on from, and how they come and go: by one rename each.

transformers writes a checkpoint file by file under the name by which the next start finds it, and deletes it file by
file too. Ours are written and deleted in a hidden folder beside them, so that one with a name is always whole.
"""

import contextlib
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list, gather_object
from transformers import TrainerState, TrainingArguments

from ....extras import logging
from ....extras.constants import CHECKPOINT_NAMES
from ..errors import AlreadyTrained, UniDPOError
from .changeable import changed_options
from .disk import UNFINISHED, read_json, require_writable
from .run_record import read_record


TRAINER_STATE = "trainer_state.json"

logger = logging.get_logger(__name__)


def prepare_output(args: TrainingArguments, options: dict[str, Any] | None, asked: bool) -> None:
    """Make the output folder ready for a run, before anything large is loaded.

    What a killed run left half-written goes, and `args.resume_from_checkpoint`, where LlamaFactory has set it to the
    newest checkpoint, becomes the newest that is complete for every rank.

    Args:
        args: of the run.
        options: what `learning_options` found; None if nothing is going to be trained.
        asked: whether the user named the checkpoint to go on from.

    Raises:
        UniDPOError: one cannot write there, or only some ranks see the checkpoints, or what is there was trained with
            other options.
        AlreadyTrained: what is there is the end of this very run.
    """
    require_writable("output_dir", args.output_dir)
    output = Path(args.output_dir)
    if args.local_process_index == 0:
        clear(output)
    if not args.do_train:
        return
    found, chosen = checkpoints(output), args.resume_from_checkpoint
    if str(chosen).lower() in ("true", "false"):  # transformers' word for the newest, or for none
        if str(chosen).lower() == "true" and not found:
            raise UniDPOError(f"`resume_from_checkpoint: true`, and {output} has no checkpoint to go on from.")
        chosen = str(found[-1]) if str(chosen).lower() == "true" else None
        args.resume_from_checkpoint = chosen
    by_upstream = chosen is None or (bool(found) and os.path.realpath(chosen) == os.path.realpath(found[-1]))
    complete = [path.name for path in found if is_complete(path)] if chosen else []
    views = gather_object([(by_upstream, chosen and Path(chosen).name, complete)])
    if all(agreed for agreed, _, _ in views) and any(name for _, name, _ in views):
        name = _newest_for_all([names for _, _, names in views], output)
        for skipped in sorted({name_here for _, name_here, _ in views if name_here not in (name, None)}):
            logger.warning_rank0(f"{output / skipped} is not complete; going on from {name or 'the start'}.")
        args.resume_from_checkpoint = name and str(output / name)
    if args.resume_from_checkpoint and options is not None:
        _compare(Path(args.resume_from_checkpoint), args, options, asked)


def _compare(checkpoint: Path, args: TrainingArguments, options: dict[str, Any], asked: bool) -> None:
    record, output = read_record(checkpoint), args.output_dir
    changed = changed_options(record["options"], options) if record else ["there is no record of its options"]
    # Nodes that do not share the folder do not all have results.
    changed, finished = broadcast_object_list([changed, is_finished(Path(output), args.do_eval)])
    if changed and asked:
        logger.warning_rank0(f"Going on from {checkpoint} as told, with other options: {'; '.join(changed)}.")
    elif changed:
        raise UniDPOError(
            f"{output} holds a run with other options, and this one would go on from its {checkpoint.name}: "
            f"{'; '.join(changed)}. Give this run another `output_dir`; or start anew there by `overwrite_output_dir: "
            f"true`; or go on all the same by `resume_from_checkpoint: {checkpoint}`."
        )
    elif finished and not asked:
        raise AlreadyTrained(
            f"{output} holds this very run, finished: there is nothing to do. To train it again, give it another "
            "`output_dir`, or set `overwrite_output_dir: true`."
        )


def is_finished(output: Path, evaluates: bool) -> bool:
    """Tell whether a run ended here: a killed one may lack what comes after the weights."""
    has_weights = any((output / name).is_file() for name in CHECKPOINT_NAMES)
    evaluated = not evaluates or read_json(output / "eval_results.json") is not None
    return has_weights and evaluated and bool((read_record(output) or {}).get("ended"))


def _newest_for_all(views: list[list[str]], output: Path) -> str | None:
    common = set.intersection(*map(set, views))
    if not common and any(views):
        raise UniDPOError(
            f"Only some ranks find a checkpoint in {output}. All nodes have to share this folder; if each has its "
            "own, train with `save_on_each_node: true`, and copy a node's checkpoints to those that lack them."
        )
    return max(common, key=step_of, default=None)


def checkpoints(output: Path) -> list[Path]:
    """List the checkpoints of an output folder, the newest last."""
    return sorted(
        (path for path in output.glob("checkpoint-*") if step_of(path.name) >= 0), key=lambda path: step_of(path.name)
    )


def step_of(name: str) -> int:
    """Read the step in a checkpoint's name; -1 for any other name."""
    match = re.fullmatch(r"checkpoint-(\d+)", name)
    return int(match[1]) if match else -1


def is_complete(checkpoint: Path) -> bool:
    """Look for what is written last; a checkpoint of another trainer, half a copy, or a damaged one is without it."""
    with contextlib.suppress(Exception):  # whatever upstream's class makes of what is there
        return TrainerState.load_from_json(str(checkpoint / TRAINER_STATE)).global_step == step_of(checkpoint.name)
    return False


def resume_hint(output: str | os.PathLike) -> str:
    """Say how a run goes on that could not write there."""
    return f"Make room there, and {next_start(output)}."


def next_start(output: str | os.PathLike) -> str:
    """Say where a run that ends now goes on."""
    last = [path.name for path in checkpoints(Path(output)) if is_complete(path)][-1:]
    goes_on = f"goes on from {last[0]}, which is as it was" if last else "starts anew, as there is no checkpoint yet"
    return f"the same command {goes_on}"


def clear(output: Path) -> None:
    """Delete what is neither whole nor needed."""
    shutil.rmtree(output / UNFINISHED, ignore_errors=True)


def put_in_place(unfinished: Path, target: Path) -> None:
    """Give a finished file or folder its name; what had that name before goes."""
    if not target.is_dir():
        os.replace(unfinished, target)
        return
    old = unfinished.with_name(f"{unfinished.name}.old")
    os.rename(target, old)
    os.rename(unfinished, target)
    shutil.rmtree(old, ignore_errors=True)


def put_content_in_place(unfinished: Path, output: Path) -> None:
    """Move what is in a finished folder into another one: last the weights, or their index, which make it a model."""
    for path in sorted(unfinished.iterdir(), key=lambda path: (path.name in CHECKPOINT_NAMES, path.name)):
        put_in_place(path, output / path.name)
    unfinished.rmdir()


def discard(checkpoint: Path) -> None:
    """Delete a checkpoint that has lost its name first; one that cannot be deleted stays."""
    trash = checkpoint.parent / UNFINISHED / f"{checkpoint.name}.old"
    with contextlib.suppress(OSError):
        trash.parent.mkdir(exist_ok=True)
        os.rename(checkpoint, trash)
        shutil.rmtree(trash)


def rotate(output: Path, limit: int | None, newest: Path, protected: Iterable[Path]) -> None:
    """Delete the oldest checkpoints beyond `limit`, but none that is protected, nor the newest.

    A higher step than the newest one's is of an earlier run in this folder, and so older.
    """
    kept = {path.name for path in (newest, *protected)}
    old_first = sorted(
        checkpoints(output), key=lambda path: (step_of(path.name) <= step_of(newest.name), step_of(path.name))
    )
    surplus = len(old_first) - max(limit, len(kept)) if limit else 0
    for checkpoint in [path for path in old_first if path.name not in kept][: max(surplus, 0)]:
        logger.info_rank0(f"Deleting {checkpoint}, as `save_total_limit: {limit}` asks.")
        discard(checkpoint)

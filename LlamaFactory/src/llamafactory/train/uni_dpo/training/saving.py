"""A trainer that saves whole checkpoints and models or none, on all ranks alike.

Works with what upstream writes, whatever that is: LoRA, DeepSpeed's and FSDP's own files, `save_only_model`.
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from transformers import Trainer
from transformers.trainer_utils import TrainOutput

from ...callbacks import SaveProcessorCallback
from ..errors import UniDPOError
from ..files.checkpoints import (
    TRAINER_STATE,
    checkpoints,
    clear,
    discard,
    put_content_in_place,
    put_in_place,
    resume_hint,
    rotate,
    step_of,
)
from ..files.disk import UNFINISHED, explained, is_refusal, read_json, reason, replacing
from ..models.portable import make_portable
from ..models.weight_names import mend_names


class WholeSaves(Trainer):
    """Saves into a hidden folder first; what is there when all ranks are done gets its name by one rename."""

    def __init__(self, **kwargs: Any):
        """Take upstream's arguments."""
        self._is_saving_checkpoint = False
        self._refusal = ""  # by the system, of what this rank has tried to write since ranks last agreed
        self._limit: int | None = None
        super().__init__(**kwargs)
        # It would add its files to a checkpoint that is in place already.
        callback = self.pop_callback(SaveProcessorCallback)
        self._processor = callback and callback.processor

    def train(self, *args: Any, **kwargs: Any) -> TrainOutput:
        """Train as upstream does, but keep the deleting of checkpoints out of its hands: it does so in place."""
        self._limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            output = super().train(*args, **kwargs)
        finally:
            self.args.save_total_limit = self._limit
        best = self.state.best_model_checkpoint
        if self._limit == 1 and best is not None and self.args.should_save:
            for checkpoint in checkpoints(Path(self.args.output_dir)):
                if checkpoint.name != Path(best).name:
                    discard(checkpoint)
        return output

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save a model and its processor, whole or not at all.

        Raises:
            UniDPOError: the system refused to write.
        """
        if self._is_saving_checkpoint:
            self._save_model_and_processor(output_dir)
            return
        output = Path(output_dir or self.args.output_dir)
        unfinished = output / UNFINISHED / "model"
        with self._whole("The trained model", unfinished):
            self._save_model_and_processor(str(unfinished))
        self._in_turn(lambda: put_content_in_place(unfinished, output), "The trained model", unfinished)
        self._rotate(output)  # a run that was killed between its last checkpoint and this has one too many
        if self.is_local_process_zero():
            clear(output)

    def _save_model_and_processor(self, output_dir: str) -> None:
        super().save_model(output_dir, _internal_call=True)
        if self.args.should_save:
            with self._noting():
                self.write_record(output_dir)
                if self._processor is not None:
                    self._processor.save_pretrained(output_dir)
                make_portable(output_dir)
                mend_names(output_dir)

    def write_record(self, folder: str) -> None:
        """Add files of ours to a model's folder, which has been written."""

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        folder = Path(self._get_output_dir(trial))
        checkpoint = folder / f"checkpoint-{self.state.global_step}"
        unfinished = folder / UNFINISHED / checkpoint.name
        with self._whole(checkpoint.name, unfinished), self._noting_alone():
            self._is_saving_checkpoint = True
            try:
                super()._save_checkpoint(model, trial)
            finally:
                self._is_saving_checkpoint = False
            if self.state.best_global_step == self.state.global_step:
                self.state.best_model_checkpoint = str(checkpoint)
                if self.args.should_save:
                    self.state.save_to_json(os.path.join(unfinished, TRAINER_STATE))
        self._in_turn(lambda: put_in_place(unfinished, checkpoint), checkpoint.name, unfinished)
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(checkpoint))
        self._rotate(folder)
        if self.is_local_process_zero():
            clear(folder)

    def _determine_best_metric(self, *args: Any, **kwargs: Any) -> bool:
        """Tell whether an evaluation is the best so far, and save its weights if they are asked for at the end.

        With `save_strategy: best` transformers forgets the step until 5.5; with `steps` it may save too seldom.
        """
        is_best = super()._determine_best_metric(*args, **kwargs)
        if is_best:
            self.state.best_global_step = self.state.global_step
            self.control.should_save |= self.args.load_best_model_at_end
        return is_best

    def _rotate(self, folder: Path) -> None:
        ours = [path for path in checkpoints(folder) if step_of(path.name) <= self.state.global_step]
        if ours and self.args.should_save:
            best = self.state.best_model_checkpoint
            rotate(folder, self._limit, ours[-1], [Path(best)] if best else [])

    def _get_output_dir(self, trial: Any) -> str:
        folder = super()._get_output_dir(trial)
        return os.path.join(folder, UNFINISHED) if self._is_saving_checkpoint else folder

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if not self._is_saving_checkpoint:
            super()._push_from_checkpoint(checkpoint_folder)

    def _save(self, *args: Any, **kwargs: Any) -> None:
        with self._noting():
            super()._save(*args, **kwargs)

    def _save_rng_state(self, output_dir: str) -> None:
        with self._noting():
            super()._save_rng_state(output_dir)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        with self._noting_alone():
            super()._save_optimizer_and_scheduler(output_dir)

    def save_state(self) -> None:
        """Write `trainer_state.json`, whole or not at all."""
        if self.is_world_process_zero():
            output = self.args.output_dir
            with self._explained(TRAINER_STATE), replacing(os.path.join(output, TRAINER_STATE)) as scratch:
                self.state.save_to_json(str(scratch))

    def save_metrics(self, split: str, metrics: dict[str, float], combined: bool = True) -> None:
        """Write `SPLIT_results.json`, and add it to `all_results.json`, each whole or not at all."""
        if not self.is_world_process_zero():
            return
        output = Path(self.args.output_dir)
        results = {output / f"{split}_results.json": metrics}
        if combined:
            everything = output / "all_results.json"
            results[everything] = (read_json(everything) or {}) | metrics
        for path, values in results.items():
            with self._explained(path.name), replacing(path) as scratch:
                scratch.write_text(json.dumps(values, indent=4, sort_keys=True))

    # ---- ranks ----

    @contextmanager
    def _noting(self) -> Iterator[None]:
        """Let a rank whose write failed go on, so that all of them meet and end together."""
        try:
            yield
        except Exception as error:
            if not is_refusal(error):
                raise
            self._refusal = self._refusal or reason(error, self.args.output_dir)

    def _noting_alone(self) -> AbstractContextManager[None]:
        # In the middle of DeepSpeed's and FSDP's own saving no rank can go on without the others.
        return nullcontext() if self.is_deepspeed_enabled or self.is_fsdp_enabled else self._noting()

    @contextmanager
    def _whole(self, what: str, unfinished: Path) -> Iterator[None]:
        """Write `what` into `unfinished`, which is gone again if any rank fails."""
        try:
            yield
        except BaseException as error:
            refusal = reason(error, self.args.output_dir) if is_refusal(error) else None
            clear(unfinished.parent.parent)
            if refusal:
                raise self._unsaved(what, refusal) from error
            raise
        self._agree(what, unfinished)

    def _in_turn(self, put: Callable[[], None], what: str, unfinished: Path) -> None:
        """Put something in place: once where ranks share a folder, once a node where they do not."""
        if self.is_world_process_zero():
            with self._noting():
                put()
        self._agree(what, unfinished)
        if self.is_local_process_zero() and unfinished.is_dir():
            with self._noting(), suppress(FileNotFoundError):  # a shared folder may be seen as it was
                put()
        self._agree(what, unfinished)

    def _agree(self, what: str, unfinished: Path) -> None:
        refusals = list(filter(None, gather_object([self._refusal])))
        self._refusal = ""
        if refusals:
            clear(unfinished.parent.parent)
            raise self._unsaved(what, refusals[0])

    def _unsaved(self, what: str, refusal: str) -> UniDPOError:
        return UniDPOError(f"{what} could not be written: {refusal}. What was begun is removed. {self._way_on()}")

    def _explained(self, what: str) -> AbstractContextManager[None]:
        return explained(what, self.args.output_dir, self._way_on())

    def _way_on(self) -> str:
        return resume_hint(self.args.output_dir)

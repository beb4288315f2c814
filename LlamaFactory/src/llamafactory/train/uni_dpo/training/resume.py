"""What upstream's resuming leaves undone, so that a resumed run ends with the weights of an undisturbed one.

Seen with transformers 4.57 and accelerate 1.11, for every loss of LlamaFactory; ours mend it for their own runs:

- `Trainer._load_from_checkpoint` loads a state dict without the key renaming that `save_pretrained` undid, and is not
  strict, so a vision-language model goes on with the weights it started from;
- `accelerate.skip_first_batches` builds a data loader that counts epochs from 0 again, so a run resumed after the
  first epoch meets the first epoch's order;
- a run that was killed between its last checkpoint and its end takes one step more, unless an epoch ends there;
- a batch size other than the checkpoint's is ignored.

On a GPU two undisturbed runs are equal to the bit with `full_determinism: true` only, and so is a resumed one: the
backward pass of FlashAttention, among others, adds up in an order that is left to chance.
"""

import functools
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from torch.utils.data import RandomSampler, Sampler
from transformers import PreTrainedModel, Trainer, TrainerState
from transformers.trainer_utils import TrainOutput

from ..data.row_order import row_order
from ..errors import UniDPOError, in_context
from ..files.checkpoints import TRAINER_STATE
from ..files.run_record import RECORD, refuse_other_rows, write_record


logger = logging.getLogger(__name__)  # a child of LlamaFactory's

OTHER_CHECKPOINT = "Go on from an earlier one, by removing this one's folder or by `resume_from_checkpoint`."


class EpochSampler(Sampler[int]):
    """Random order that depends on seed and epoch alone.

    In an undisturbed run it is the order of upstream's defaults (accelerate's seedable sampler).
    """

    def __init__(self, size: int, seed: int, epoch: Callable[[], int]):
        """Order `size` examples; `epoch` is asked whenever an epoch begins, also in the middle of one on resuming."""
        self.size, self.seed, self.epoch = size, seed, epoch

    def __iter__(self) -> Iterator[int]:
        """Yield every index once."""
        generator = torch.Generator().manual_seed(self.seed + self.epoch())
        yield from torch.randperm(self.size, generator=generator).tolist()

    def __len__(self) -> int:
        """Count the examples of an epoch."""
        return self.size


def restore_weights(model: PreTrainedModel, checkpoint: str) -> None:
    """Load a full checkpoint through `from_pretrained`, which knows how its keys were renamed on saving.

    Every tensor keeps the precision that it has in `model`: LlamaFactory trains in float32 beside a tower in bfloat16.

    Raises:
        UniDPOError: its weights are pickled: loading such a file may do whatever its maker wants.
        RuntimeError: the checkpoint is of another model.
    """
    if not any(name.endswith(".safetensors") for name in os.listdir(checkpoint)):
        raise UniDPOError(
            f"{checkpoint} holds no *.safetensors, and other weights are not loaded. Train with `save_safetensors: "
            "true` (the default), or go on from an earlier checkpoint by `resume_from_checkpoint`."
        )
    dtypes = {weight.dtype for weight in model.parameters() if weight.is_floating_point()}
    exact_for_all = functools.reduce(torch.promote_types, dtypes)
    saved = type(model).from_pretrained(checkpoint, torch_dtype=exact_for_all, use_safetensors=True)
    model.load_state_dict(saved.state_dict())


def trusting_deepspeed() -> AbstractContextManager[None]:
    """Let torch load DeepSpeed's own classes from its checkpoints.

    DeepSpeed before 0.16 does not say that it trusts its files, and torch from 2.6 on then takes tensors only.
    """
    if not hasattr(torch.serialization, "safe_globals"):
        return nullcontext()
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    return torch.serialization.safe_globals([DynamicLossScaler, LossScaler, ZeroStageEnum, fragment_address])


class ExactResume(Trainer):
    """A trainer that goes on exactly where a checkpoint was made."""

    _was_over = False  # whether all steps had been taken when this run started
    _took_steps = False  # whether this run has taken any

    def __init__(self, options: dict[str, Any] | None = None, **kwargs: Any):
        """Take upstream's arguments, and the options to keep with checkpoints."""
        self._options, self._order = options or {}, {}
        super().__init__(**kwargs)

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> TrainOutput:
        """Train as upstream does, on from a checkpoint only if it has the same pairs left.

        Raises:
            UniDPOError: it has not, or its state cannot be read.
        """
        self._order = self._describe_order()
        if isinstance(resume_from_checkpoint, str):
            with in_context(f"{TRAINER_STATE} of checkpoint {resume_from_checkpoint}", OTHER_CHECKPOINT):
                TrainerState.load_from_json(f"{resume_from_checkpoint}/{TRAINER_STATE}")
        if resume_from_checkpoint and not self.args.ignore_data_skip:
            refuse_other_rows(str(resume_from_checkpoint), self._order)
        if self.args.should_save:
            Path(self.args.output_dir, RECORD).unlink(missing_ok=True)  # an ended run's, and this one has yet to end
        with trusting_deepspeed() if self.is_deepspeed_enabled else nullcontext():
            return super().train(resume_from_checkpoint, *args, **kwargs)

    def _describe_order(self) -> dict[str, Any]:
        args, found = self.args, [None]
        if self.is_world_process_zero():
            pairs = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
            found = [row_order(self.train_dataset, pairs, args.seed if args.data_seed is None else args.data_seed)]
        return broadcast_object_list(found)[0]

    def write_record(self, folder: str) -> None:
        """Keep what this run trains with beside a model."""
        write_record(folder, self._options, self._order)

    def save_metrics(self, split: str, *args: Any, **kwargs: Any) -> None:
        """Write results as upstream does, but leave those of the training as they are if no step was left to take."""
        if split == "train" and not self._took_steps and os.path.exists(f"{self.args.output_dir}/train_results.json"):
            if self.is_world_process_zero():
                logger.warning("No step was left to train; train_results.json stays as it is.")
            return
        super().save_metrics(split, *args, **kwargs)

    def _inner_training_loop(self, batch_size: int | None = None, *args: Any, **kwargs: Any) -> TrainOutput:
        if not self.args.auto_find_batch_size:
            batch_size = self.args.train_batch_size
        return super()._inner_training_loop(batch_size, *args, **kwargs)

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list, Any]:
        """Read the batches of the next step; none if there is no next step."""
        if self.state.global_step < self.state.max_steps:
            self._took_steps = True
            return super().get_batch_samples(*args, **kwargs)
        self._was_over = self.control.should_training_stop = True
        return [], None

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:
        if not self._was_over:  # or an epoch's end would be logged, evaluated and saved twice
            super()._maybe_log_save_evaluate(*args, **kwargs)

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Sampler | None:
        sampler = super()._get_train_sampler(*args, **kwargs)
        if type(sampler) is not RandomSampler:  # not shuffled, or a stream
            return sampler
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return EpochSampler(len(sampler), seed, lambda: int(self.state.epoch or 0))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        with in_context(f"Checkpoint {resume_from_checkpoint}", OTHER_CHECKPOINT):
            if self._saves_whole_model():
                restore_weights(self.model, resume_from_checkpoint)
            else:
                super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with in_context(f"Optimizer or scheduler of checkpoint {checkpoint}", OTHER_CHECKPOINT):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        with in_context(f"The random state (rng_state*.pth) of checkpoint {checkpoint}", OTHER_CHECKPOINT):
            super()._load_rng_state(checkpoint)

    def _load_best_model(self) -> None:
        # A node that does not share the folder goes on with the last weights, with upstream's warning.
        if self._saves_whole_model() and os.path.isdir(self.state.best_model_checkpoint):
            restore_weights(self.model, self.state.best_model_checkpoint)
        else:
            super()._load_best_model()

    def _saves_whole_model(self) -> bool:
        # DeepSpeed and FSDP keep files of their own beside the model's, and PEFT loads adapters by their own names.
        return isinstance(self.model, PreTrainedModel) and not (self.is_deepspeed_enabled or self.is_fsdp_enabled)

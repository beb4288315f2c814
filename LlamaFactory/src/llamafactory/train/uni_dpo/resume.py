"""What upstream's resuming leaves undone, so that a resumed run ends with the weights of an undisturbed one.

Seen with transformers 4.57 and accelerate 1.11, for every loss of LlamaFactory; ours mend it for their own runs:

- `Trainer._load_from_checkpoint` loads a state dict without the key renaming that `save_pretrained` undid, and is not
  strict, so a vision-language model goes on with the weights it started from;
- `accelerate.skip_first_batches` builds a data loader that counts epochs from 0 again, so a run resumed after the
  first epoch meets the first epoch's order.
"""

import os
from collections.abc import Callable, Iterator

import torch
from accelerate.utils import gather_object
from torch.utils.data import Sampler
from transformers import PreTrainedModel

from .errors import UniDPOError


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


def check_checkpoint(checkpoint: str | bool | None) -> None:
    """Refuse to go on from a checkpoint that is not on the disk of every machine; all ranks call this.

    Raises:
        UniDPOError: some rank starts at another step than the first, or lacks the checkpoint's files.
    """
    whole = isinstance(checkpoint, str) and os.path.isfile(os.path.join(checkpoint, "trainer_state.json"))
    found = gather_object([os.path.basename(os.path.normpath(checkpoint)) if whole else ""])
    others = [rank for rank, name in enumerate(found) if name != found[0]]
    if others:
        raise UniDPOError(
            f"Rank 0 {f'goes on from {found[0]}' if found[0] else 'starts anew'}, but rank {others[0]} finds "
            f"{found[others[0]] or 'no complete checkpoint'} in its own output folder. Where machines share no disk, "
            "copy the first machine's checkpoint folder into those of the others first, or start anew on all of them."
        )


def restore_weights(model: PreTrainedModel, checkpoint: str) -> None:
    """Load a full checkpoint through `from_pretrained`, which knows how its keys were renamed on saving.

    Raises:
        RuntimeError: the checkpoint is of another model.
    """
    saved = type(model).from_pretrained(checkpoint, torch_dtype=model.dtype)
    model.load_state_dict(saved.state_dict())

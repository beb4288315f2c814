"""Train under DeepSpeed ZeRO-3, and put a NaN into one rank's share of a weight on the way: a `call` of a job.

Its arguments are RUN.json STEP OUTCOME: RUN.json holds LlamaFactory's options, STEP is the optimizer step after which
the last rank breaks, OUTCOME-RANK.txt gets what the guard said on each rank (nothing: it let all pass).
"""

import json
import math
import os
import sys
from pathlib import Path

import torch
from transformers import TrainerCallback

from llamafactory.train.tuner import run_exp
from llamafactory.train.uni_dpo.errors import NonFiniteError


class Ruin(TrainerCallback):
    """Breaks one number after a step whose loss and gradient were finite, as an overflowing update would."""

    def __init__(self, step: int):
        """Break after this step."""
        self.step = step

    def on_step_end(self, args, state, control, model=None, **kwargs):
        """Write a NaN where only the last rank can see it."""
        if state.global_step != self.step:
            return
        trained = next(weight for weight in model.parameters() if weight.requires_grad)
        assert trained.numel() == 0, "this weight is not sharded"
        if torch.distributed.get_rank() == torch.distributed.get_world_size() - 1:
            trained.ds_tensor.data.view(-1)[0] = math.nan


def main() -> None:
    """Train, and write down the message of the guard if it stopped the run."""
    said = ""
    try:
        run_exp(json.loads(Path(sys.argv[1]).read_text()), callbacks=[Ruin(int(sys.argv[2]))])
    except NonFiniteError as error:
        said = str(error)
        torch.distributed.destroy_process_group()  # LlamaFactory does so only after a run that ended well
    Path(f"{sys.argv[3]}-{os.environ['RANK']}.txt").write_text(said)

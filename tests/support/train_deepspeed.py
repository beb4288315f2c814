"""Train under DeepSpeed on the CPU: `torchrun ... train_deepspeed.py RUN.yaml`, where RUN.yaml is JSON too."""

import json
import os
import sys
from pathlib import Path

import torch
from gloo import connect_ranks

from llamafactory.train.tuner import run_exp


def leave() -> None:
    """Leave together and at once: gloo may abort a rank whose connections the other has closed before it."""
    torch.distributed.barrier()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    connect_ranks()
    torch.distributed.destroy_process_group = leave  # LlamaFactory's last call
    run_exp(json.loads(Path(sys.argv[1]).read_text()))

"""Train under DeepSpeed on the CPU: `torchrun ... train_deepspeed.py RUN.yaml`, where RUN.yaml is JSON too."""

import json
import sys
from pathlib import Path

import deepspeed

from llamafactory.train.tuner import run_exp


if __name__ == "__main__":
    # With `use_cpu`, accelerate starts torch's processes but not DeepSpeed's view of them: it would see one alone.
    deepspeed.init_distributed("gloo")
    run_exp(json.loads(Path(sys.argv[1]).read_text()))

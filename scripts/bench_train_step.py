#!/usr/bin/env python3
"""A preference step by LlamaFactory's forward and by the engine of this overlay: time, memory, and why."""

import sys

from bench_train_step.command import main


if __name__ == "__main__":  # the processes that measure memory import this file again
    sys.exit(main())

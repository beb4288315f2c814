#!/usr/bin/env python3
"""A whole training run on as many pairs as published, part by part: time and memory from the command to the end."""

import sys

from bench_start.command import main


if __name__ == "__main__":
    sys.exit(main())

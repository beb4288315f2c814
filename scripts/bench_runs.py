#!/usr/bin/env python3
"""Whole training runs beside each other: memory, the first step, and later ones."""

import sys

from bench_runs.command import main


if __name__ == "__main__":
    sys.exit(main())

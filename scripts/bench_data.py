#!/usr/bin/env python3
"""The data commands on made-up data of the published size and ten times that: time, memory, output."""

import sys

from bench_data.command import main


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""All that only a GPU shows, by one command: exactness, steps, whole runs, answers; the most valuable first."""

import sys

from gpu_kit.command import main


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""The demo world: look at it, make the checkpoint, sample pairs, examine a model, compare two."""

import sys

from demo.command import main


if __name__ == "__main__":
    sys.exit(main())

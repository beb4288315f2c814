#!/usr/bin/env python3
"""One table of checkpoints and benchmarks from what VLMEvalKit left."""

import sys

from summarize_eval.command import main


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Answers side by side: VLMEvalKit's loop, its API mode with a vLLM server, and our runner with both backends."""

import sys

from bench_eval.command import main


if __name__ == "__main__":
    sys.exit(main())

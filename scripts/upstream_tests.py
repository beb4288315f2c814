#!/usr/bin/env python3
"""Run LlamaFactory's own tests with and without the overlay, and print what differs."""

import sys

from upstream_tests.command import main


if __name__ == "__main__":
    sys.exit(main())

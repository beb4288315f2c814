#!/usr/bin/env python3
"""Run LlamaFactory's own tests with and without the overlay, and print what differs.

A tool for developing: what it runs belongs to the tests, and lies in tests/support/upstream_trials/.
"""

import sys
from pathlib import Path


sys.path.insert(1, str(Path(__file__).resolve().parents[1] / "tests" / "support"))

if __name__ == "__main__":
    from upstream_trials.own_tests import main

    sys.exit(main())

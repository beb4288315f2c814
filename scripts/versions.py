#!/usr/bin/env python3
"""Try the overlays with every version of upstream that they are meant for, and print the table of docs/versions.md.

A tool for developing: what it runs belongs to the tests, and lies in tests/support/upstream_trials/.
"""

import sys
from pathlib import Path


sys.path.insert(1, str(Path(__file__).resolve().parents[1] / "tests" / "support"))

if __name__ == "__main__":
    from upstream_trials.versions import main

    sys.exit(main())

#!/usr/bin/env python3
"""Try the overlays with every version of upstream that they are meant for, and print the table of the README."""

import sys

from versions.command import main


if __name__ == "__main__":
    sys.exit(main())

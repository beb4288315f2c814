#!/usr/bin/env python
"""Prepare scored preference pairs: see `python scripts/uni_dpo/data.py --help`."""

from pair_data.cli import main


if __name__ == "__main__":
    main()

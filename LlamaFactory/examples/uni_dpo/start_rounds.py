"""Rounds of training on a model's own answers: rounds.sh says how."""

import argparse
import signal
import sys
from pathlib import Path

from launcher import EXAMPLES  # noqa: F401  it finds pair_data
from pair_data.errors import DataError
from rounds.loop import run
from rounds.plan import read_plan


def main() -> int:
    """Do the rounds of a YAML file; return the exit status."""
    parser = argparse.ArgumentParser(prog="rounds.sh")
    parser.add_argument("plan", type=Path, metavar="ROUNDS.yaml")
    parser.add_argument("--fresh", action="store_true")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the stage under way is ended, too
    try:
        run(read_plan(arguments.plan), arguments.fresh)
    except DataError as error:
        print(f"rounds: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nrounds: interrupted; the same command goes on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())

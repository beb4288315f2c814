"""`python -m vlmeval.uni_dpo`."""

import sys

from .cli import main


if __name__ == "__main__":  # vLLM's processes import this file again
    sys.exit(main())

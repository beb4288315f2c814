#!/usr/bin/env python3
"""Lay the Uni-DPO overlay over a LlamaFactory or a VLMEvalKit, take it off again, or say what is there."""

import signal
import sys

from install_overlay.command import main


if __name__ == "__main__":
    # `status | head` is no error. Nothing is printed while files are being changed.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    sys.exit(main())

"""`python -m vlmeval.uni_dpo`."""

import os
import sys
import threading
import time

from .cli import main


def end_with(parent: int) -> None:
    """End this process as soon as its parent is gone, however it went."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


# vLLM's processes import this file again, under another name. Left alone, they would outlive a run that is killed and
# keep the GPU's memory from the one that goes on.
if __name__ == "__main__":
    sys.exit(main())
elif __name__ == "__mp_main__":
    threading.Thread(target=end_with, args=(os.getppid(),), daemon=True).start()

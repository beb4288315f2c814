"""Fill caches as the command does, but write after every batch and take a while over it, so that one can interrupt.

`python fill_slowly.py SECONDS CONFIG.yaml [OPTION=VALUE ...]`: SECONDS to wait before each part is written. Under
`torchrun` with DS_ACCELERATOR set, ranks are DeepSpeed's.
"""

import os
import sys
import time

from llamafactory.train.uni_dpo.caches import images, store, work
from llamafactory.train.uni_dpo.caches.__main__ import main


def fill() -> None:
    """Fill as the command line says."""
    pause = float(sys.argv.pop(1))
    work.FLUSH_SECONDS, images.PART_BYTES = 0.0, 1
    name_part = store.Store.new_part

    def named_slowly(self, ending):
        """Wait before a part is written; it is the next one that is interrupted."""
        time.sleep(pause)
        return name_part(self, ending)

    store.Store.new_part = named_slowly
    main()


if __name__ == "__main__":
    if "DS_ACCELERATOR" in os.environ:
        from gloo import connect_ranks

        connect_ranks()
    fill()

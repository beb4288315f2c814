"""Fill caches as the command does, but write after every batch, so that there are many moments to interrupt it at."""

from llamafactory.train.uni_dpo.caches import images, passes
from llamafactory.train.uni_dpo.caches.__main__ import main


def fill() -> None:
    """Fill as the command line says."""
    passes.FLUSH_SECONDS, images.PART_BYTES = 0.0, 1
    main()

"""Tools for scored preference pairs: from downloads to a data set that has been looked at.

The commands are modules of `commands/`, wired together in `cli.py`. All of them stand on `rows` (files in), `writing`
(files out) and `sources` (which columns of a row are the pair). Nothing here imports torch, transformers or
LlamaFactory until a command is given a model.
"""

from .errors import DataError


__all__ = ["DataError"]

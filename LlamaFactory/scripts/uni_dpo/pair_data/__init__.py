"""Tools for scored preference pairs: from downloads to a data set that has been looked at.

`cli.py` joins the commands. All of them stand on `rows` (files in), `writing` (files out), `sources` (which columns of
a row are the pair) and `descriptions` (dataset_info.json). Nothing here imports torch, transformers or LlamaFactory
until a command is given a model. Whatever a user can mend raises `DataError`, in every room, with a message that is
all they see.
"""

from .errors import DataError


__all__ = ["DataError"]

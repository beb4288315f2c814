"""Features of images from a frozen vision tower, in a folder of safetensors files."""

import os
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from .store import Store


# A part is written when it holds this many bytes; a killed pass loses no more.
PART_BYTES = 2**28
GRID = ".grid"


class ImageCache:
    """A store of image features by the names of images.

    Opened before data loader workers start, it reads lazily in each of them: file handles do not survive a fork.
    """

    def __init__(self, store: Store):
        """Open the folder; call `load` to find what is in it."""
        self._store = store
        self._part_of: dict[str, str] = {}
        self._waiting: dict[str, torch.Tensor] = {}
        self._open: dict[tuple[int, str], safe_open] = {}

    def __getstate__(self) -> dict:
        """Leave open files behind when a worker gets a copy."""
        return self.__dict__ | {"_open": {}}

    def __contains__(self, image: str) -> bool:
        """Tell whether an image's features are stored."""
        return image in self._part_of

    @property
    def folder(self) -> Path:
        """Where the features are."""
        return self._store.folder

    def stored_bytes(self) -> int:
        """Measure what is stored."""
        return sum(part.stat().st_size for part in self._store.parts("safetensors"))

    def load(self) -> None:
        """Find all images, also those that other processes have written since."""
        for part in self._store.parts("safetensors"):
            with safe_open(part, "pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 (it is no mapping)
                    if not name.endswith(GRID):
                        self._part_of[name] = str(part)

    def read(self, image: str) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Read an image's features, shape (tokens, width), and its grid (frames, height, width) in patches, if any."""
        part = self._part_of[image]
        place = (os.getpid(), part)
        if place not in self._open:
            self._open[place] = safe_open(part, "pt")
        opened = self._open[place]
        grid = opened.get_tensor(image + GRID) if image + GRID in opened.keys() else None  # noqa: SIM118
        return opened.get_tensor(image), grid

    def add(self, image: str, features: torch.Tensor, grid: torch.Tensor | None) -> None:
        """Keep features until there are enough for a part, or until `flush`."""
        self._waiting[image] = features.cpu().contiguous()
        if grid is not None:
            self._waiting[image + GRID] = grid.cpu().contiguous()
        if sum(tensor.nbytes for tensor in self._waiting.values()) >= PART_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write the waiting features as one part."""
        if self._waiting:
            with self._store.writing(self._store.new_part("safetensors")) as temporary:
                save_file(self._waiting, temporary)
            self._waiting.clear()

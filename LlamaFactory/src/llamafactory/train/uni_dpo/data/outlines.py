"""Images by their size alone, which is all that tokenising asks of them.

To write a prompt upstream has to know how many tokens each image takes, and processes all its pixels for it, for some
50 ms. Every processor of transformers makes as many tokens of any other image of the same size. So upstream's own code
gets images that have a size and no pixels, and a processor that says what follows from sizes.
"""

import functools
import io
import os
from collections.abc import Mapping
from typing import Any

import torch
from PIL import Image
from transformers import BatchFeature

from ..proxy import Proxy


GRIDS = "image_grid_thw"
REMEMBERED = 4096
KINDS = (str, bytes, Mapping, Image.Image)  # in which data sets have images


class Outline(Image.Image):
    """An image that has a size and no pixels."""

    def __init__(self, size: tuple[int, int]):
        """Have `size`: width and height in pixels."""
        super().__init__()
        self._size, self._mode = size, "RGB"

    def resize(self, size: tuple[int, int], *args: Any, **kwargs: Any) -> "Outline":
        """Return another one."""
        return Outline(tuple(size))


class OutlinePlugin(Proxy):
    """A media plugin that learns of images their sizes, while it prepares messages."""

    def __init__(self, plugin: Any):
        """Stand in for `plugin`."""
        super().__init__(plugin)
        self._processor: _OutlineProcessor | None = None

    def process_messages(self, messages: list, images: list, videos: list, audios: list, processor: Any) -> list:
        """Put the tokens of images, videos and audios where their placeholders are.

        Raises:
            OSError: a file is no image, or one that ends too early.
        """
        if images and _is_known(processor) and all(isinstance(image, KINDS) for image in images):
            if self._processor is None or self._processor._original is not processor:
                self._processor = _OutlineProcessor(processor)
            images, processor = [Outline(_size_of(image)) for image in images], self._processor
        return self._original.process_messages(messages, images, videos, audios, processor)


def _is_known(processor: Any) -> bool:
    """Tell whether images are processed by transformers' own code, of which it is known that sizes decide."""
    return type(getattr(processor, "image_processor", None)).__module__.startswith("transformers.")


class _OutlineProcessor(Proxy):
    """A model's processor, whose image processor knows outlines."""

    def __init__(self, processor: Any):
        super().__init__(processor)
        self.image_processor = _OutlineImageProcessor(processor.image_processor)


class _OutlineImageProcessor(Proxy):
    """An image processor that answers for outlines with whatever follows from their sizes."""

    def __init__(self, processor: Any):
        super().__init__(processor)
        self._known: dict[tuple, dict[str, Any]] = {}

    def __call__(self, images: Any = None, *args: Any, **options: Any) -> Any:
        if not images or not all(isinstance(image, Outline) for image in images):
            return self._original(images, *args, **options)  # frames of a video
        sizes = tuple(image.size for image in images)
        if GRIDS in self._original.model_input_names and hasattr(self._original, "get_number_of_image_patches"):
            patches = [self._original.get_number_of_image_patches(height, width, {}) for width, height in sizes]
            return BatchFeature({GRIDS: torch.tensor([[1, count, 1] for count in patches])})  # only products are asked
        key = (sizes, repr(sorted(options.items())))
        if key not in self._known:
            if len(self._known) >= REMEMBERED:
                self._known.clear()
            found = self._original([Image.new("RGB", size) for size in sizes], *args, **options)
            self._known[key] = {name: _shape_only(value) for name, value in found.items()}
        return BatchFeature(self._known[key])


def _shape_only(value: Any) -> Any:
    """Return pixel values as one zero that has their shape; upstream reads sizes from it."""
    return value.new_zeros(()).expand(value.shape) if torch.is_tensor(value) and value.is_floating_point() else value


def _size_of(image: Any) -> tuple[int, int]:
    if isinstance(image, Image.Image):
        return image.size
    if isinstance(image, Mapping):
        image = image["path"] if image["bytes"] is None else image["bytes"]
    if isinstance(image, bytes):
        return _read(io.BytesIO(image))
    status = os.stat(image)
    return _size_of_file(image, status.st_mtime_ns, status.st_size)


@functools.lru_cache(REMEMBERED)
def _size_of_file(path: str, *stamp: int) -> tuple[int, int]:
    """Read a file once, though several rows in turn have it; the stamp is another if it has changed."""
    return _read(path)


def _read(file: Any) -> tuple[int, int]:
    """Return an image's size, once it is sure that there is all of it."""
    with Image.open(file) as image:
        size = image.size
        if image.format == "PNG":
            image.verify()  # by its checksums
        else:
            image.draft("RGB", (1, 1))  # a JPEG at an eighth of its size, for half the time
            image.load()
    return size

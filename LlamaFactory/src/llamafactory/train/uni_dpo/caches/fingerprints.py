"""Names for weights, images and pairs that depend on their content alone.

Hashes of files are remembered by path, size and time of change, so that only what is new is read again.
"""

import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from safetensors import safe_open
from tqdm import tqdm

from ..errors import UniDPOError


DIGEST_BYTES = 16
READ_BYTES = 2**22
ROWS_AT_ONCE = 1000
PAIR_COLUMNS = ("chosen_input_ids", "chosen_labels", "rejected_input_ids", "rejected_labels")


class FileHashes:
    """Content hashes of files, remembered in a JSON file between runs."""

    def __init__(self, memory: Path):
        """Remember in `memory`, which may not exist yet."""
        self._memory = memory
        try:
            self._known: dict[str, list] = json.loads(memory.read_text())
        except (OSError, ValueError):
            self._known = {}

    def of(self, path: str | os.PathLike) -> str:
        """Hash the content of a file.

        Raises:
            UniDPOError: there is no such file.
        """
        path = os.path.abspath(path)
        try:
            status = os.stat(path)
        except OSError as error:
            raise UniDPOError(
                f"{path} cannot be read: {error.strerror}. Correct `media_dir` or the data set."
            ) from error
        stamp = [status.st_size, status.st_mtime_ns]
        if self._known.get(path, [None])[:-1] != stamp:
            digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
            with open(path, "rb") as file:
                while block := file.read(READ_BYTES):
                    digest.update(block)
            self._known[path] = [*stamp, digest.hexdigest()]
        return self._known[path][-1]

    def save(self) -> None:
        """Write the memory, whole or not at all."""
        temporary = self._memory.with_name(f"{self._memory.name}.{os.getpid()}.tmp")
        temporary.write_text(json.dumps(self._known))
        os.replace(temporary, self._memory)


def weights_fingerprint(folder: str | os.PathLike, part: str = "") -> str:
    """Hash a checkpoint's tensors by name, however they are spread over files.

    Args:
        folder: a checkpoint in the format of transformers or PEFT.
        part: only tensors with this in their names count; a pickled checkpoint counts as a whole.

    Raises:
        FileNotFoundError: there are no weights.
    """
    folder, digest = Path(folder), hashlib.blake2b(digest_size=DIGEST_BYTES)
    files = sorted(folder.glob("*.safetensors"))
    if files:
        names = {}
        for file in files:
            with safe_open(file, "pt") as tensors:
                names |= {name: file for name in tensors.keys() if part in name}  # noqa: SIM118 (it is no mapping)
        for name in tqdm(sorted(names), desc=f"Reading the weights of {folder.name}", leave=False):
            with safe_open(names[name], "pt") as tensors:
                tensor = tensors.get_tensor(name)
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.flatten().contiguous().view(torch.uint8).numpy())
        return digest.hexdigest()
    files = sorted(folder.glob("*.bin"))
    if not files:
        raise FileNotFoundError(f"{folder} has neither .safetensors nor .bin files.")
    for file in files:
        with open(file, "rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def media_keys(dataset: Any, column: str, hashes: FileHashes) -> list[list[str]]:
    """Name the images or videos of every row.

    Args:
        dataset: a `datasets.Dataset` with lists of paths, of bytes as `datasets` keeps them, or of PIL images.
        column: `images` or `videos`.
        hashes: what is known of files.

    Returns:
        One list a row; the same content has the same name wherever it is.
    """
    rows = [items or [] for items in dataset[column]] if column in dataset.column_names else [[]] * len(dataset)
    paths = sorted({item for items in rows for item in items if isinstance(item, str)})
    with ThreadPoolExecutor() as pool:  # hashing releases the interpreter
        found = tqdm(pool.map(hashes.of, paths), f"Reading {column}", len(paths), leave=False, disable=not paths)
        by_path = dict(zip(paths, found, strict=True))
    return [[by_path[item] if isinstance(item, str) else _hash_media(item) for item in items] for items in rows]


def pair_keys(dataset: Any, media: Iterable[list[str]]) -> list[str]:
    """Name every pair by its tokens, its labels and its media.

    Args:
        dataset: a tokenised `datasets.Dataset`.
        media: names of the media of each row.
    """
    keys, media = [], iter(media)
    progress = tqdm(total=len(dataset), desc="Naming pairs", leave=False)
    for batch in dataset.select_columns(list(PAIR_COLUMNS)).with_format("arrow").iter(ROWS_AT_ONCE):
        digests = [hashlib.blake2b(digest_size=DIGEST_BYTES) for _ in range(len(batch))]
        for column in PAIR_COLUMNS:
            for digest, tokens in zip(digests, _lists(batch[column]), strict=True):
                digest.update(tokens)
                digest.update(b"|")
        for digest in digests:
            digest.update(" ".join(next(media)).encode())
            keys.append(digest.hexdigest())
        progress.update(len(batch))
    progress.close()
    return keys


def _lists(column: pa.ChunkedArray) -> Iterator[np.ndarray]:
    """Take the rows out of a column of lists without making Python objects of every token."""
    for chunk in column.chunks:
        values = chunk.values.to_numpy().astype(np.int64, copy=False)
        for start, end in itertools.pairwise(chunk.offsets.to_numpy()):
            yield values[start:end]


def _hash_media(item: Any) -> str:
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    if isinstance(item, Mapping) and item.get("bytes"):
        digest.update(item["bytes"])
    elif isinstance(item, Mapping) and item.get("path"):
        digest.update(Path(item["path"]).read_bytes())
    elif isinstance(item, (list, tuple)):  # a video given as its frames
        digest.update(" ".join(_hash_media(frame) for frame in item).encode())
    elif isinstance(item, str):
        digest.update(Path(item).read_bytes())
    else:
        digest.update(f"{item.mode} {item.size}".encode() + item.tobytes())
    return digest.hexdigest()

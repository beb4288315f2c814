"""Names for weights, images and pairs that depend on their content alone.

Hashes of files are remembered by path, size and time of change, so that only what is new is read again.
"""

import hashlib
import itertools
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from huggingface_hub.constants import HF_HOME
from safetensors import safe_open
from tqdm import tqdm

from ..data.columns import undecoded
from ..errors import UniDPOError


DIGEST_BYTES = 16
READ_BYTES = 2**22
ROWS_AT_ONCE = 1000
DECODER = re.compile(r"(^|\.)(language_model|lm_head)\.|^(base_model\.model\.)?(model\.)?(layers|embed_tokens|norm)\.")
SEES = re.compile("visual|vision|projector")
PAIR_COLUMNS = ("chosen_input_ids", "chosen_labels", "rejected_input_ids", "rejected_labels")


class FileHashes:
    """Content hashes of files, remembered in a JSON file between runs."""

    def __init__(self, memory: Path = Path(HF_HOME, "uni_dpo_hashes.json")):
        """Remember in `memory`, which may not exist yet; by default beside the hub's downloads."""
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
        return self.remembered(str(path), [path], lambda: _hash_file(path))

    def remembered(self, name: str, files: Iterable[str | os.PathLike], compute: Callable[[], str]) -> str:
        """Recall what was computed from files, or compute it if one of them has changed since.

        Raises:
            UniDPOError: a file is missing.
        """
        stamp = []
        for file in files:
            try:
                status = os.stat(file)
            except OSError as error:
                raise UniDPOError(
                    f"{file} cannot be read: {error.strerror}. Correct the path, or `media_dir`."
                ) from error
            stamp.append([os.path.abspath(file), status.st_size, status.st_mtime_ns])
        known = self._known.get(name)
        if known is None or known[0] != stamp:
            known = self._known[name] = [stamp, compute()]
        return known[1]

    def save(self) -> None:
        """Write the memory, whole or not at all; where one may not write, nothing is remembered."""
        temporary = self._memory.with_name(f"{self._memory.name}.{os.getpid()}.tmp")
        try:
            self._memory.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(self._known))
            os.replace(temporary, self._memory)
        except OSError:
            temporary.unlink(missing_ok=True)


def hash_text(values: Any) -> str:
    """Hash what JSON can say of `values`, in whatever order."""
    text = json.dumps(values, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=DIGEST_BYTES).hexdigest()


def weights_fingerprint(folder: str | os.PathLike, hashes: FileHashes, tower: bool = False) -> str:
    """Hash a checkpoint's tensors by name, however they are spread over files.

    Args:
        folder: a checkpoint in the format of transformers or PEFT.
        hashes: what is known of files.
        tower: whether the decoder's tensors do not count; a pickled checkpoint, or one whose decoder's names are
            unknown, counts as a whole.

    Raises:
        FileNotFoundError: there are no weights, or not all that its index lists.
    """
    folder = Path(folder)
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
    if not files:
        raise FileNotFoundError(f"{folder} has neither .safetensors nor .bin files.")
    for index in folder.glob(f"*{files[0].suffix}.index.json"):
        absent = set(json.loads(index.read_text())["weight_map"].values()) - {file.name for file in files}
        if absent:
            raise FileNotFoundError(f"{folder} lacks {', '.join(sorted(absent))}.")
    compute = _hash_tensors if files[0].suffix == ".safetensors" else _hash_pickles
    return hashes.remembered(f"{folder.resolve()} {'tower' if tower else ''}", files, lambda: compute(files, tower))


def _hash_tensors(files: list[Path], tower: bool) -> str:
    digest, names = hashlib.blake2b(digest_size=DIGEST_BYTES), {}
    for file in files:
        with safe_open(file, "pt") as tensors:
            names |= {name: file for name in tensors.keys()}  # noqa: SIM118 (it is no mapping)
    if tower:
        names = {name: file for name, file in names.items() if not is_decoders(name)} or names
    for name in tqdm(sorted(names), desc=f"Reading the weights in {files[0].parent.name}", leave=False):
        with safe_open(names[name], "pt") as tensors:
            tensor = tensors.get_tensor(name)
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.flatten().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()


def is_decoders(name: str) -> bool:
    """Tell whether a tensor is of the language model; what sees may stand inside it, and its projector anywhere."""
    return bool(DECODER.search(name)) and not SEES.search(name)


def _hash_pickles(files: list[Path], tower: bool) -> str:
    return hash_text([_hash_file(file) for file in files])


def _hash_file(path: str | os.PathLike) -> str:
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    with open(path, "rb") as file:
        while block := file.read(READ_BYTES):
            digest.update(block)
    return digest.hexdigest()


def media_keys(dataset: Any, column: str, hashes: FileHashes) -> list[list[str]]:
    """Name the images, videos or sounds of every row.

    Args:
        dataset: a `datasets.Dataset` with lists of paths, or of images or bytes as `datasets` keeps them.
        column: `images`, `videos` or `audios`.
        hashes: what is known of files.

    Returns:
        One list a row; the same content has the same name wherever it is.
    """
    if column not in dataset.column_names:
        return [[]] * len(dataset)
    rows, keys = undecoded(dataset, column).select_columns([column]), []
    progress = tqdm(total=len(dataset), desc=f"Reading {column}", leave=False)
    with ThreadPoolExecutor() as pool:  # hashing releases the interpreter
        for batch in rows.iter(ROWS_AT_ONCE):
            keys += pool.map(lambda items: [_media_key(item, hashes) for item in items or []], batch[column])
            progress.update(len(batch[column]))
    progress.close()
    return keys


def moving_media_keys(dataset: Any, hashes: FileHashes, sampling_rate: int) -> list[list[str]]:
    """Name the videos and then the sounds of every row; sounds also by the option `audio_sampling_rate`, in Hz."""
    videos, audios = (media_keys(dataset, column, hashes) for column in ("videos", "audios"))
    return [
        seen + [f"{name} at {sampling_rate}" for name in heard] for seen, heard in zip(videos, audios, strict=True)
    ]


def _media_key(item: Any, hashes: FileHashes) -> str:
    if isinstance(item, str):
        return hashes.of(item)
    if isinstance(item, Mapping):
        content = item.get("bytes")
        return hashes.of(item["path"]) if content is None else hashlib.blake2b(content, digest_size=16).hexdigest()
    return hash_text([_media_key(frame, hashes) for frame in item])  # a video given as its frames


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

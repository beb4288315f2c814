"""Files of MM-RLHF, and the published scored pairs, from their hubs, with the checksums that the hubs state."""

import hashlib
import json
import os
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import Request, urlopen

from tqdm import tqdm

from ..errors import DataError
from .unpack import require_room


REPOSITORY = "yifanzhang114/MM-RLHF"
PAIRS_REPOSITORY, ON_MODELSCOPE = "psp-dada/Uni-DPO", "pspdada/Uni-DPO"
PAIRS = "uni_dpo_image_only_mcq_short_long_50k.json"
ARCHIVES = ("long.zip", "short.zip", "mcq.zip")
ANSWERS = ("data.jsonl", "dpo_pairs.jsonl")
ATTEMPTS = 5
TIMEOUT = 30  # seconds
LONGEST_LIST = 10 << 20  # bytes of a list of files


@dataclass(frozen=True)
class Remote:
    """A file as the hub describes it.

    Attributes:
        name: its name there.
        size: its bytes.
        checksum: SHA-256 in hexadecimal for large files; git's SHA-1 of a blob for small ones.
        repository: the data set that has it, on ModelScope if it is `ON_MODELSCOPE`.
    """

    name: str
    size: int
    checksum: str
    repository: str = REPOSITORY


def describe(names: list[str], folder: Path, repository: str = REPOSITORY) -> list[Remote]:
    """Ask the hub for sizes and checksums of files that are to go into a folder."""
    try:
        listed = _hub().dataset_info(repository, files_metadata=True, timeout=10).siblings
    except Exception as error:  # no network, offline mode, a refusal: each has a class of its own
        raise DataError(_by_hand(names, folder, type(error).__name__, repository)) from error
    there = {file.rfilename: file for file in listed}
    unknown = [name for name in names if name not in there]
    if unknown:
        raise DataError(f"{repository} has no file {unknown[0]}; it has {', '.join(there)}")
    files = [there[name] for name in names]
    return [Remote(it.rfilename, it.size, it.lfs.sha256 if it.lfs else it.blob_id, repository) for it in files]


def describe_pairs(folder: Path) -> Remote:
    """Ask the hubs that have the published pairs, in turn; with LlamaFactory's USE_MODELSCOPE_HUB that one first."""
    first = os.environ.get("USE_MODELSCOPE_HUB", "0").lower() in ("1", "true", "y")
    remote = _pairs_on_modelscope() if first else None
    try:
        return remote or describe([PAIRS], folder, PAIRS_REPOSITORY)[0]
    except DataError:  # it says what to do by hand
        remote = None if first else _pairs_on_modelscope()
        if remote is None:
            raise
        return remote


def fetch(remote: Remote, folder: Path) -> Path:
    """Download a file into a folder unless it is there, continuing an earlier attempt, and check its content."""
    path = _download(remote, folder)
    if path.stat().st_size != remote.size or _checksum(path, remote) != remote.checksum:
        path.unlink()
        raise DataError(
            f"{path}: its content is not what the hub announced ({remote.checksum}), so it was removed. Run the same "
            "command again; if that does not help, something on the way changes files."
        )
    return path


def require_disk(remotes: list[Remote], folder: Path, unpack: bool) -> None:
    """Refuse a download that would fill the disk; images hardly compress, so archives count twice.

    What an earlier run has fetched or unpacked needs no room again.
    """
    needed = -sum(part.stat().st_size for part in folder.glob(".cache/huggingface/download/*.incomplete"))
    for remote in remotes:
        needed += 0 if (folder / remote.name).is_file() else remote.size
        if unpack and remote.name.endswith(".zip"):
            unpacked = (folder / remote.name).with_suffix("").rglob("*")
            needed += max(0, remote.size - sum(path.stat().st_size for path in unpacked if path.is_file()))
    require_room(folder, needed)


def _hub() -> Any:
    from huggingface_hub import HfApi

    return HfApi(os.environ.get("HF_ENDPOINT", "").rstrip("/") or None)


def _download(remote: Remote, folder: Path) -> Path:
    """Download, trying again when the connection breaks; only what is missing is asked for then."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            if remote.repository == ON_MODELSCOPE:
                return _from_modelscope(remote, folder)
            options = {"repo_type": "dataset", "local_dir": folder}
            return Path(_hub().hf_hub_download(remote.repository, remote.name, **options))
        except Exception as error:  # of requests, of httpx, of the hub: it depends on the version
            if attempt == ATTEMPTS:
                raise DataError(
                    f"{remote.name}: the download broke off {ATTEMPTS} times ({error}). The same command continues it."
                ) from error
            tqdm.write(f"{remote.name}: the connection broke ({type(error).__name__}), trying again", file=sys.stderr)
            time.sleep(attempt)


def _checksum(path: Path, remote: Remote) -> str:
    """Compute a checksum of the kind that the hub states: git's own for files outside its large file storage."""
    small = len(remote.checksum) == 40
    digest = hashlib.sha1(f"blob {remote.size}\0".encode()) if small else hashlib.sha256()
    bar = tqdm(total=remote.size, desc=f"checking {remote.name}", unit="B", unit_scale=True)
    with path.open("rb") as file, bar:
        while block := file.read(1 << 22):
            digest.update(block)
            bar.update(len(block))
    return digest.hexdigest()


def _pairs_on_modelscope() -> Remote | None:
    """Ask ModelScope for the published pairs; None if it does not answer, or no network may be used."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return None
    query = {"Revision": "master", "Recursive": "True", "PageNumber": 1, "PageSize": 200}
    try:
        with urlopen(_modelscope("repo/tree", query), timeout=TIMEOUT) as answer:
            data = json.loads(answer.read(LONGEST_LIST))["Data"]
        files = {file["Path"]: file for file in (data["Files"] if isinstance(data, dict) else data)}
        return Remote(PAIRS, int(files[PAIRS]["Size"]), str(files[PAIRS]["Sha256"]), ON_MODELSCOPE)
    except (OSError, ValueError, TypeError, LookupError):
        return None


def _from_modelscope(remote: Remote, folder: Path) -> Path:
    """Download a file's missing bytes; its content is for the caller to check."""
    folder.mkdir(parents=True, exist_ok=True)
    path, part = folder / remote.name, folder / f".{remote.name}.part"
    if path.is_file():
        return path
    have = part.stat().st_size if part.is_file() else 0
    if have < remote.size:
        address = _modelscope("repo", {"Revision": "master", "FilePath": remote.name})
        wanted = Request(address, headers={"Range": f"bytes={have}-"})
        with urlopen(wanted, timeout=TIMEOUT) as answer, part.open("ab" if answer.status == 206 else "wb") as file:
            shutil.copyfileobj(answer, file, 1 << 20)
    if part.stat().st_size < remote.size:
        raise ConnectionError(f"it ended after {part.stat().st_size:,} of {remote.size:,} bytes")
    os.replace(part, path)
    return path


def _modelscope(action: str, query: dict[str, Any]) -> str:
    domain = os.environ.get("MODELSCOPE_DOMAIN") or "www.modelscope.cn"
    endpoint = os.environ.get("MODELSCOPE_ENDPOINT") or f"https://{domain}"
    return f"{endpoint}/api/v1/datasets/{ON_MODELSCOPE}/{action}?{urlencode(query)}"


def _by_hand(names: list[str], folder: Path, reason: str, repository: str) -> str:
    archives = "".join(f" --archive '{folder / name}'" for name in names if name.endswith(".zip"))
    return (
        f"the hub cannot be reached from here ({reason}). Where there is a network:\n"
        f"  hf download {repository} {' '.join(names)} --repo-type dataset --local-dir {folder.name}\n"
        f"Put these files into {folder}{os.sep}"
        + (f" and unpack them with:\n  data.py download{archives}" if archives else "")
    )

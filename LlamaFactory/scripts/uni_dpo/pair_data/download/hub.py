"""Files of MM-RLHF, and the published scored pairs, from their hubs, with the checksums that the hubs state."""

import hashlib
import os
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from ..errors import DataError
from . import modelscope


REPOSITORY = "yifanzhang114/MM-RLHF"
PAIRS_REPOSITORY = "psp-dada/Uni-DPO"
PAIRS = "uni_dpo_image_only_mcq_short_long_50k.json"
ARCHIVES = ("long.zip", "short.zip", "mcq.zip")
ANSWERS = ("data.jsonl", "dpo_pairs.jsonl")
ATTEMPTS = 5
SPARE = 1 << 30  # bytes that stay free on the disk


@dataclass(frozen=True)
class Remote:
    """A file as the hub describes it.

    Attributes:
        name: its name there.
        size: its bytes.
        checksum: SHA-256 in hexadecimal for large files; git's SHA-1 of a blob for small ones.
        repository: the data set that has it.
        on_modelscope: whether that is ModelScope's.
    """

    name: str
    size: int
    checksum: str
    repository: str = REPOSITORY
    on_modelscope: bool = False


def describe(names: list[str], folder: Path, repository: str = REPOSITORY) -> list[Remote]:
    """Ask the hub for sizes and checksums.

    Args:
        names: files of one data set.
        folder: where they are to go, for messages.
        repository: the data set.

    Raises:
        DataError: there is no network, or no such file.
    """
    from huggingface_hub import dataset_info

    try:
        listed = dataset_info(repository, files_metadata=True, timeout=10).siblings  # one request, never repeated
    except Exception as error:  # no network, offline mode, a refusal: each has a class of its own
        raise DataError(_by_hand(names, folder, type(error).__name__, repository)) from error
    there = {file.rfilename: file for file in listed}
    unknown = [name for name in names if name not in there]
    if unknown:
        raise DataError(f"{repository} has no file {unknown[0]}; it has {', '.join(there)}")
    files = [there[name] for name in names]
    return [
        Remote(file.rfilename, file.size, file.lfs.sha256 if file.lfs else file.blob_id, repository) for file in files
    ]


def describe_pairs(folder: Path) -> Remote:
    """Ask the hubs that have the published pairs, in turn; with LlamaFactory's USE_MODELSCOPE_HUB that one first.

    Raises:
        DataError: none of them answers.
    """
    from huggingface_hub import constants

    ask = [lambda: describe([PAIRS], folder, PAIRS_REPOSITORY)[0]]
    if not constants.HF_HUB_OFFLINE:
        ask.append(lambda: Remote(*modelscope.describe(PAIRS), modelscope.REPOSITORY, on_modelscope=True))
    if os.environ.get("USE_MODELSCOPE_HUB", "0").lower() in ("1", "true", "y"):
        ask.reverse()
    problems = []
    for look in ask:
        try:
            return look()
        except DataError as error:
            problems.append(error)
    # The first hub's words say what to do by hand.
    raise max(problems, key=lambda error: "hf download" in str(error))


def fetch(remote: Remote, folder: Path) -> Path:
    """Download a file unless it is there, going on where an earlier attempt stopped, and check its content.

    Args:
        remote: the file.
        folder: where it goes.

    Returns:
        Its place.

    Raises:
        DataError: the connection broke for good, or the content is not what the hub says; a wrong file is removed.
    """
    path = _persist(remote, folder)
    if path.stat().st_size != remote.size or checksum(path, remote) != remote.checksum:
        path.unlink()
        raise DataError(
            f"{path}: its content is not what the hub announced ({remote.checksum}), so it was removed. Run the same "
            "command again; if that does not help, something on the way changes files."
        )
    return path


def _persist(remote: Remote, folder: Path) -> Path:
    """Download, trying again when the connection breaks: the hub's library then asks for the rest only."""
    from huggingface_hub import hf_hub_download

    for attempt in range(1, ATTEMPTS + 1):
        try:
            if remote.on_modelscope:
                return modelscope.download(remote.name, folder, remote.size)
            return Path(hf_hub_download(remote.repository, remote.name, repo_type="dataset", local_dir=folder))
        except Exception as error:  # of requests, of httpx, of the hub: it depends on the version
            if attempt == ATTEMPTS:
                raise DataError(
                    f"{remote.name}: the download broke off {ATTEMPTS} times ({error}). The same command goes on "
                    "where it stopped."
                ) from error
            tqdm.write(f"{remote.name}: the connection broke ({type(error).__name__}), trying again", file=sys.stderr)
            time.sleep(attempt)


def require_disk(remotes: list[Remote], folder: Path, unpack: bool) -> None:
    """Refuse a download that would fill the disk; images hardly compress, so archives count twice.

    Raises:
        DataError: there is not enough room.
    """
    # What an earlier run has fetched and unpacked needs no room again.
    needed = SPARE - sum(part.stat().st_size for part in folder.glob(".cache/huggingface/download/*.incomplete"))
    for remote in remotes:
        needed += 0 if (folder / remote.name).is_file() else remote.size
        if unpack and remote.name.endswith(".zip"):
            unpacked = (folder / remote.name).with_suffix("").rglob("*")
            needed += max(0, remote.size - sum(path.stat().st_size for path in unpacked if path.is_file()))
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DataError(
            f"{folder} has {free / 1e9:.1f} GB free, and {needed / 1e9:.1f} GB are needed. Make room, choose another "
            "disk with --to, or fetch one file at a time with --files and --remove-archives."
        )


def checksum(path: Path, remote: Remote) -> str:
    """Compute a file's checksum of the kind that the hub states for it."""
    small = len(remote.checksum) == 40  # git's own, as for every file that is not in its large file storage
    digest = hashlib.sha1(f"blob {remote.size}\0".encode()) if small else hashlib.sha256()
    with (
        path.open("rb") as file,
        tqdm(total=remote.size, desc=f"checking {remote.name}", unit="B", unit_scale=True) as bar,
    ):
        while block := file.read(1 << 22):
            digest.update(block)
            bar.update(len(block))
    return digest.hexdigest()


def _by_hand(names: list[str], folder: Path, reason: str, repository: str) -> str:
    archives = [folder / name for name in names if name.endswith(".zip")]
    told = [
        f"the hub cannot be reached from here ({reason}). Where there is a network:",
        f"  hf download {repository} {' '.join(names)} --repo-type dataset --local-dir {folder.name}",
        f"Put these files into {folder}{os.sep}",
    ]
    if archives:
        told[-1] += " and unpack them with:"
        told.append("  data.py download" + "".join(f" --archive '{archive}'" for archive in archives))
    return "\n".join(told)

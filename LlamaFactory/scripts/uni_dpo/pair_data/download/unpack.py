"""Unpacking an archive that somebody else made: nothing outside the folder, nothing larger than it says.

All entries are judged before the first is written. `zipfile` itself checks the CRC of what it reads and never reads
more than an entry's declared size.
"""

import os
import re
import shutil
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from tqdm import tqdm

from ..errors import DataError


TOP = "MM-RLHF"
FOLDERS = ("long", "short", "mcq", "safety", "video")  # what MM-RLHF's archives hold
JUNK = ("__MACOSX", ".DS_Store")
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # zipfile unpacks the others whole, in memory
LONGEST_NAME = 240  # bytes of a part of a path, so that there is room for .part
LONGEST_PATH = 1000  # bytes of a path in the archive
LARGEST_ENTRY = 1 << 30  # bytes; the largest image of a data set is a few dozen MB
LARGEST_RATIO = 100  # of a whole archive and of entries above LARGE; images hardly compress at all
LARGE = 1 << 20
SPARE = 1 << 28  # bytes that stay free on the disk
DRIVE = re.compile(r"^[A-Za-z]:")


def unpack(archive: Path, folder: Path) -> int:
    """Unpack an archive of images so that `long.zip` becomes `FOLDER/long/...`, whatever its own top folder is.

    Each file appears when it is complete; files that are there with the right content are left, so that an
    interrupted run goes on where it stopped.

    Args:
        archive: a zip file.
        folder: what stands for `MM-RLHF/`.

    Returns:
        How many files were written.

    Raises:
        DataError: the archive is damaged, or an entry could do harm; then nothing was written.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            files = judge(archive, opened.infolist())
            targets = _targets(archive, files, folder)
            _require_room(archive, targets, folder)
            return _write_all(opened, targets, archive, folder)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise DataError(f"{archive} is damaged ({error}). Download it again.") from error
    except OSError as error:
        raise DataError(f"cannot unpack {archive} into {folder}: {error}") from error


def judge(archive: Path, entries: list[zipfile.ZipInfo]) -> list[zipfile.ZipInfo]:
    """Return the files among the entries of an archive, if all entries are harmless.

    Raises:
        DataError: one is not; the message names it.
    """
    seen, folders = set(), set()
    for info in entries:
        reason = _harm(info)
        if reason is None and info.filename in seen:
            reason = "is there twice"
        if reason:
            raise DataError(f"{archive}: the entry {info.orig_filename!r} {reason}. Nothing was unpacked.")
        seen.add(info.filename)
        folders.update(map(str, PurePosixPath(info.filename).parents))
    files = [info for info in entries if not info.is_dir() and not set(JUNK) & set(info.filename.split("/"))]
    both = next((info.filename for info in files if info.filename in folders), None)
    if both:
        raise DataError(f"{archive}: {both!r} is a file and a folder. Nothing was unpacked.")
    size = archive.stat().st_size
    total = sum(info.file_size for info in files)
    if total > LARGEST_RATIO * size:
        raise DataError(f"{archive}: {size:,} bytes would become {total:,}, as no images do. Nothing was unpacked.")
    return files


def _harm(info: zipfile.ZipInfo) -> str | None:
    """Say what is wrong with an entry, None if nothing is. `orig_filename` is the name before zipfile cut it."""
    name, kind = info.orig_filename, stat.S_IFMT(info.external_attr >> 16)
    parts = name.removesuffix("/").split("/")
    if name.startswith("/") or DRIVE.match(name) or "\\" in name:
        return "is not a relative path"
    if any(part in ("", ".", "..") for part in parts):
        return "leads out of its folder" if ".." in parts else "has an empty part"
    if any(ord(character) < 32 for character in name) or _too_long(name, parts):
        return "has a name that cannot be written"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link" if kind == stat.S_IFLNK else "is not a file"
    if info.flag_bits & 1:
        return "is encrypted"
    if info.compress_type not in METHODS:
        return f"is compressed by method {info.compress_type}, and only 0 and 8 are unpacked here"
    if info.file_size > LARGEST_ENTRY or info.file_size > max(LARGE, LARGEST_RATIO * info.compress_size):
        return f"would become {info.file_size:,} bytes"
    return None


def _too_long(name: str, parts: list[str]) -> bool:
    return len(os.fsencode(name)) > LONGEST_PATH or any(len(os.fsencode(part)) > LONGEST_NAME for part in parts)


def _targets(archive: Path, files: list[zipfile.ZipInfo], folder: Path) -> dict[Path, zipfile.ZipInfo]:
    """Return where each file goes.

    Of the folders that all names share, those up to `MM-RLHF/` and up to one of MM-RLHF's own, `long/`, are taken
    off; where there is none of these, the archive's name stands for it.
    """
    names = [PurePosixPath(info.filename).parts for info in files]
    shared = os.path.commonprefix([name[:-1] for name in names])
    start = len(shared) - shared[::-1].index(TOP) if TOP in shared else 0
    own = next((at for at in range(start, len(shared)) if shared[at] in FOLDERS), None)
    if own is None and {name[start] for name in names} <= set(FOLDERS):  # several of them in one archive
        own = start
    base, start = (folder, own) if own is not None else (folder / archive.stem, start)
    targets = {base.joinpath(*name[start:]): info for name, info in zip(names, files, strict=True)}
    root = folder.resolve()
    for parent in dict.fromkeys(target.parent for target in targets):
        if not parent.resolve().is_relative_to(root):
            raise DataError(f"{parent} leads out of {folder} by a link. Remove the link, or unpack elsewhere: --to.")
    return targets


def _require_room(archive: Path, targets: dict[Path, zipfile.ZipInfo], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    missing = sum(info.file_size for target, info in targets.items() if not _has_size(target, info))
    needed, free = missing + SPARE, shutil.disk_usage(folder).free
    if free < needed:
        raise DataError(f"{archive} needs {needed / 1e9:.1f} GB, and {folder} has {free / 1e9:.1f} GB free.")


def _write_all(opened: zipfile.ZipFile, targets: dict[Path, zipfile.ZipInfo], archive: Path, folder: Path) -> int:
    written, total = 0, sum(info.file_size for info in targets.values())
    with tqdm(total=total, desc=f"unpacking {archive.name}", unit="B", unit_scale=True) as bar:
        for target, info in targets.items():
            if not _is_there(target, info):
                target.parent.mkdir(parents=True, exist_ok=True)
                _write(opened, info, target)
                written += 1
            bar.update(info.file_size)
    return written


def _has_size(target: Path, info: zipfile.ZipInfo) -> bool:
    return target.is_file() and not target.is_symlink() and target.stat().st_size == info.file_size


def _is_there(target: Path, info: zipfile.ZipInfo) -> bool:
    if not _has_size(target, info):
        return False
    with target.open("rb") as file:
        crc = 0
        while block := file.read(1 << 20):
            crc = zlib.crc32(block, crc)
    return crc == info.CRC


def _write(opened: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path) -> None:
    part = target.with_name(f".{target.name}.part")
    part.unlink(missing_ok=True)  # of a run that was cut off, or a link that somebody put there
    try:
        with opened.open(info) as packed, part.open("xb") as file:
            shutil.copyfileobj(packed, file, 1 << 20)
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)

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
JUNK = {"__MACOSX", ".DS_Store"}
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # zipfile unpacks the others whole, in memory
LONGEST_NAME, LONGEST_PATH = 240, 1000  # bytes: of a part of a path, so that there is room for .part, and of a path
LARGEST_ENTRY = 1 << 30  # bytes; the largest image of a data set is a few dozen MB
LARGEST_RATIO = 100  # of a whole archive and of entries above LARGE; images hardly compress at all
LARGE = 1 << 20
SPARE = 1 << 28  # bytes that stay free on the disk
DRIVE = re.compile(r"^[A-Za-z]:")


def unpack(archive: Path, folder: Path) -> int:
    """Unpack an archive of images so that `long.zip` becomes `FOLDER/long/...`, whatever its own top folder is.

    Each file appears when it is complete. Files that are there with the right content stay, so that the same call
    finishes what an interrupted one began.

    Args:
        archive: a zip file.
        folder: what stands for `MM-RLHF/`.

    Returns:
        How many files were written.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            targets = _targets(_harmless(archive, opened.infolist()), archive, folder)
            require_room(folder, sum(it.file_size for path, it in targets.items() if not _has_size(path, it)))
            total, written = sum(info.file_size for info in targets.values()), 0
            with tqdm(total=total, desc=f"unpacking {archive.name}", unit="B", unit_scale=True) as bar:
                for target, info in targets.items():
                    if not _is_there(target, info):
                        _write(opened, info, target)
                        written += 1
                    bar.update(info.file_size)
            return written
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise DataError(f"{archive} is damaged ({error}). Download it again.") from error
    except OSError as error:
        raise DataError(f"cannot unpack {archive} into {folder}: {error}") from error


def require_room(folder: Path, needed: int) -> None:
    """Make a folder, and refuse to fill its disk."""
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < needed + SPARE:
        raise DataError(
            f"{folder} has {free / 1e9:.1f} GB free, and {(needed + SPARE) / 1e9:.1f} GB are needed. Make room, "
            "choose another disk with --to, or fetch one file at a time with --files and --remove-archives."
        )


def _harmless(archive: Path, entries: list[zipfile.ZipInfo]) -> list[zipfile.ZipInfo]:
    """Return the files among the entries of an archive; refuse all of them if one could do harm."""
    names = [info.filename for info in entries]
    folders = {str(folder) for name in names for folder in PurePosixPath(name).parents}
    seen, files, total = set(), [], 0
    for info in entries:
        reason = _harm(info) or ("is there twice" if info.filename in seen else None)
        if not info.is_dir() and info.filename in folders:
            reason = reason or "is a file and a folder"
        if reason:
            raise DataError(f"{archive}: the entry {info.orig_filename!r} {reason}. Nothing was unpacked.")
        seen.add(info.filename)
        if not info.is_dir() and JUNK.isdisjoint(info.filename.split("/")):
            files.append(info)
            total += info.file_size
    size = archive.stat().st_size
    if total > LARGEST_RATIO * size:
        raise DataError(f"{archive}: {size:,} bytes would become {total:,}, as no images do. Nothing was unpacked.")
    return files


def _harm(info: zipfile.ZipInfo) -> str | None:
    """Say what is wrong with an entry, None if nothing is. `orig_filename` is the name before zipfile cut it."""
    name, kind = info.orig_filename, stat.S_IFMT(info.external_attr >> 16)
    parts = name.removesuffix("/").split("/")
    too_long = len(os.fsencode(name)) > LONGEST_PATH or max(len(os.fsencode(it)) for it in parts) > LONGEST_NAME
    bomb = info.file_size > LARGEST_ENTRY or info.file_size > max(LARGE, LARGEST_RATIO * info.compress_size)
    reasons = {
        "is not a relative path": name.startswith("/") or DRIVE.match(name) or "\\" in name,
        "leads out of its folder": ".." in parts,
        "has an empty part": "" in parts or "." in parts,
        "has a name that cannot be written": too_long or any(ord(character) < 32 for character in name),
        "is a link": kind == stat.S_IFLNK,
        "is not a file": kind not in (0, stat.S_IFREG, stat.S_IFDIR),
        "is encrypted": info.flag_bits & 1,
        f"is compressed by method {info.compress_type}, and only 0 and 8 are unpacked here": info.compress_type
        not in METHODS,
        f"would become {info.file_size:,} bytes": bomb,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def _targets(files: list[zipfile.ZipInfo], archive: Path, folder: Path) -> dict[Path, zipfile.ZipInfo]:
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
    for parent in {target.parent for target in targets}:
        if not parent.resolve().is_relative_to(root):
            raise DataError(f"{parent} leads out of {folder} by a link. Remove the link, or unpack elsewhere: --to.")
    return targets


def _has_size(target: Path, info: zipfile.ZipInfo) -> bool:
    return target.is_file() and not target.is_symlink() and target.stat().st_size == info.file_size


def _is_there(target: Path, info: zipfile.ZipInfo) -> bool:
    if not _has_size(target, info):
        return False
    crc = 0
    with target.open("rb") as file:
        while block := file.read(1 << 20):
            crc = zlib.crc32(block, crc)
    return crc == info.CRC


def _write(opened: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    part.unlink(missing_ok=True)  # of a run that was cut off, or a link that somebody put there
    try:
        with opened.open(info) as packed, part.open("xb") as file:
            shutil.copyfileobj(packed, file, 1 << 20)
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)

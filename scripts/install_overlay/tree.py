"""The overlay's own files, what is on disk in their places, and the record an installation leaves behind."""

import hashlib
import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from common import ToolError, replacing, write_json, write_text

from .kinds import KINDS, OWN, Kind
from .target import Target, stated


# What is being prepared beside a file: by `common.replacing`, and by versions of this installer before it.
SCRATCH = (".unfinished", f".{OWN}-tmp")


@dataclass(frozen=True)
class Overlay:
    """The overlay as this repository has it: its folder, and its files by their names in it, with slashes."""

    folder: Path
    files: dict[str, Path]
    kind: Kind

    @classmethod
    def read(cls, folder: Path, kind: Kind) -> "Overlay":
        """List the overlay's files.

        Raises:
            ToolError: The folder is not a whole overlay, or holds a file in a place that is not ours.
        """
        files = {}
        for path in sorted(folder.rglob("*")):
            inside = path.relative_to(folder)
            hidden = any(part.startswith(".") or part == "__pycache__" for part in inside.parts)
            # The recipe has users put pairs and images beside our dataset_info.json.
            download = inside.parts[:2] == ("data", OWN) and inside.name != "dataset_info.json"
            if path.is_file() and not hidden and not download and inside.as_posix() not in kind.loose:
                files[inside.as_posix()] = path
        if kind.seam not in files or f"{kind.ours}/__init__.py" not in files:
            raise ToolError(f"{folder} is not the overlay: {kind.seam} or {kind.ours}/__init__.py is missing")
        strange = [name for name in files if own_folder(name) is None and name not in {kind.seam, *kind.beside}]
        if strange:
            raise ToolError(f"{folder} would replace more of upstream than {kind.seam}: {', '.join(strange)}")
        return cls(folder, files, kind)

    def wanted(self, target: Target, link: bool = False) -> dict[str, Path]:
        """Return what an installation puts where: names to the files (or, linked, folders) they come from.

        The replaced file comes last, so that upstream never imports a package that is not whole yet.
        """
        names = {own_folder(name) or name for name in self.files} if link else set(self.files)
        placed = [*sorted(names - {self.kind.seam}), self.kind.seam]
        return {name: self.folder / name for name in placed if target.locate(name) is not None}

    def folders(self, target: Target) -> list[str]:
        """Return the names of our folders that have a place in a target."""
        return sorted({own_folder(name) for name in self.wanted(target)} - {None})

    @property
    def version(self) -> str:
        """The version of the overlay."""
        return version_of(self.folder / self.kind.ours) or "unknown"


@dataclass
class Record:
    """What was done to one upstream package, kept in a hidden folder beside our package."""

    files: dict[str, list[str]] = field(default_factory=dict)  # name to every content that we may have put there
    replaced: str | None = None  # SHA-256 of the replaced file of upstream, kept beside the record, if it is
    complete: bool = True  # False from before the first change until after the last

    @classmethod
    def load(cls, target: Target) -> "Record | None":
        """Read the record, or return None where there is none, as after `cp -r`."""
        path = target.locate(target.kind.record_folder) / "manifest.json"
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            raise ToolError(f"{path} is damaged ({error})\n  delete it and run the same command again") from error

    def save(self, target: Target) -> None:
        """Write the record; the folder hides itself from git."""
        folder = target.locate(target.kind.record_folder)
        write_text(folder / ".gitignore", "*\n")
        write_json(folder / "manifest.json", vars(self))

    def kept(self, target: Target) -> Path | None:
        """Return the copy of upstream's file if it is there and whole."""
        path = copy_of_seam(target)
        return path if self.replaced is not None and fingerprint(path) == self.replaced else None


def copy_of_seam(target: Target) -> Path:
    """Return where the replaced file of upstream is kept."""
    return target.locate(target.kind.record_folder) / "replaced__init__.py"


def own_folder(name: str) -> str | None:
    """Return the `.../uni_dpo` folder a name lies in (or is), or None for a file outside of these."""
    parts = PurePosixPath(name).parts
    return "/".join(parts[: parts.index(OWN) + 1]) if OWN in parts else None


def fingerprint(path: Path) -> str | None:
    """Return what is at a path: a file's SHA-256, "link TARGET", "folder", or None for nothing."""
    if path.is_symlink():
        return f"link {os.readlink(path)}"
    if path.is_dir():
        return "folder"
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None


def present(target: Target, name: str) -> str | None:
    """Return the fingerprint at an overlay name; what is seen through a linked folder of ours is not there."""
    folder = own_folder(name)
    if folder not in (None, name) and target.locate(folder).is_symlink():
        return None
    return fingerprint(target.locate(name))


def files_in(folder: Path) -> list[Path]:
    """Return the files below a folder, without what Python and interrupted runs leave there."""
    found = [path for path in folder.rglob("*") if not path.is_dir() or path.is_symlink()]
    return [path for path in found if "__pycache__" not in path.parts and not path.name.endswith(SCRATCH)]


def is_our_seam(path: Path) -> bool:
    """Tell whether a replaced file is ours, in any version: upstream's never speaks of our package."""
    if path.is_symlink() and os.readlink(path).endswith(tuple(kind.seam for kind in KINDS.values())):
        return True
    return path.is_file() and OWN.encode() in path.read_bytes()


def version_of(package: Path) -> str | None:
    """Return the `__version__` that our package states."""
    return stated(package / "__init__.py", "__version__")


def place(source: Path, path: Path, link: bool) -> None:
    """Put a copy of, or a link to, `source` at `path` in one step, making the folders above it.

    A copy is executable where its source is, and otherwise gets the permissions of any new file, as with `cp -r`.
    """
    with replacing(path) as scratch:
        if link:
            scratch.symlink_to(source)
            return
        shutil.copyfile(source, scratch)
        if source.stat().st_mode & 0o111:
            mode = scratch.stat().st_mode
            scratch.chmod(mode | (mode & 0o444) >> 2)

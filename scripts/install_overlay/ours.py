"""The overlay's own files, what is in their places in one target, and the record that an installation leaves there."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from common import ToolError, replacing, write_json, write_text

from .kinds import KINDS, OWN, Kind
from .target import Target, stated


NOTHING = (None, "folder")  # where there is no file of ours


@dataclass(frozen=True)
class Overlay:
    """The overlay as this repository has it: its folder, and the names of its files in it, with slashes."""

    folder: Path
    files: tuple[str, ...]
    kind: Kind

    @classmethod
    def read(cls, folder: Path, kind: Kind) -> "Overlay":
        """List the overlay's files, and refuse a folder that lacks some or in which somebody has worked."""
        files = []
        for path in sorted(folder.rglob("*")):
            inside = path.relative_to(folder)
            hidden = any(part.startswith(".") or part == "__pycache__" for part in inside.parts)
            # The recipe has users put pairs and images beside our dataset_info.json.
            download = inside.parts[:2] == ("data", OWN) and inside.name != "dataset_info.json"
            if path.is_file() and not hidden and not download and inside.as_posix() not in kind.loose:
                files.append(inside.as_posix())
        if kind.seam not in files or f"{kind.ours}/__init__.py" not in files:
            raise ToolError(f"{folder} is not the overlay: {kind.seam} or {kind.ours}/__init__.py is missing")
        strange = [name for name in files if own_folder(name) is None and name not in {kind.seam, *kind.beside}]
        if strange:
            raise ToolError(f"{folder} would replace more of upstream than {kind.seam}: {', '.join(strange)}")
        return cls(folder, tuple(files), kind)

    def wanted(self, target: Target, link: bool = False) -> dict[str, "Piece"]:
        """Return what an installation puts where.

        The replaced file comes last, so that upstream never imports a package that is not whole yet.
        """
        names = {own_folder(name) or name for name in self.files} if link else set(self.files)
        placed = [*sorted(names - {self.kind.seam}), self.kind.seam]
        return {name: Piece(self.folder / name, link) for name in placed if target.locate(name) is not None}

    @property
    def version(self) -> str:
        """The version of the overlay."""
        return version_of(self.folder / self.kind.ours) or "unknown"


@dataclass(frozen=True)
class Piece:
    """A file of the overlay to be copied, or a file or folder of it to be linked."""

    source: Path
    link: bool

    @property
    def content(self) -> str:
        """The fingerprint that its place has afterwards."""
        return f"link {self.source}" if self.link else fingerprint(self.source)

    def put(self, path: Path) -> None:
        """Put it at a path in one step, making the folders above it.

        A copy is executable where its source is, and otherwise gets the permissions of any new file, as with `cp -r`.
        """
        with replacing(path) as scratch:
            if self.link:
                scratch.symlink_to(self.source)
                return
            shutil.copyfile(self.source, scratch)
            if self.source.stat().st_mode & 0o111:
                mode = scratch.stat().st_mode
                scratch.chmod(mode | (mode & 0o444) >> 2)


@dataclass
class Record:
    """What was done to one target."""

    files: dict[str, list[str]] = field(default_factory=dict)  # name to every content that we may have put there
    replaced: str | None = None  # SHA-256 of the replaced file of upstream, kept beside the record, if it is
    complete: bool = True  # False from before the first change until after the last


class Installation:
    """What is in the places of ours in one target. The record is in a hidden folder beside our package."""

    def __init__(self, target: Target, overlay: Overlay) -> None:
        """Look at a target."""
        self.target, self.overlay, self.kind = target, overlay, target.kind
        self.seam, self.package = self.path(self.kind.seam), self.path(self.kind.ours)
        self.record_folder = self.path(self.kind.record_folder)
        self._manifest = self.record_folder / "manifest.json"
        self.copy_of_seam = self.record_folder / "replaced__init__.py"
        wanted = overlay.wanted(target)
        self.folders = sorted({own_folder(name) for name in wanted} - {None})
        self.by_hand = not self._manifest.exists()  # with `cp -r`, if at all
        if self.by_hand:
            there = [name for name in wanted if self.content(name) not in NOTHING]
            there = [name for name in there if name != self.kind.seam or is_our_seam(self.seam)]
            self.record = Record({name: [wanted[name].content] for name in there})
        else:
            self.record = self._load()

    def _load(self) -> Record:
        try:
            return Record(**json.loads(self._manifest.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            message = f"{self._manifest} is damaged ({error})\n  delete it and run the same command again"
            raise ToolError(message) from error

    def save(self, record: Record) -> None:
        """Write a record; the folder hides itself from git."""
        write_text(self.record_folder / ".gitignore", "*\n")
        write_json(self._manifest, vars(record))

    def path(self, name: str) -> Path:
        """Return the place of a file of ours."""
        return self.target.locate(name)

    def content(self, name: str) -> str | None:
        """Return the fingerprint at a name; what is seen through a linked folder of ours is not there."""
        return None if self.behind_link(name) else fingerprint(self.path(name))

    def behind_link(self, name: str) -> bool:
        """Tell whether a name leads through a linked folder of ours, into the repository."""
        folder = own_folder(name)
        return folder not in (None, name) and self.path(folder).is_symlink()

    def placed(self) -> set[str]:
        """Return the names of ours that are there: files of the record, and folders of ours that are links."""
        linked = {name for name in self.folders if self.path(name).is_symlink()}
        return linked | {name for name in self.record.files if self.content(name) not in NOTHING}

    def kept(self) -> Path | None:
        """Return the copy of upstream's file if it is there and whole."""
        whole = self.record.replaced is not None and fingerprint(self.copy_of_seam) == self.record.replaced
        return self.copy_of_seam if whole else None

    def foreign(self, names: Iterable[str], ours: Iterable[str]) -> list[Path]:
        """Return what lies in our folders around some names and is neither one of ours nor Python's."""
        known = {self.path(name) for name in ours}
        folders = sorted({self.path(own_folder(name)) for name in names if own_folder(name)})
        return [path for folder in folders if not folder.is_symlink() for path in _files(folder) if path not in known]

    def leftovers(self) -> list[str]:
        """Return the modules in our folders of code that neither the overlay nor the record knows.

        An earlier version of ours has left them, where `cp -r` was used, or somebody has put them there.
        """
        known = {*self.overlay.files, *self.record.files}
        code = [name for name in self.overlay.files if name.endswith(".py") and own_folder(name) in self.folders]
        found = self.foreign(code, [name for name in known if self.target.locate(name)])
        return sorted(self.target.name(path) for path in found if path.suffix == ".py")


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


def is_our_seam(path: Path) -> bool:
    """Tell whether a replaced file is ours, in any version: upstream's never speaks of our package."""
    if path.is_symlink() and os.readlink(path).endswith(tuple(kind.seam for kind in KINDS.values())):
        return True
    return path.is_file() and OWN.encode() in path.read_bytes()


def version_of(package: Path) -> str | None:
    """Return the `__version__` that our package states."""
    return stated(package / "__init__.py", "__version__")


def _files(folder: Path) -> list[Path]:
    """Return the files below a folder, without what Python and interrupted runs leave there."""
    found = [path for path in folder.rglob("*") if not path.is_dir() or path.is_symlink()]
    return [path for path in found if "__pycache__" not in path.parts and not path.name.endswith(".unfinished")]

"""The overlay's own files, what is on disk in their places, and the record an installation leaves behind."""

import hashlib
import json
import os
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from common import ToolError

from .kinds import KINDS, LLAMAFACTORY, OWN, Kind
from .target import Target


SCRATCH = f".{OWN}-tmp"


@dataclass(frozen=True)
class Overlay:
    """The overlay as this repository has it.

    Attributes:
        folder: The `LlamaFactory/` or `VLMEvalKit/` folder.
        files: Name inside the overlay, with slashes, to the file.
        kind: The upstream it is for.
    """

    folder: Path
    files: dict[str, Path]
    kind: Kind = LLAMAFACTORY

    @classmethod
    def read(cls, folder: Path, kind: Kind = LLAMAFACTORY) -> "Overlay":
        """List the overlay's files.

        Raises:
            ToolError: The folder is not a whole overlay, or holds a file in a place that is not ours.
        """
        files = {
            path.relative_to(folder).as_posix(): path
            for path in sorted(folder.rglob("*"))
            if path.is_file()
            and not any(map(is_cache, path.relative_to(folder).parts))
            and not is_download(path, folder)
            and path.relative_to(folder).as_posix() not in kind.loose
        }
        if kind.seam not in files or f"{kind.ours}/__init__.py" not in files:
            raise ToolError(f"{folder} is not the overlay: {kind.seam} or {kind.ours}/__init__.py is missing")
        placed = {kind.seam, *kind.beside}
        strange = [name for name in files if name not in placed and own_folder(name) is None]
        if strange:
            raise ToolError(f"{folder} would replace more of upstream than {kind.seam}: {', '.join(strange)}")
        return cls(folder, files, kind)

    def wanted(self, target: Target, link: bool) -> dict[str, Path]:
        """Return what an installation puts where: names to the files (or, linked, folders) they come from.

        The replaced file comes last, so that upstream never imports a package that is not whole yet.
        """
        names = {own_folder(name) or name for name in self.files} if link else set(self.files)
        placed = sorted(names - {self.kind.seam}) + [self.kind.seam]
        return {name: self.folder / name for name in placed if target.locate(name) is not None}

    @property
    def version(self) -> str:
        """The version of the overlay."""
        return package_version(self.folder / self.kind.ours) or "unknown"


@dataclass
class Record:
    """What was done to one upstream package, kept in a hidden folder beside our package.

    Attributes:
        files: Name to every content we may have put there, as `fingerprint` writes it.
        replaced: Hash of the replaced file of upstream, kept beside the record; None if there was none to keep.
        complete: False from before the first change until after the last.
    """

    files: dict[str, list[str]] = field(default_factory=dict)
    replaced: str | None = None
    complete: bool = True

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
        folder.mkdir(exist_ok=True)
        write(folder / ".gitignore", b"*\n")
        write(folder / "manifest.json", json.dumps(vars(self), indent=1).encode())

    def backup(self, target: Target) -> Path | None:
        """Return the kept file of upstream if it is there and whole."""
        path = target.locate(target.kind.record_folder) / "replaced__init__.py"
        return path if self.replaced is not None and fingerprint(path) == self.replaced else None


def is_download(path: Path, folder: Path) -> bool:
    """Whether a file is data that the user put beside ours: the recipe's pairs and images are told to lie there."""
    data = folder / "data" / OWN
    return data in path.parents and path != data / "dataset_info.json"


def is_cache(part: str) -> bool:
    """Tell whether a part of a path is what tools leave beside source files: a hidden name or Python's cache."""
    return part.startswith(".") or part == "__pycache__"


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
    return hash_of(path.read_bytes()) if path.exists() else None


def hash_of(content: bytes) -> str:
    """Return the SHA-256 of some content, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def present(target: Target, name: str) -> str | None:
    """Return the fingerprint at an overlay name; what is seen through a linked folder of ours is not there."""
    folder = own_folder(name)
    if folder not in (None, name) and target.locate(folder).is_symlink():
        return None
    return fingerprint(target.locate(name))


def is_our_seam(path: Path) -> bool:
    """Tell whether a replaced file is ours, in any version: upstream's never speaks of our package."""
    if path.is_symlink() and os.readlink(path).endswith(tuple(kind.seam for kind in KINDS.values())):
        return True
    return path.is_file() and OWN.encode() in path.read_bytes()


def package_version(package: Path) -> str | None:
    """Return the `__version__` our package states, without importing it."""
    path = package / "__init__.py"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    stated = re.search(r"""^__version__\s*=\s*["']([^"']+)["']""", text, re.MULTILINE)
    return stated.group(1) if stated else None


def write(path: Path, content: bytes) -> None:
    """Write a file so that no reader ever sees half of it."""
    scratch = scratch_beside(path)
    scratch.write_bytes(content)
    os.replace(scratch, path)


def place(source: Path, path: Path, link: bool) -> None:
    """Put a copy of, or a link to, `source` at `path` in one step, making the folders above it.

    A copy is executable where its source is, and otherwise gets the permissions of any new file, as with `cp -r`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = scratch_beside(path)
    if link:
        scratch.symlink_to(source)
    else:
        shutil.copyfile(source, scratch)
        if source.stat().st_mode & 0o111:
            mode = scratch.stat().st_mode
            scratch.chmod(mode | (mode & 0o444) >> 2)
    os.replace(scratch, path)


def scratch_beside(path: Path) -> Path:
    """Return the name under which a file is prepared; one that an interrupted run left there is removed."""
    scratch = path.with_name(f".{path.name}{SCRATCH}")
    scratch.unlink(missing_ok=True)
    return scratch

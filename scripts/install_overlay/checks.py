"""What must hold before anything is changed: nobody's work is lost and no change will fail half way."""

import os
from collections.abc import Iterable
from pathlib import Path

from common import ToolError

from .target import Target
from .tree import (
    SCRATCH,
    Record,
    fingerprint,
    hash_of,
    is_our_seam,
    own_folder,
    present,
)


def refuse_unknown_seam(target: Target) -> None:
    """Refuse to replace a file that is neither upstream's nor ours."""
    seam = target.locate(target.kind.seam)
    if is_our_seam(seam) or fingerprint(seam) in target.kind.upstream_seams:
        return
    content = seam.read_bytes()
    if hash_of(content.replace(b"\r\n", b"\n")) in target.kind.upstream_seams:
        guess = "upstream's own file with Windows line endings"
    elif target.kind.mark in content:
        guess = f"upstream's file edited by hand or by another tool, or that of a {target.kind.title} we have not seen"
    else:
        guess = f"not a file of {target.kind.title}"
    raise ToolError(
        f"{seam} is not a file we know, so it is not replaced\n"
        f"  sha256 {hash_of(content)}\n"
        f"  likely {guess}\n"
        "  look at it; if you can do without what it does, add --force (it is kept, and uninstall brings it back)"
    )


def refuse_edited(target: Target, record: Record, names: Iterable[str]) -> None:
    """Refuse to lose somebody's work in a file of ours. Links hold no work, and upstream's file is not ours."""
    edited = []
    for name in names:
        path, content = target.locate(name), present(target, name)
        upstreams = name == target.kind.seam and not is_our_seam(path)
        if content is None or content == "folder" or path.is_symlink() or upstreams:
            continue
        if content not in record.files.get(name, []):
            edited.append(f"  {path}")
    if edited:
        raise ToolError(
            "these files of the overlay were edited, or come from another version laid over with cp -r:\n"
            + "\n".join(edited)
            + "\n  save what you want to keep and add --force to go on without it"
        )


def refuse_foreign(target: Target, record: Record, names: Iterable[str]) -> None:
    """Refuse to put a link where a folder holds files that are not ours."""
    for name in names:
        foreign = foreign_files(target, record, [name]) if present(target, name) == "folder" else []
        if foreign:
            raise ToolError(
                f"cannot link {target.locate(name)}: it holds files that are not the overlay's\n"
                f"  move them elsewhere or install without --link: {', '.join(map(str, foreign))}"
            )


def foreign_files(target: Target, record: Record, names: Iterable[str]) -> list[Path]:
    """Return what lies in our folders around these names and is neither ours nor Python's."""
    ours = {target.locate(name) for name in record.files}
    folders = sorted({target.locate(own_folder(name)) for name in names if own_folder(name)})
    return [path for folder in folders if not folder.is_symlink() for path in files_in(folder) if path not in ours]


def refuse_unwritable(target: Target, names: Iterable[str]) -> None:
    """Refuse before the first change if any of the changes would fail for want of permission."""
    for name in [*names, target.kind.record_folder]:
        folder = target.locate(name).parent
        while not folder.exists():
            folder = folder.parent
        if not os.access(folder, os.W_OK | os.X_OK):
            raise ToolError(
                f"no permission to write in {folder}\n"
                f"  use an account that may, or a {target.kind.title} of your own (--checkout DIR or --python PATH)"
            )


def files_in(folder: Path) -> list[Path]:
    """Return the files below a folder, without what Python and interrupted runs leave there."""
    found = [path for path in folder.rglob("*") if not path.is_dir() or path.is_symlink()]
    return [path for path in found if "__pycache__" not in path.parts and not path.name.endswith(SCRATCH)]

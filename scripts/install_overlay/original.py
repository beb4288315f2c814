"""The one file of upstream that the overlay replaces: kept beside the record, found again, and given back."""

import os
import shutil
import subprocess

from common import ToolError

from .target import Target
from .tree import SCRATCH, Record, fingerprint, hash_of, is_our_seam, write


def keep_replaced(target: Target, record: Record) -> str | None:
    """Make sure that upstream's file is kept beside the record, and return its hash (None: it cannot be had)."""
    seam = target.locate(target.kind.seam)
    kept = target.locate(target.kind.record_folder) / "replaced__init__.py"
    kept.parent.mkdir(exist_ok=True)
    if not is_our_seam(seam):
        scratch = kept.with_name(kept.name + SCRATCH)
        shutil.copy2(seam, scratch)
        os.replace(scratch, kept)
    elif record.backup(target) is None:
        original = from_git(target)
        if original is None:
            return None
        write(kept, original)
    return fingerprint(kept)


def original_seam(target: Target, record: Record) -> bytes:
    """Return upstream's file, as kept when it was replaced or as the checkout's git has it."""
    kept = record.backup(target)
    original = kept.read_bytes() if kept else from_git(target)
    if original is None:
        kind = target.kind
        if target.checkout is None:
            way = f"pip install --force-reinstall --no-deps {target.pinned}   (with the pip of that Python)"
        else:
            way = f"put the file of {kind.package} {target.version} there (with git: git checkout -- {kind.seam})"
        raise ToolError(
            f"no copy of upstream's own {target.locate(kind.seam)} was kept: the overlay was laid over with cp -r\n"
            f"  get it back with: {way}\n"
            "  and run uninstall once more: it removes the rest"
        )
    return original


def restore(target: Target, record: Record, original: bytes) -> None:
    """Put upstream's file back; the kept one moves, so that its permissions and time come back too."""
    kept = record.backup(target)
    if kept:
        os.replace(kept, target.locate(target.kind.seam))
    else:
        write(target.locate(target.kind.seam), original)


def from_git(target: Target) -> bytes | None:
    """Return upstream's own file from the checkout's git, if that has it."""
    if target.checkout is None or shutil.which("git") is None:
        return None
    command = ["git", "-C", str(target.checkout), "show", f"HEAD:./{target.kind.seam}"]
    content = subprocess.run(command, capture_output=True, check=False).stdout
    return content if hash_of(content) in target.kind.upstream_seams else None

"""Laying the overlay over upstream and taking it off again.

Both directions can be cut off anywhere and be completed by running the same command again: the record is written
before the first change and says what may be found, every file appears in one step, and the file of upstream that is
replaced goes last when installing and comes back first when uninstalling.
"""

import contextlib
import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from hashlib import sha256
from pathlib import Path

from common import ToolError, replacing, scratch_of

from .ours import Installation, Overlay, Piece, Record, fingerprint, is_our_seam, own_folder
from .refusals import check_supported, refuse_edited, refuse_foreign, refuse_unknown_seam, refuse_unwritable
from .strangers import refuse_stranger
from .target import Target


Change = tuple[str, Path]  # what is done ("write", "link", "remove", "restore", "leave"), and to which file


def install(target: Target, overlay: Overlay, *, link: bool | None, force: bool, dry_run: bool) -> list[Change]:
    """Lay the overlay over upstream, or bring an older or broken installation up to date.

    `link` None keeps the kind of what is installed. `force` goes on over files that are not recognised or were edited,
    and removes modules of another version. Returns the changes.
    """
    check_supported(target)
    refuse_stranger(target)
    with locked(target):
        there = Installation(target, overlay)
        link = there.seam.is_symlink() if link is None else link
        wanted = overlay.wanted(target, link)
        changed = [name for name, piece in wanted.items() if there.content(name) != piece.content]
        stale, others = there.placed() - set(wanted), there.leftovers()
        if force or there.by_hand:  # what `cp -r` left is refused or removed with the files beside it
            stale, others = stale.union(others), []
        stale = sorted(stale)
        if not force:
            refuse_unknown_seam(there)
            refuse_edited(there, stale + changed)
        if link:
            refuse_foreign(there, changed, [*there.record.files, *stale])
        plan = _plan(there, {"leave": others, "remove": stale, "link" if link else "write": changed})
        done = Record({name: [piece.content] for name, piece in wanted.items()}, there.record.replaced)
        idle = not stale and not changed and not there.by_hand and there.record == done
        if not dry_run and not idle:  # who may not write here may use what is there
            refuse_unwritable(there, stale + changed)
            _lay_on(there, wanted, changed, stale, done)
        return plan


def _lay_on(there: Installation, wanted: dict[str, Piece], changed: list[str], stale: list[str], done: Record) -> None:
    """Put the files that are missing or differ in their places, and remove those of another version."""
    sweep(there)
    before = there.record
    done.replaced = keep_seam(there)
    names = dict.fromkeys([*before.files, *wanted])
    either = {name: [*before.files.get(name, []), *done.files.get(name, [])] for name in names}
    there.save(Record(either, done.replaced, complete=False))
    for name in stale:
        there.path(name).unlink()
    clear_folders(there.target, [*stale, *changed])
    for name in changed:
        wanted[name].put(there.path(name))
    there.save(done)


def uninstall(target: Target, overlay: Overlay, *, force: bool, dry_run: bool) -> list[Change]:
    """Give upstream its file back and remove everything of ours, whether we or `cp -r` put it there.

    `force` removes files that were edited, and modules of another version, as well. Returns the changes.
    """
    with locked(target):
        there = Installation(target, overlay)
        seam = [target.kind.seam] if is_our_seam(there.seam) else []
        names = sorted((there.placed() | set(there.leftovers() if force else ())) - {target.kind.seam})
        if not force:
            refuse_edited(there, seam + names)
        original = upstreams_seam(there) if seam else None
        plan = _plan(there, {"restore": seam, "remove": names})
        plan += [("leave", path) for path in there.foreign(names, [*there.record.files, *names])]
        if not dry_run:
            refuse_unwritable(there, seam + names)
            _take_off(there, names, original)
        return plan


def _take_off(there: Installation, names: list[str], original: bytes | None) -> None:
    """Put upstream's file back where ours is (None: it is back), and remove the rest and the record."""
    sweep(there)
    if original is not None and there.kept():
        os.replace(there.copy_of_seam, there.seam)  # with the permissions and the time that it had
    elif original is not None:
        with replacing(there.seam) as scratch:
            scratch.write_bytes(original)
    for name in names:
        there.path(name).unlink()
    if there.record_folder.exists():
        shutil.rmtree(there.record_folder)
    clear_folders(there.target, [*names, *there.overlay.files])


def _plan(there: Installation, changes: dict[str, Iterable[str]]) -> list[Change]:
    return [(verb, there.path(name)) for verb, names in changes.items() for name in sorted(names)]


# ---- upstream's own file ----


def keep_seam(there: Installation) -> str | None:
    """Make sure that upstream's file is kept beside the record, and return its hash (None: it cannot be had)."""
    if not is_our_seam(there.seam):
        with replacing(there.copy_of_seam) as scratch:
            shutil.copy2(there.seam, scratch)
    elif there.kept() is None:
        original = from_git(there.target)
        if original is None:
            return None
        with replacing(there.copy_of_seam) as scratch:
            scratch.write_bytes(original)
    return fingerprint(there.copy_of_seam)


def upstreams_seam(there: Installation) -> bytes:
    """Return upstream's file, as kept when it was replaced or as the checkout's git has it."""
    kept, kind, target = there.kept(), there.kind, there.target
    original = kept.read_bytes() if kept else from_git(target)
    if original is None:
        # ms-vlmeval states VLMEvalKit's version in its code, not its own.
        pinned = f"{kind.distribution}=={target.version}" if kind.distribution == kind.package else kind.distribution
        how = f"pip install --force-reinstall --no-deps {pinned}   (with the pip of that Python)"
        if target.checkout is not None:
            how = f"put the file of {kind.package} {target.version} there (with git: git checkout -- {kind.seam})"
        raise ToolError(
            f"no copy of upstream's own {there.seam} was kept: the overlay was laid over with cp -r\n"
            f"  get it back with: {how}\n"
            "  and run uninstall once more: it removes the rest"
        )
    return original


def from_git(target: Target) -> bytes | None:
    """Return upstream's own file from the checkout's git, if that has it."""
    if target.checkout is None or shutil.which("git") is None:
        return None
    command = ["git", "-C", str(target.checkout), "show", f"HEAD:./{target.kind.seam}"]
    content = subprocess.run(command, capture_output=True, check=False).stdout
    return content if sha256(content).hexdigest() in target.kind.upstream_seams else None


# ---- files and folders ----


def sweep(there: Installation) -> None:
    """Remove the half-prepared files of an interrupted run: they lie beside what they were to become."""
    for name in there.record.files:
        if not there.behind_link(name):
            scratch_of(there.path(name)).unlink(missing_ok=True)


def clear_folders(target: Target, names: Iterable[str]) -> None:
    """Remove what is empty, but for Python's caches, of our folders around these names, and above them."""
    for path in {target.locate(own_folder(name) or name) for name in names} - {None}:
        if path.is_dir() and not path.is_symlink():
            for cache in list(path.rglob("__pycache__")):
                shutil.rmtree(cache)
            for folder in sorted((path, *path.rglob("*")), reverse=True):
                remove_if_empty(folder)
        for folder in path.parents:
            if folder == target.root or not remove_if_empty(folder):
                break


def remove_if_empty(path: Path) -> bool:
    """Remove a folder if it is empty or gone already, and tell whether it is gone."""
    if path.is_dir() and not path.is_symlink() and not any(path.iterdir()):
        path.rmdir()
    return not path.exists()


@contextlib.contextmanager
def locked(target: Target) -> Iterator[None]:
    """Let one run at a time change a package. The lock is on its folder, so no lock file stays behind."""
    handle = os.open(target.package, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)

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

from common import ToolError, replacing

from .strangers import refuse_stranger
from .target import Target, check_supported
from .tree import (
    SCRATCH,
    Overlay,
    Record,
    copy_of_seam,
    files_in,
    fingerprint,
    is_our_seam,
    own_folder,
    place,
    present,
)


def install(
    target: Target, overlay: Overlay, *, python: str, link: bool | None, force: bool, dry_run: bool
) -> list[str]:
    """Lay the overlay over upstream, or bring an older or broken installation up to date.

    Args:
        target: The LlamaFactory or VLMEvalKit.
        overlay: Our files.
        python: The interpreter that runs the target, in case it has to be asked.
        link: True to link, False to copy, None to keep the kind of an existing installation.
        force: Replace files that are not recognised or were edited, and remove modules of another version.
        dry_run: Change nothing.

    Returns:
        One line for each change made (or, dry, to be made); none if everything was in place already.

    Raises:
        ToolError: The target does not fit, is no clean one, holds what we must not replace, or cannot be written.
    """
    check_supported(target)
    refuse_stranger(target, python)
    with locked(target):
        record, found = recorded(target, overlay)
        link = target.locate(target.kind.seam).is_symlink() if link is None else link
        sources = overlay.wanted(target, link)
        contents = {name: f"link {source}" if link else fingerprint(source) for name, source in sources.items()}
        changed = [name for name in sources if present(target, name) != contents[name]]
        stale = placed(target, overlay, record) - set(sources)
        others = set(leftovers(target, overlay, record))
        # Without a record they came by `cp -r`, with the files beside them, and are refused or removed with these.
        stale, others = (stale | others, set()) if force or not found else (stale, others)
        stale = sorted(stale)
        if not force:
            refuse_unknown_seam(target)
            refuse_edited(target, record, stale + changed)
        if link:
            refuse_foreign(target, {*record.files, *stale}, changed)
        lines = [f"leave {target.locate(name)} (not this overlay's)" for name in sorted(others)]
        lines += [f"remove {target.locate(name)}" for name in stale]
        lines += [f"{'link' if link else 'write'} {target.locate(name)}" for name in changed]
        if dry_run:
            return lines
        refuse_unwritable(target, stale + changed)
        sweep(target, overlay)
        done = Record({name: [content] for name, content in contents.items()}, record.replaced)
        if not stale and not changed and Record.load(target) == done:
            return lines
        done.replaced = keep_seam(target, record)
        names = dict.fromkeys([*record.files, *contents])
        either = {name: [*record.files.get(name, []), *done.files.get(name, [])] for name in names}
        Record(either, done.replaced, complete=False).save(target)
        for name in stale:
            target.locate(name).unlink()
        clear_folders(target, [*stale, *changed])
        for name in changed:
            place(sources[name], target.locate(name), link)
        done.save(target)
        return lines


def uninstall(target: Target, overlay: Overlay, *, force: bool, dry_run: bool) -> list[str]:
    """Give upstream its file back and remove everything of ours, whether we or `cp -r` put it there.

    Args:
        target: The LlamaFactory or VLMEvalKit.
        overlay: Our files, to know those that `cp -r` laid over without a record.
        force: Remove files that were edited, and modules of another version, as well.
        dry_run: Change nothing.

    Returns:
        One line for each change made (or, dry, to be made); none if there was nothing of ours.

    Raises:
        ToolError: Upstream's file is nowhere to be had, ours were edited, or the target cannot be written.
    """
    kind = target.kind
    with locked(target):
        record, _ = recorded(target, overlay)
        seam = [kind.seam] if is_our_seam(target.locate(kind.seam)) else []
        names = placed(target, overlay, record) - {kind.seam}
        names = sorted(names | (set(leftovers(target, overlay, record)) if force else set()))
        if not force:
            refuse_edited(target, record, seam + names)
        original = upstreams_seam(target, record) if seam else b""
        lines = [f"restore {target.locate(name)}" for name in seam]
        lines += [f"remove {target.locate(name)}" for name in names]
        lines += [f"leave {path} (not the overlay's)" for path in foreign(target, {*record.files, *names}, names)]
        if dry_run:
            return lines
        refuse_unwritable(target, seam + names)
        sweep(target, overlay)
        if seam and (kept := record.kept(target)):
            os.replace(kept, target.locate(kind.seam))  # with the permissions and the time that it had
        elif seam:
            with replacing(target.locate(kind.seam)) as scratch:
                scratch.write_bytes(original)
        for name in names:
            target.locate(name).unlink()
        if target.locate(kind.record_folder).exists():
            shutil.rmtree(target.locate(kind.record_folder))
        clear_folders(target, [*names, *overlay.files])
        return lines


# ---- what is there ----


def recorded(target: Target, overlay: Overlay) -> tuple[Record, bool]:
    """Return the record and True, or what it would be after this overlay came by `cp -r`, and False."""
    record = Record.load(target)
    if record is not None:
        return record, True
    names = {name for name in overlay.wanted(target) if present(target, name) not in (None, "folder")}
    if not is_our_seam(target.locate(target.kind.seam)):
        names.discard(target.kind.seam)
    return Record({name: [fingerprint(overlay.folder / name)] for name in sorted(names)}), False


def placed(target: Target, overlay: Overlay, record: Record) -> set[str]:
    """Return the names of ours that are there: files of the record, and folders of ours that are links."""
    linked = {name for name in overlay.folders(target) if target.locate(name).is_symlink()}
    return linked | {name for name in record.files if present(target, name) not in (None, "folder")}


def leftovers(target: Target, overlay: Overlay, record: Record | None) -> list[str]:
    """Return the modules in our folders of code that neither the overlay nor the record knows.

    An earlier version of ours has left them, where `cp -r` was used, or somebody has put them there.
    """
    known = {*overlay.files, *(record.files if record else ())}
    found = []
    for name in overlay.folders(target):
        folder = target.locate(name)
        code = any(file.startswith(f"{name}/") and file.endswith(".py") for file in overlay.files)
        if code and not folder.is_symlink():
            found += [f"{name}/{path.relative_to(folder).as_posix()}" for path in files_in(folder)]
    return sorted(name for name in found if name.endswith(".py") and name not in known)


def foreign(target: Target, known: set[str], names: Iterable[str]) -> list[Path]:
    """Return what lies in our folders around these names and is neither known nor Python's."""
    ours = {target.locate(name) for name in known}
    folders = sorted({target.locate(own_folder(name)) for name in names if own_folder(name)})
    return [path for folder in folders if not folder.is_symlink() for path in files_in(folder) if path not in ours]


# ---- what must hold before anything is changed ----


def refuse_unknown_seam(target: Target) -> None:
    """Refuse to replace a file that is neither upstream's nor ours."""
    seam = target.locate(target.kind.seam)
    if not is_our_seam(seam) and fingerprint(seam) not in target.kind.upstream_seams:
        raise ToolError(
            f"{seam} is not a file we know, so it is not replaced\n"
            f"  sha256 {fingerprint(seam)}\n"
            f"  it was edited, has other line endings, or is that of a {target.kind.title} we have not seen\n"
            "  look at it; if you can do without what it does, add --force (it is kept, and uninstall brings it back)"
        )


def refuse_edited(target: Target, record: Record, names: Iterable[str]) -> None:
    """Refuse to lose somebody's work in a file of ours. Links hold no work, and upstream's file is not ours."""
    edited = []
    for name in names:
        path, content = target.locate(name), present(target, name)
        upstreams = name == target.kind.seam and not is_our_seam(path)
        ours = content in (None, "folder", *record.files.get(name, [])) or path.is_symlink()
        if not upstreams and not ours:
            edited.append(f"  {path}")
    if edited:
        raise ToolError(
            "these files of the overlay were edited, or come from another version laid over with cp -r:\n"
            + "\n".join(edited)
            + "\n  save what you want to keep and add --force to go on without it"
        )


def refuse_foreign(target: Target, known: set[str], names: Iterable[str]) -> None:
    """Refuse to put a link where a folder holds files that are not ours."""
    for name in names:
        others = foreign(target, known, [name]) if present(target, name) == "folder" else []
        if others:
            raise ToolError(
                f"cannot link {target.locate(name)}: it holds files that are not the overlay's\n"
                f"  move them elsewhere or install without --link: {', '.join(map(str, others))}"
            )


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


# ---- upstream's own file ----


def keep_seam(target: Target, record: Record) -> str | None:
    """Make sure that upstream's file is kept beside the record, and return its hash (None: it cannot be had)."""
    seam, kept = target.locate(target.kind.seam), copy_of_seam(target)
    if not is_our_seam(seam):
        with replacing(kept) as scratch:
            shutil.copy2(seam, scratch)
    elif record.kept(target) is None:
        original = from_git(target)
        if original is None:
            return None
        with replacing(kept) as scratch:
            scratch.write_bytes(original)
    return fingerprint(kept)


def upstreams_seam(target: Target, record: Record) -> bytes:
    """Return upstream's file, as kept when it was replaced or as the checkout's git has it."""
    kept, kind = record.kept(target), target.kind
    original = kept.read_bytes() if kept else from_git(target)
    if original is None:
        # ms-vlmeval states VLMEvalKit's version in its code, not its own.
        pinned = f"{kind.distribution}=={target.version}" if kind.distribution == kind.package else kind.distribution
        how = f"pip install --force-reinstall --no-deps {pinned}   (with the pip of that Python)"
        if target.checkout is not None:
            how = f"put the file of {kind.package} {target.version} there (with git: git checkout -- {kind.seam})"
        raise ToolError(
            f"no copy of upstream's own {target.locate(kind.seam)} was kept: the overlay was laid over with cp -r\n"
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


# ---- folders ----


def sweep(target: Target, overlay: Overlay) -> None:
    """Remove the half-prepared files of an interrupted run: they lie beside what they were to become."""
    folders = {target.locate(name).parent for name in [target.kind.seam, *target.kind.beside] if target.locate(name)}
    folders.add(target.locate(target.kind.record_folder))
    for folder in map(target.locate, overlay.folders(target)):
        inside = [] if folder.is_symlink() else [path for path in folder.rglob("*") if path.is_dir()]
        folders |= {folder.parent, folder, *inside}
    for scratch in [path for folder in folders for path in folder.glob(".*") if path.name.endswith(SCRATCH)]:
        scratch.unlink()


def clear_folders(target: Target, names: Iterable[str]) -> None:
    """Remove what is empty, but for Python's caches, of our folders around these names, and above them."""
    for folder in {target.locate(own_folder(name)) for name in names if own_folder(name)} - {None}:
        for path, _, _ in [] if folder.is_symlink() else os.walk(folder, topdown=False):
            if Path(path).name == "__pycache__":
                shutil.rmtree(path)
            else:
                remove_if_empty(Path(path))
    for path in filter(None, map(target.locate, names)):
        for parent in path.parents:
            if parent == target.root or not remove_if_empty(parent):
                break


def remove_if_empty(folder: Path) -> bool:
    """Remove a folder if it is empty or gone already, and tell whether it is gone."""
    with contextlib.suppress(OSError):
        folder.rmdir()
    return not folder.exists()


@contextlib.contextmanager
def locked(target: Target) -> Iterator[None]:
    """Let one run at a time change a package. The lock is on its folder, so no lock file stays behind."""
    handle = os.open(target.package, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)

"""Laying the overlay over upstream and taking it off again.

Both directions can be cut off anywhere and be completed by running the same command again: the record is written
before the first change and says what may be found, every file appears in one step, and the file of upstream that is
replaced goes last when installing and comes back first when uninstalling.
"""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from .checks import foreign_files, refuse_edited, refuse_foreign, refuse_unknown_seam, refuse_unwritable
from .original import keep_replaced, original_seam, restore
from .strangers import refuse_stranger
from .target import Target, check_supported
from .tree import (
    SCRATCH,
    Overlay,
    Record,
    fingerprint,
    is_our_seam,
    own_folder,
    place,
    present,
)


@dataclass(frozen=True)
class Plan:
    """What an installation has to do.

    Attributes:
        link: Whether names are linked instead of copied.
        sources: Name to the file or folder it comes from, the replaced file last.
        contents: Name to the fingerprint it will have.
        stale: Names to remove: files we no longer ship, or the other kind's.
        changed: Names to write.
    """

    link: bool
    sources: dict[str, Path]
    contents: dict[str, str]
    stale: list[str]
    changed: list[str]


def install(
    target: Target, overlay: Overlay, *, python: str, link: bool | None, force: bool, dry_run: bool
) -> list[str]:
    """Lay the overlay over upstream, or bring an older or broken installation up to date.

    Args:
        target: The LlamaFactory or VLMEvalKit.
        overlay: Our files.
        python: The interpreter that runs the target, in case it has to be asked.
        link: True to link, False to copy, None to keep the kind of an existing installation.
        force: Replace files that are not recognised or were edited.
        dry_run: Change nothing.

    Returns:
        One line for each change made (or, dry, to be made); none if everything was in place already.

    Raises:
        ToolError: The target does not fit, is no clean one, holds what we must not replace, or cannot be written.
    """
    check_supported(target)
    refuse_stranger(target, python)
    with locked(target):
        record = Record.load(target) or adopted(target, overlay)
        plan = planned(target, overlay, record, target.locate(target.kind.seam).is_symlink() if link is None else link)
        touched = plan.stale + plan.changed
        if not force:
            refuse_unknown_seam(target)
            refuse_edited(target, record, touched)
        if plan.link:
            refuse_foreign(target, record, plan.changed)
        lines = [f"remove {target.locate(name)}" for name in plan.stale]
        lines += [f"{'link' if plan.link else 'write'} {target.locate(name)}" for name in plan.changed]
        if not dry_run:
            refuse_unwritable(target, touched)
            carry_out(target, overlay, record, plan)
    return lines


def planned(target: Target, overlay: Overlay, record: Record, link: bool) -> Plan:
    """Compare what should be there with what is there."""
    sources = overlay.wanted(target, link)
    contents = {name: f"link {source}" if link else fingerprint(source) for name, source in sources.items()}
    stale = {name for name in left_of(target, record) if name not in sources}
    stale |= set(linked_folders(target, overlay)) - set(sources)
    changed = [name for name in sources if present(target, name) != contents[name]]
    return Plan(link, sources, contents, sorted(stale), changed)


def carry_out(target: Target, overlay: Overlay, record: Record, plan: Plan) -> None:
    """Make a plan's changes, keeping the record true before, during and after them."""
    done = Record({name: [content] for name, content in plan.contents.items()}, record.replaced)
    sweep(target, overlay)
    if not plan.stale and not plan.changed and Record.load(target) == done:
        return
    done.replaced = keep_replaced(target, record)
    names = dict.fromkeys([*record.files, *plan.contents])
    either = {name: [*record.files.get(name, []), *done.files.get(name, [])] for name in names}
    Record(either, done.replaced, complete=False).save(target)
    for name in plan.stale:
        target.locate(name).unlink()
    clear_folders(target, [*plan.stale, *plan.changed])
    for name in plan.changed:
        place(plan.sources[name], target.locate(name), plan.link)
    done.save(target)


def uninstall(target: Target, overlay: Overlay, *, force: bool, dry_run: bool) -> list[str]:
    """Give upstream its file back and remove everything of ours, whether we or `cp -r` put it there.

    Args:
        target: The LlamaFactory or VLMEvalKit.
        overlay: Our files, to know those that `cp -r` laid over without a record.
        force: Remove files that were edited as well.
        dry_run: Change nothing.

    Returns:
        One line for each change made (or, dry, to be made); none if there was nothing of ours.

    Raises:
        ToolError: Upstream's file is nowhere to be had, ours were edited, or the target cannot be written.
    """
    with locked(target):
        record = Record.load(target) or adopted(target, overlay)
        seam = [target.kind.seam] if is_our_seam(target.locate(target.kind.seam)) else []
        names = sorted({*left_of(target, record), *linked_folders(target, overlay)} - {target.kind.seam})
        if not force:
            refuse_edited(target, record, seam + names)
        original = original_seam(target, record) if seam else b""
        lines = [f"restore {target.locate(name)}" for name in seam]
        lines += [f"remove {target.locate(name)}" for name in names]
        lines += [f"leave {path} (not the overlay's)" for path in foreign_files(target, record, names)]
        if not dry_run:
            refuse_unwritable(target, seam + names)
            sweep(target, overlay)
            if seam:
                restore(target, record, original)
            for name in names:
                target.locate(name).unlink()
            if target.locate(target.kind.record_folder).exists():
                shutil.rmtree(target.locate(target.kind.record_folder))
            clear_folders(target, [*names, *overlay.files])
    return lines


def adopted(target: Target, overlay: Overlay) -> Record:
    """Return the record that an installation by `cp -r` would have left."""
    copies = overlay.wanted(target, link=False)
    there = {name: source for name, source in copies.items() if present(target, name) not in (None, "folder")}
    if not is_our_seam(target.locate(target.kind.seam)):
        there.pop(target.kind.seam, None)
    return Record({name: [fingerprint(source)] for name, source in there.items()})


def left_of(target: Target, record: Record) -> list[str]:
    """Return the names in a record that are there. A folder is not: only the link that was in its place was ours."""
    return [name for name in record.files if present(target, name) not in (None, "folder")]


def linked_folders(target: Target, overlay: Overlay) -> list[str]:
    """Return our folders that are links in the target."""
    folders = {own_folder(name) for name in overlay.wanted(target, link=False)} - {None}
    return [name for name in folders if target.locate(name).is_symlink()]


def sweep(target: Target, overlay: Overlay) -> None:
    """Remove the half-prepared files of an interrupted run: they lie beside what they were to become."""
    folders = {target.locate(target.kind.seam).parent, target.locate(target.kind.record_folder)}
    for name in {own_folder(name) for name in overlay.wanted(target, link=False)} - {None}:
        folder = target.locate(name)
        folders.add(folder.parent)
        if not folder.is_symlink():
            folders.update(path for path in [folder, *folder.rglob("*")] if path.is_dir())
    for folder in folders:
        for scratch in folder.glob(f"*{SCRATCH}"):
            scratch.unlink()


def clear_folders(target: Target, names: Iterable[str]) -> None:
    """Remove what is empty, but for Python's caches, of our folders around these names, and above them."""
    folders = {target.locate(own_folder(name)) for name in names if own_folder(name)} - {None}
    for folder in folders:
        if not folder.is_symlink():
            for path, _, _ in os.walk(folder, topdown=False):
                if Path(path).name == "__pycache__":
                    shutil.rmtree(path)
                else:
                    remove_if_empty(Path(path))
        for parent in folder.parents:
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

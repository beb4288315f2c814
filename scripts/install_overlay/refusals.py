"""What must hold before anything is changed: an upstream that fits, and nobody's work lost."""

import os
import re
import sys
from collections.abc import Iterable

from common import ToolError

from .ours import NOTHING, Installation, fingerprint, is_our_seam
from .target import Target


def check_supported(target: Target) -> None:
    """Refuse an upstream that lacks something the overlay takes hold of, or, without upstream's switch, is too old."""
    version, kind = target.version, target.kind
    if version is None:
        raise ToolError(
            f"{target.package} is not a complete {kind.package}: {kind.version_file} states no version\n"
            f"  reinstall it (pip install --force-reinstall --no-deps {kind.distribution}), then install the overlay"
        )
    where = f"{kind.package} {version} in {target.package}"
    if _sortable(version) < _sortable(kind.oldest):
        old = f"{where} is too old: the overlay needs {kind.oldest} or newer"
        if os.environ.get("DISABLE_VERSION_CHECK", "").lower() not in ("1", "y", "true"):
            raise ToolError(f"{old}\n  DISABLE_VERSION_CHECK=1 tries it all the same")
        print(f"warning: {old}; going on, as DISABLE_VERSION_CHECK is set", file=sys.stderr)
    missing = [f"  {text or 'the file'} ({file})" for file, text in kind.needed if not _has(target, file, text)]
    if missing:
        raise ToolError(f"the overlay does not fit {where}; not found there:\n" + "\n".join(missing))


def _has(target: Target, file: str, text: str) -> bool:
    """Tell whether a file holds a text; for no text, whether it is there at all, if only as a broken link of ours."""
    path = target.package / file
    return path.is_file() and text in path.read_text(encoding="utf-8") if text else os.path.lexists(path)


def _sortable(version: str) -> tuple[int, ...]:
    """Order versions well enough to tell which is older: a pre-release comes before its release."""
    numbers = re.match(r"\d+(?:\.\d+)*", version)
    parts = [int(part) for part in numbers.group().split(".")] if numbers else [0]
    released = not re.search(r"(dev|a|b|rc)\d*", version)
    return (*parts, *[0] * (3 - len(parts)), int(released))


def refuse_unknown_seam(there: Installation) -> None:
    """Refuse to replace a file that is neither upstream's nor ours."""
    seam, kind = there.seam, there.kind
    if not is_our_seam(seam) and fingerprint(seam) not in kind.upstream_seams:
        raise ToolError(
            f"{seam} is not a file we know, so it is not replaced\n"
            f"  sha256 {fingerprint(seam)}\n"
            f"  it was edited, has other line endings, or is that of a {kind.title} we have not seen\n"
            "  look at it; if you can do without what it does, add --force (it is kept, and uninstall brings it back)"
        )


def refuse_edited(there: Installation, names: Iterable[str]) -> None:
    """Refuse to lose somebody's work in a file of ours. Links hold no work, and upstream's file is not ours."""
    edited = []
    for name in names:
        path, content = there.path(name), there.content(name)
        upstreams = path == there.seam and not is_our_seam(path)
        ours = path.is_symlink() or content in (*NOTHING, *there.record.files.get(name, []))
        if not upstreams and not ours:
            edited.append(f"  {path}")
    if edited:
        raise ToolError(
            "these files of the overlay were edited, or come from another version laid over with cp -r:\n"
            + "\n".join(edited)
            + "\n  save what you want to keep and add --force to go on without it"
        )


def refuse_foreign(there: Installation, names: Iterable[str], ours: Iterable[str]) -> None:
    """Refuse to put a link where a folder holds files that are not ours."""
    for name in names:
        others = there.foreign([name], ours) if there.content(name) == "folder" else []
        if others:
            raise ToolError(
                f"cannot link {there.path(name)}: it holds files that are not the overlay's\n"
                f"  move them elsewhere or install without --link: {', '.join(map(str, others))}"
            )


def refuse_unwritable(there: Installation, names: Iterable[str]) -> None:
    """Refuse before the first change if any of the changes would fail for want of permission."""
    for path in [*map(there.path, names), there.record_folder]:
        folder = next(folder for folder in path.parents if folder.exists())
        if not os.access(folder, os.W_OK | os.X_OK):
            raise ToolError(
                f"no permission to write in {folder}\n"
                f"  use an account that may, or a {there.kind.title} of your own (--checkout DIR or --python PATH)"
            )

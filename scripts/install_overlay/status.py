"""Saying which LlamaFactory or VLMEvalKit each command uses and whether it is patched."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from common import ToolError

from .kinds import Kind
from .strangers import edited, found_in, refusal
from .target import Target, from_checkout, from_python, interpreter_of
from .tree import (
    Overlay,
    Record,
    fingerprint,
    is_our_seam,
    package_version,
    present,
)


AGAIN = "run install to complete it"


@dataclass(frozen=True)
class Finding:
    """The answer about one upstream package: whether it is patched, and how or why not."""

    patched: bool
    text: str


def diagnose(target: Target, overlay: Overlay) -> Finding:
    """Tell whether an upstream package is patched: no, copied, linked, or half and why."""
    if target.version is None:
        return Finding(
            False, f"half: {target.kind.package} itself was removed; install that again, or uninstall the overlay"
        )
    record = Record.load(target)
    package, seam = target.locate(target.kind.ours), target.locate(target.kind.seam)
    ours, whole = is_our_seam(seam), (package / "__init__.py").is_file()
    if ours and not whole:
        return Finding(False, f"half: the replaced file is in place but {package} is missing; {AGAIN}")
    if not ours and not whole and not package.is_symlink():
        known = fingerprint(seam) in target.kind.upstream_seams
        return Finding(False, "no" if known else f"no, and {seam} is not upstream's own file")
    if not ours:
        return Finding(False, f"half: {package} is there, but {seam} is not ours: {_why_not_ours(target, record)}")
    if record and not record.complete:
        return Finding(False, f"half: an installation was interrupted; {AGAIN}")
    expected = record.files if record else overlay.files
    missing = [name for name in expected if name.startswith(target.kind.inside) and _gone(target, name)]
    if missing:
        return Finding(False, f"half: missing {', '.join(missing)}; {AGAIN}")
    return Finding(True, _kind(target, overlay, record))


def _why_not_ours(target: Target, record: Record | None) -> str:
    if record is None or not record.complete or record.backup(target) is None:
        return f"an installation or removal was interrupted; {AGAIN}, or uninstall"
    return f"{target.kind.package} was reinstalled or upgraded over the overlay; run install to patch it again"


def _gone(target: Target, name: str) -> bool:
    """Tell whether a file that should be there is not, or is a link to nothing."""
    linked = target.locate(target.kind.ours).is_symlink() and name != target.kind.seam
    return not target.locate(name).exists() if linked else present(target, name) is None


def _kind(target: Target, overlay: Overlay, record: Record | None) -> str:
    """Describe a whole installation: copied or linked, its version, and whether it equals this overlay."""
    package = target.locate(target.kind.ours)
    version = package_version(package) or "without a version"
    if package.is_symlink():
        return f"yes, linked to {os.readlink(package)} ({version})"
    by = "" if record else " by cp -r"
    copies = overlay.wanted(target, link=False)
    different = [name for name, source in copies.items() if present(target, name) != fingerprint(source)]
    if different:
        return f"yes, copied{by} ({version}), but {len(different)} files differ from this overlay ({overlay.version})"
    return f"yes, copied{by} ({version})"


def judged(target: Target, finding: Finding, python: str) -> tuple[Finding, list[str]]:
    """Add what the upstream is that the overlay lies or would lie on; where that is no clean one, nothing trains.

    Returns:
        The finding, and lines on what training does not mind.
    """
    found, untried = found_in(target, python)
    if found:
        return Finding(False, f"{finding.text}, but nothing trains\n  {refusal(target, found)}"), []
    notes, edits = [], edited(target)
    if untried:
        notes.append(f"  untried  {untried}")
    if edits:
        more = f" and {len(edits) - 3} more" if len(edits) > 3 else ""
        notes.append(f"  edited   {', '.join(edits[:3])}{more}; training goes on")
    return finding, notes


def report(overlay: Overlay, python: str, checkout: Path | None) -> tuple[list[str], Finding | None]:
    """Look at everything that can start a run here.

    Args:
        overlay: Our files.
        python: The interpreter to ask about.
        checkout: The checkout to ask about, if any.

    Returns:
        The lines to print, and the finding about what was asked: the checkout if one was given, else the interpreter;
        None if there is none of upstream there.
    """
    lines = [f"overlay {overlay.version}: {overlay.folder}"]
    findings = []
    for title, find in _ways(overlay.kind, python, checkout):
        lines += ["", title]
        try:
            target = find()
            finding, notes = judged(target, diagnose(target, overlay), python)
            findings.append(finding)
        except ToolError as error:
            findings.append(None)
            lines.append(f"  {error}")
            continue
        version = target.version or "(incomplete)"
        lines.append(f"  uses     {target.kind.package} {version} in {target.package} ({target.found})")
        lines.append(f"  patched  {finding.text}")
        lines += notes
    command = overlay.kind.command
    if command is not None and shutil.which(command) is None:
        lines += ["", f"{command} on PATH: none; activate the environment or give the full path"]
    return lines, findings[0]


def _ways(kind: Kind, python: str, checkout: Path | None) -> list[tuple[str, Callable[[], Target]]]:
    """List the ways to start upstream here, the one asked about first, each with how to find what it uses."""
    python = Path(shutil.which(python) or python)
    ways = [(f"python {python}", partial(from_python, python, kind))]
    for script, where in _scripts(kind, python).items():
        ways.append((f"{kind.command} {where}: {script}", partial(_of_script, script, kind)))
    if checkout is not None:
        ways.insert(0, (f"python {kind.script} in {checkout}", partial(from_checkout, checkout, kind)))
    elif Path(kind.inside).is_dir():
        ways.append((f"python {kind.script} in {Path.cwd()}", partial(from_checkout, Path.cwd(), kind)))
    return ways


def _scripts(kind: Kind, python: Path) -> dict[Path, str]:
    """Return the console scripts that start upstream, if it has any, and where they are."""
    if kind.command is None:
        return {}
    beside, on_path = python.parent / kind.command, shutil.which(kind.command)
    scripts = {beside: "beside it"} if beside.is_file() else {}
    if on_path is not None:
        path = Path(on_path)
        scripts[path] = f"{scripts[path]} and on PATH" if path in scripts else "on PATH"
    return scripts


def _of_script(script: Path, kind: Kind) -> Target:
    return from_python(interpreter_of(script), kind)

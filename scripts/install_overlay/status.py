"""Saying which LlamaFactory or VLMEvalKit each command uses and whether it is patched."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from common import ToolError

from .kinds import Kind
from .ours import Installation, Overlay, fingerprint, is_our_seam, version_of
from .strangers import edited, found_in, judge
from .target import Target, from_checkout, from_python, from_script


AGAIN = "run install to complete it"


@dataclass(frozen=True)
class Finding:
    """The answer about one package: whether it is patched, how or why not, and notes."""

    patched: bool
    text: str
    notes: tuple[str, ...] = ()


def diagnose(there: Installation) -> Finding:
    """Tell whether an upstream package is patched: no, copied, linked, or half and why."""
    why_half = _what_is_half(there)
    if why_half:
        return Finding(False, f"half: {why_half}")
    if is_our_seam(there.seam):
        return Finding(True, f"yes, {_how(there)}")
    upstreams = fingerprint(there.seam) in there.kind.upstream_seams
    return Finding(False, "no" if upstreams else f"no, and {there.seam} is not upstream's own file")


def _what_is_half(there: Installation) -> str:
    """Say what is missing of an installation, or of its removal; empty if it is whole or there is none."""
    kind, package = there.kind, there.package
    if there.target.version is None:
        return f"{kind.package} itself was removed; install that again, or uninstall the overlay"
    whole = (package / "__init__.py").is_file()
    if not is_our_seam(there.seam):
        if not whole and not package.is_symlink():
            return ""
        why = f"{kind.package} was reinstalled or upgraded over the overlay; run install to patch it again"
        if there.by_hand or not there.record.complete or there.kept() is None:
            why = f"an installation or removal was interrupted; {AGAIN}, or uninstall"
        return f"{package} is there, but {there.seam} is not ours: {why}"
    if not whole:
        return f"the replaced file is in place but {package} is missing; {AGAIN}"
    if not there.record.complete:
        return f"an installation was interrupted; {AGAIN}"
    expected = there.overlay.files if there.by_hand else there.record.files
    missing = [name for name in expected if name.startswith(kind.inside) and not _is_there(there, name)]
    return f"missing {', '.join(missing)}; {AGAIN}" if missing else ""


def _is_there(there: Installation, name: str) -> bool:
    """Tell whether a file that should be there is, and is no link to nothing."""
    linked = there.package.is_symlink() and name != there.kind.seam
    return there.path(name).exists() if linked else there.content(name) is not None


def _how(there: Installation) -> str:
    """Describe a whole installation: copied or linked, its version, and whether it equals this overlay."""
    version, ours = version_of(there.package) or "without a version", there.overlay
    if there.package.is_symlink():
        return f"linked to {os.readlink(there.package)} ({version})"
    text = f"copied{' by cp -r' if there.by_hand else ''} ({version})"
    wanted = ours.wanted(there.target)
    different = [name for name, piece in wanted.items() if there.content(name) != piece.content]
    return text + (f", but {len(different)} files differ from this overlay ({ours.version})" if different else "")


def look_at(target: Target, overlay: Overlay) -> Finding:
    """Diagnose a package and judge what it lies on; on an upstream that is no clean one, nothing trains."""
    there = Installation(target, overlay)
    finding = diagnose(there)
    found, untried = found_in(target)
    if found:
        return Finding(False, f"{finding.text}, but nothing trains\n  {judge().refusal(target.package, found)}")
    notes = [f"  untried  {untried}"] if untried else []
    if edits := edited(target):
        more = f" and {len(edits) - 3} more" if len(edits) > 3 else ""
        notes.append(f"  edited   {', '.join(edits[:3])}{more}; training goes on")
    if others := there.leftovers():
        notes.append("  unknown  left by another version of the overlay, or yours (install --force removes them):")
        notes += [f"    {name}" for name in others]
    return replace(finding, notes=tuple(notes))


def report(overlay: Overlay, python: str, checkout: Path | None) -> tuple[list[str], Finding | None]:
    """Look at everything that can start a run here.

    Returns:
        The lines to print, and the finding about what was asked: the checkout if one was given, else the interpreter;
        None if there is none of upstream there.
    """
    lines = [f"overlay {overlay.version}: {overlay.folder}"]
    findings = []
    for title, find in _starters(overlay.kind, python, checkout):
        lines += ["", title]
        try:
            target = find()
            finding = look_at(target, overlay)
        except ToolError as error:
            findings.append(None)
            lines.append(f"  {error}")
            continue
        findings.append(finding)
        version = target.version or "(incomplete)"
        lines.append(f"  uses     {target.kind.package} {version} in {target.package} ({target.found})")
        lines += [f"  patched  {finding.text}", *finding.notes]
    command = overlay.kind.command
    if command is not None and shutil.which(command) is None:
        lines += ["", f"{command} on PATH: none; activate the environment or give the full path"]
    return lines, findings[0]


def _starters(kind: Kind, python: str, checkout: Path | None) -> list[tuple[str, Callable[[], Target]]]:
    """List what starts upstream here, the one asked about first, each with how to find the package that it uses."""
    python = Path(shutil.which(python) or python)
    scripts: dict[Path, str] = {}
    if kind.command is not None:
        beside, on_path = python.parent / kind.command, shutil.which(kind.command)
        if beside.is_file():
            scripts[beside] = "beside it"
        if on_path is not None:
            scripts[Path(on_path)] = "beside it and on PATH" if Path(on_path) in scripts else "on PATH"
    starters = [(f"python {python}", partial(from_python, python, kind))]
    for script, where in scripts.items():
        starters.append((f"{kind.command} {where}: {script}", partial(from_script, script, kind)))
    if checkout is not None:
        starters.insert(0, (f"python {kind.script} in {checkout}", partial(from_checkout, checkout, kind)))
    elif Path(kind.inside).is_dir():
        starters.append((f"python {kind.script} in {Path.cwd()}", partial(from_checkout, Path.cwd(), kind)))
    return starters

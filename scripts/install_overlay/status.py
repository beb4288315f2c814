"""Saying which LlamaFactory or VLMEvalKit each command uses and whether it is patched."""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from common import ToolError

from .changes import leftovers
from .kinds import Kind
from .strangers import edited, found_in, judge
from .target import Target, from_checkout, from_python, interpreter_of
from .tree import Overlay, Record, fingerprint, is_our_seam, present, version_of


AGAIN = "run install to complete it"


@dataclass(frozen=True)
class Finding:
    """The answer about one upstream package: whether it is patched, and how or why not."""

    patched: bool
    text: str


def diagnose(target: Target, overlay: Overlay) -> Finding:
    """Tell whether an upstream package is patched: no, copied, linked, or half and why."""
    half = partial(Finding, False)
    kind = target.kind
    if target.version is None:
        return half(f"half: {kind.package} itself was removed; install that again, or uninstall the overlay")
    record = Record.load(target)
    package, seam = target.locate(kind.ours), target.locate(kind.seam)
    ours, whole = is_our_seam(seam), (package / "__init__.py").is_file()
    if ours and not whole:
        return half(f"half: the replaced file is in place but {package} is missing; {AGAIN}")
    if not ours and not whole and not package.is_symlink():
        return half("no" if fingerprint(seam) in kind.upstream_seams else f"no, and {seam} is not upstream's own file")
    if not ours:
        why = f"{kind.package} was reinstalled or upgraded over the overlay; run install to patch it again"
        if record is None or not record.complete or record.kept(target) is None:
            why = f"an installation or removal was interrupted; {AGAIN}, or uninstall"
        return half(f"half: {package} is there, but {seam} is not ours: {why}")
    if record and not record.complete:
        return half(f"half: an installation was interrupted; {AGAIN}")
    expected = record.files if record else overlay.files
    missing = [name for name in expected if name.startswith(kind.inside) and _gone(target, name)]
    if missing:
        return half(f"half: missing {', '.join(missing)}; {AGAIN}")
    return Finding(True, _how(target, overlay, record))


def _gone(target: Target, name: str) -> bool:
    """Tell whether a file that should be there is not, or is a link to nothing."""
    linked = target.locate(target.kind.ours).is_symlink() and name != target.kind.seam
    return not target.locate(name).exists() if linked else present(target, name) is None


def _how(target: Target, overlay: Overlay, record: Record | None) -> str:
    """Describe a whole installation: copied or linked, its version, and whether it equals this overlay."""
    package = target.locate(target.kind.ours)
    version = version_of(package) or "without a version"
    if package.is_symlink():
        return f"yes, linked to {os.readlink(package)} ({version})"
    text = f"yes, copied{'' if record else ' by cp -r'} ({version})"
    different = [
        name for name, source in overlay.wanted(target).items() if present(target, name) != fingerprint(source)
    ]
    return text + (f", but {len(different)} files differ from this overlay ({overlay.version})" if different else "")


def looked_at(target: Target, overlay: Overlay, python: str) -> tuple[Finding, list[str]]:
    """Diagnose a package and judge what it lies on; on an upstream that is no clean one, nothing trains.

    Returns:
        The finding, and lines on what training does not mind.
    """
    finding = diagnose(target, overlay)
    found, untried = found_in(target, python)
    if found:
        return Finding(False, f"{finding.text}, but nothing trains\n  {judge().refusal(target.package, found)}"), []
    notes = [f"  untried  {untried}"] if untried else []
    if edits := edited(target):
        more = f" and {len(edits) - 3} more" if len(edits) > 3 else ""
        notes.append(f"  edited   {', '.join(edits[:3])}{more}; training goes on")
    if others := leftovers(target, overlay, Record.load(target)):
        notes.append("  unknown  left by another version of the overlay, or yours (install --force removes them):")
        notes += [f"    {name}" for name in others]
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
    for title, find in _starters(overlay.kind, python, checkout):
        lines += ["", title]
        try:
            target = find()
            finding, notes = looked_at(target, overlay, python)
        except ToolError as error:
            findings.append(None)
            lines.append(f"  {error}")
            continue
        findings.append(finding)
        version = target.version or "(incomplete)"
        lines.append(f"  uses     {target.kind.package} {version} in {target.package} ({target.found})")
        lines += [f"  patched  {finding.text}", *notes]
    command = overlay.kind.command
    if command is not None and shutil.which(command) is None:
        lines += ["", f"{command} on PATH: none; activate the environment or give the full path"]
    return lines, findings[0]


def _starters(kind: Kind, python: str, checkout: Path | None) -> list[tuple[str, Callable[[], Target]]]:
    """List what starts upstream here, the one asked about first, each with how to find the package that it uses."""
    python = Path(shutil.which(python) or python)
    starters = [(f"python {python}", partial(from_python, python, kind))]
    scripts = {}
    if kind.command is not None:
        beside, on_path = python.parent / kind.command, shutil.which(kind.command)
        if beside.is_file():
            scripts[beside] = "beside it"
        if on_path is not None:
            scripts[Path(on_path)] = "beside it and on PATH" if Path(on_path) in scripts else "on PATH"
    for script, where in scripts.items():
        find = partial(lambda script: from_python(interpreter_of(script), kind), script)
        starters.append((f"{kind.command} {where}: {script}", find))
    if checkout is not None:
        starters.insert(0, (f"python {kind.script} in {checkout}", partial(from_checkout, checkout, kind)))
    elif Path(kind.inside).is_dir():
        starters.append((f"python {kind.script} in {Path.cwd()}", partial(from_checkout, Path.cwd(), kind)))
    return starters

"""Whether the LlamaFactory to be patched is one that the overlay can stand on, and what else its owner has edited."""

import functools
import importlib.util
import shutil
import subprocess
import sys
from base64 import urlsafe_b64encode
from hashlib import sha256
from importlib.metadata import distributions
from pathlib import Path
from types import ModuleType

from common import ToolError

from .kinds import LLAMAFACTORY, OWN
from .target import Target


UNDERNEATH = (LLAMAFACTORY.overlay / LLAMAFACTORY.ours / LLAMAFACTORY.states).with_name("underneath.py")
UNTRIED = "its get_batch_logps is not upstream's; training tries it at its start"


def found_in(target: Target) -> tuple[list[str], str]:
    """Judge a LlamaFactory as training does at its start, but without running any of it.

    Returns what is wrong with it, one phrase each, and what could not be judged; empty if there is nothing, as for a
    VLMEvalKit.
    """
    if target.kind is not LLAMAFACTORY:
        return [], ""
    found = judge().taken(target.package)
    return found, "" if found or judge().logps_are_known(target.package) else UNTRIED


def refuse_stranger(target: Target) -> None:
    """Refuse a LlamaFactory that has a Uni-DPO already. `--force` does not help."""
    found, untried = found_in(target)
    if found:
        raise ToolError(judge().refusal(target.package, found))
    if untried:
        print(f"note: {untried}", file=sys.stderr)


@functools.cache
def judge() -> ModuleType:
    """Load the overlay's own judge by its path, as it has nothing but the standard library at its top."""
    spec = importlib.util.spec_from_file_location("underneath", UNDERNEATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def edited(target: Target) -> list[str]:
    """Return upstream's own files that differ from what pip installed or git has, as far as these know them."""
    names = _edited_of_pip(target) if target.checkout is None else _edited_of_git(target.checkout, target.kind.inside)
    return [name for name in names if target.locate(target.kind.seam) != target.root / name and OWN not in name]


def _edited_of_pip(target: Target) -> list[str]:
    """Compare with the hashes that pip keeps."""
    found = distributions(name=target.kind.distribution, path=[str(target.root)])
    kept = [file for installed in found for file in installed.files or () if file.hash]
    kept = [file for file in kept if file.parts[0] == target.kind.package]
    return [file.as_posix() for file in kept if _digest(Path(file.locate())) != file.hash.value]


def _digest(path: Path) -> str:
    content = path.read_bytes() if path.is_file() else b""
    return urlsafe_b64encode(sha256(content).digest()).decode().rstrip("=")


def _edited_of_git(root: Path, inside: str) -> list[str]:
    if shutil.which("git") is None:
        return []
    command = ["git", "-C", str(root), "diff", "--name-only", "--relative", "HEAD", "--", inside]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()

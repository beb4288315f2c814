"""Whether the LlamaFactory to be patched is one that the overlay can stand on, and what else its owner has edited."""

import functools
import importlib.util
import os
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

# Runs where that LlamaFactory runs, and only for a function that we do not know. The last line is the answer.
TRIAL = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("underneath", sys.argv[1])
underneath = importlib.util.module_from_spec(spec)
spec.loader.exec_module(underneath)
from llamafactory.train.dpo import trainer
print("\\n" + underneath.wrong_sums(trainer.get_batch_logps))
"""


def found_in(target: Target, python: str) -> tuple[list[str], str]:
    """Judge a LlamaFactory as training does at its start.

    Args:
        target: The LlamaFactory; of a VLMEvalKit there is nothing to judge.
        python: The interpreter to try its function in, where that is not upstream's word for word.

    Returns:
        What is wrong with it, one phrase each, and why something could not be tried; empty if there is nothing.
    """
    if target.kind is not LLAMAFACTORY:
        return [], ""
    found = judge().taken(target.package)
    if found or judge().logps_are_known(target.package):
        return found, ""
    wrong, why = _tried(target.package, python)
    untried = f"its get_batch_logps is not upstream's; training tries it at its start ({why})" if why else ""
    return [wrong] if wrong else [], untried


def refuse_stranger(target: Target, python: str) -> None:
    """Refuse a LlamaFactory that has a Uni-DPO already, or whose log-probs are no sums. `--force` does not help."""
    found, untried = found_in(target, python)
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


@functools.cache
def _tried(package: Path, python: str) -> tuple[str, str]:
    """Return what is wrong with the package's function, and why it could not be tried."""
    environment = os.environ | {"PYTHONPATH": str(package.parent), "DISABLE_VERSION_CHECK": "1"}
    how = {"cwd": package.parent, "env": environment, "capture_output": True, "text": True, "timeout": 300}
    try:
        done = subprocess.run([python, "-c", TRIAL, str(UNDERNEATH)], check=True, **how)
    except subprocess.CalledProcessError as error:
        return "", (error.stderr.strip().splitlines() or ["it said nothing"])[-1]
    except (OSError, subprocess.TimeoutExpired) as error:
        return "", str(error)
    return done.stdout.splitlines()[-1], ""


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

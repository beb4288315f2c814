"""Starting the examples: in this process, which is quick, or as a user does."""

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

from omegaconf import OmegaConf
from pairs import ROOT

import launch
from launcher.settings import VARIABLES


EXAMPLES = (ROOT / "examples" / "uni_dpo").resolve()
OURS = {*VARIABLES, "PYTHONPATH", "FORCE_TORCHRUN"}


def example(name: str) -> str:
    """Return the name of an example without its ending; those of Qwen2-VL-2B are named by their loss alone."""
    return name if (EXAMPLES / f"{name}.yaml").is_file() else f"Qwen2_VL_2B_{name}"


def script(name: str) -> Path:
    """Return the script that users start, through the link at the root of the repository."""
    return ROOT / "examples" / "uni_dpo" / f"{example(name)}.sh"


def environment(**variables: str) -> dict[str, str]:
    """The environment a script sees: ours to give, nothing of the caller's that it would read."""
    kept = {name: value for name, value in os.environ.items() if name not in OURS}
    return kept | {"PYTHON": sys.executable} | variables


def bash(path: Path, *arguments: str, cwd: Path = ROOT, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a script as a user does."""
    command = ["bash", str(path), *arguments]
    how = {"capture_output": True, "text": True, "timeout": 600}
    return subprocess.run(command, cwd=cwd, env=environment(**variables), **how)


def here(name: str, *arguments: str, cwd: Path = ROOT, **variables: str) -> tuple[int, str, str]:
    """Do in this process what a script does; return its status, output and messages."""
    command = ["launch.py", str(EXAMPLES / f"{example(name)}.yaml"), *arguments]
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.object(sys, "argv", command),
        mock.patch.dict(os.environ, environment(**variables), clear=True),
        contextlib.chdir(cwd),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        status = launch.main()
    return status, out.getvalue(), err.getvalue()


def dry_run(name: str, *arguments: str, **options) -> tuple[str, dict]:
    """Return everything a dry run prints, and the settings in it."""
    status, printed, messages = here(name, "--dry-run", *arguments, **options)
    assert status == 0, messages
    return printed, settings_in(printed)


def settings_in(printed: str) -> dict:
    """Return the settings that a dry run shows."""
    return OmegaConf.to_container(OmegaConf.create(printed.rpartition("effective.yaml\n")[2]))

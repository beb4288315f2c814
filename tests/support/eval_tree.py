"""VLMEvalKit trees with the overlay over them, for the tests: always copies, never the installed package itself.

`UNI_DPO_EVAL_CHECKOUTS`, a colon-separated list of VLMEvalKit checkouts, adds them to the installed ms-vlmeval.
"""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from pairs import ROOT


OVERLAY = ROOT / "VLMEvalKit"
CHECKOUTS = [Path(path) for path in os.environ.get("UNI_DPO_EVAL_CHECKOUTS", "").split(":") if path]
TREES = ["installed", *CHECKOUTS]


def pristine(tree: str | Path) -> Path:
    """Return the folder that holds `vlmeval/` as upstream has it."""
    if isinstance(tree, Path):
        return tree
    return Path(importlib.util.find_spec("vlmeval").origin).parent.parent


def overlaid(tree: str | Path, destination: Path) -> Path:
    """Copy upstream's package to `destination`, lay the overlay over it as `cp -r` would, and return `destination`."""
    ignored = shutil.ignore_patterns("__pycache__", ".uni_dpo_overlay", "uni_dpo")
    shutil.copytree(pristine(tree) / "vlmeval", destination / "vlmeval", ignore=ignored)
    if isinstance(tree, Path):
        shutil.copy(tree / "run.py", destination)
    shutil.copytree(OVERLAY, destination, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    return destination


def environment(tree: Path, **variables: str) -> dict[str, str]:
    """Return the environment in which Python finds the `vlmeval` of a tree."""
    path = os.pathsep.join([str(tree), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    return os.environ | {"PYTHONPATH": path} | variables


def python(tree: Path, *arguments: Any, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run Python with the `vlmeval` of a tree and return the finished process."""
    command = [sys.executable, *map(str, arguments)]
    variables = environment(tree, **variables)
    return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=1800)


def answer_of(tree: Path, script: str, request: Any, folder: Path) -> Any:
    """Run one of the tests' scripts on a request in JSON and return what it writes."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "request.json").write_text(json.dumps(request))
    done = python(tree, ROOT / "tests" / "support" / script, folder / "request.json", folder / "answer.json")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return json.loads((folder / "answer.json").read_text())

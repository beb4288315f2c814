"""VLMEvalKit trees with the overlay over them, for the tests: always copies, never the installed package itself.

`UNI_DPO_EVAL_CHECKOUTS`, a colon-separated list of VLMEvalKit checkouts, adds them to the installed ms-vlmeval.
"""

import atexit
import functools
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

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


class Outcome(NamedTuple):
    """How a command ended, and what it printed to both streams."""

    exit: int
    text: str


class VLMEvalKit:
    """An overlaid tree in a process of its own, which `eval_probe.py` keeps waiting for questions.

    Importing VLMEvalKit takes most of a short run, and switches gradients off.
    """

    def __init__(self, tree: str | Path):
        """Copy the tree and start the process."""
        scratch = tempfile.TemporaryDirectory(prefix="uni-dpo-vlmevalkit-")
        self.root = overlaid(tree, Path(scratch.name))
        self._log = self.root / "probe.log"
        command = [sys.executable, ROOT / "tests" / "support" / "eval_probe.py", "serve"]
        with self._log.open("w") as log:
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": log, "text": True}
            self._process = subprocess.Popen(command, env=environment(self.root), cwd=self.root, **pipes)
        atexit.register(scratch.cleanup)
        atexit.register(self._process.kill)

    def ask(self, do: str, **request: Any) -> Any:
        """Return what a function of `eval_probe.py` says."""
        self._process.stdin.write(json.dumps(request | {"do": do}, default=str) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, self._log.read_text()[-3000:]
        answer = json.loads(line)
        assert "failed" not in answer, answer["failed"]
        return answer["result"]

    def run(self, data: Path, *arguments: Any) -> Outcome:
        """Run `python -m vlmeval.uni_dpo` with the benchmarks of a folder."""
        return Outcome(**self.ask("command", data=data, arguments=list(map(str, arguments))))

    def loop(self, data: Path, *arguments: Any) -> Outcome:
        """Run VLMEvalKit's own loop."""
        return Outcome(**self.ask("command", data=data, arguments=list(map(str, arguments)), theirs=True))


@functools.cache
def vlmevalkit(tree: str | Path) -> VLMEvalKit:
    """Return the process of a tree, one for all test modules."""
    return VLMEvalKit(tree)

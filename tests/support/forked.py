"""Commands and ranks run in forks of one process that has imported everything, and killed there at chosen moments.

Imports take most of a short run; with them done once, a run of the real command costs a second or two. Each fork is a
process group of its own that really dies: by SIGKILL after a while or before its n-th change below a folder, or by
SIGXFSZ in the middle of a write, whatever library writes.

conftest.py takes in the fixture `host` and two hooks of pytest: it is forked from the test process after everything is
collected and before anything has run, so that it costs no import of its own. Others are processes by themselves:
`python tests/support/forked.py MODULE ...` imports the modules, then serves one request a line on stdin.
"""

import contextlib
import faulthandler
import gc
import importlib
import json
import logging
import os
import resource
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest


CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate"}
LIMIT = 300  # seconds for one run
TRAINING = (
    *("llamafactory.cli", "llamafactory.train.tuner", "llamafactory.train.uni_dpo.training.trainer"),
    *("transformers.models.qwen2_vl.modeling_qwen2_vl", "llamafactory.train.uni_dpo.record.plots"),
    "llamafactory.train.uni_dpo.caches.__main__",
)
USERS = {"command_line", "train_jobs"}  # test modules with one of these names need `host`


@dataclass(frozen=True)
class Ending:
    """How a run ended.

    Attributes:
        signal: what killed it; None if it ended by itself.
        status: its exit status otherwise.
        said: the end of what it printed, on both streams.
        seconds: how long it took.
        changes: how often it changed the file system below the folder watched, if it ended by itself.
    """

    signal: int | None
    status: int | None
    said: str
    seconds: float
    changes: int


class Host:
    """The process that forks."""

    def __init__(self, *modules: str, within: Sequence[Any] = (), **environment: str):
        """Start it, with modules to import first, a command that runs it, and variables of its environment."""
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._has_mounts, self._here = bool(within), False
        command = [*map(str, within), sys.executable, __file__, *modules]
        process = subprocess.Popen(command, env=os.environ | environment, **pipes)
        self._process, self._requests, self._answers = process.pid, process.stdin, process.stdout

    @classmethod
    def of_this_process(cls) -> "Host":
        """Fork it from this process, with all that is imported; its runs get this process's variables and folder."""
        (asked, asking), (answered, answering) = os.pipe(), os.pipe()
        host = cls.__new__(cls)
        host._has_mounts, host._here, host._process = False, True, os.fork()
        if host._process == 0:
            os.close(asking)
            _leave_pytest()
            _serve(os.fdopen(asked), os.fdopen(answering, "w"))
            os._exit(0)
        os.close(asked)
        os.close(answering)
        host._requests, host._answers = os.fdopen(asking, "w"), os.fdopen(answered)
        return host

    def path(self, path: Path) -> Path:
        """Return the way to a file that this process sees, which may be in a mount of its own."""
        return Path(f"/proc/{self._process}/root{path}") if self._has_mounts else path

    def run(self, call: str, *argv: Any, **death: Any) -> Ending:
        """Call `MODULE:FUNCTION` in a fork, as a command with the arguments `argv`.

        Args:
            call: the function.
            *argv: the command line.
            **death: `seconds=S` kills the fork then; `below=FOLDER, change=N` before its N-th change (from 0) below
                that folder; with `size=BYTES` too, from that change on at the first write beyond so many bytes of a
                file.
        """
        request = {"call": call, "argv": [call, *map(str, argv)], "death": {k: _plain(v) for k, v in death.items()}}
        return Ending(**self._ask(request | self._place()))

    def train(self, jobs: list[dict[str, Any]]) -> None:
        """Train jobs (`ranks.job`) one after the other, each in processes of its own."""
        self._ask({"jobs": jobs, "place": self._place()})

    def _place(self) -> dict[str, Any]:
        return {"environment": dict(os.environ), "folder": os.getcwd()} if self._here else {}

    def _ask(self, request: dict[str, Any]) -> Any:
        print(json.dumps(request), file=self._requests, flush=True)
        return json.loads(self._answers.readline())

    def close(self) -> None:
        """End it."""
        self._requests.close()
        os.waitpid(self._process, 0)


_shared: list[Host] = []


def shared() -> Host | None:
    """Return the host of this test process, if its tests need one."""
    return _shared[0] if _shared else None


@pytest.fixture(scope="session")
def host() -> Host:
    """The host of this test process."""
    return _shared[0]


def pytest_collection_finish(session: pytest.Session) -> None:
    """Fork the host before anything has run, if a test needs it."""
    if session.config.option.collectonly:
        return
    if any("host" in item.fixturenames or USERS & vars(item.module).keys() for item in session.items):
        for module in TRAINING:
            importlib.import_module(module)
        # LlamaFactory looks through it, which imports many models
        list(importlib.import_module("transformers").AutoModelForImageTextToText._model_mapping)
        _shared.append(Host.of_this_process())


def pytest_sessionfinish() -> None:
    """End it."""
    while _shared:
        _shared.pop().close()


def _leave_pytest() -> None:
    """Undo what a test process has that a command has not: signals, captured streams, gradients off."""
    faulthandler.disable()
    for number in (signal.SIGALRM, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    sys.stdin, sys.stdout, sys.stderr = open(os.devnull), os.fdopen(1, "w"), os.fdopen(2, "w")
    loggers = [logging.getLogger(), *map(logging.getLogger, logging.root.manager.loggerDict)]
    for logger in loggers:
        for handler in logger.handlers:
            if type(handler) is logging.StreamHandler:
                handler.setStream(sys.stdout if logger.name == "llamafactory" else sys.stderr)
    importlib.import_module("torch").set_grad_enabled(True)  # VLMEvalKit switches them off when it is imported


def _plain(value: Any) -> Any:
    return os.path.realpath(value) if isinstance(value, Path) else value


def serve() -> None:
    """Answer requests until there are no more."""
    requests, answers = sys.stdin, os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what imports print is no answer
    for module in sys.argv[1:]:
        importlib.import_module(module)
    _serve(requests, answers)


def _serve(requests: Any, answers: Any) -> None:
    gc.freeze()
    for line in requests:
        request = json.loads(line)
        answer = _train(**request) if "jobs" in request else _fork(**request)
        print(json.dumps(answer), file=answers, flush=True)


def _train(jobs: list[dict[str, Any]], place: dict[str, Any]) -> None:
    importlib.import_module("rank_jobs").train_all(jobs, lambda: _go_to(**place))


def _go_to(environment: dict[str, str] | None = None, folder: str | None = None) -> None:
    if environment is not None:
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(folder)


def _fork(call: str, argv: list[str], death: dict[str, Any], **place: Any) -> dict[str, Any]:
    (said, saying), (counted, counting) = os.pipe(), os.pipe()
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        os.setsid()
        os.dup2(saying, 1)
        os.dup2(saying, 2)
        _go_to(**place)
        _run_and_exit(call, argv, death, counting)
    os.close(saying)
    os.close(counting)
    text = _read(said, child, started + death.get("seconds", LIMIT))
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with contextlib.suppress(ProcessLookupError):  # its own children, if it had any
        os.killpg(child, signal.SIGKILL)
    with os.fdopen(counted) as changes:
        number = changes.read()
    ending = {"signal": -code if code < 0 else None, "status": code if code >= 0 else None, "said": text[-200_000:]}
    return ending | {"seconds": time.monotonic() - started, "changes": int(number or 0)}


def _read(pipe: int, child: int, until: float) -> str:
    """Read what a fork says until it is silent for ever; kill its group when its time is up."""
    text = b""
    while True:
        ready, _, _ = select.select([pipe], [], [], max(0.0, until - time.monotonic()))
        if not ready:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)
            until = time.monotonic() + LIMIT
            continue
        content = os.read(pipe, 1 << 16)
        if not content:
            os.close(pipe)
            return text.decode(errors="replace")
        text += content


def _run_and_exit(call: str, argv: list[str], death: dict[str, Any], counting: int) -> None:
    changes = _Changes(**{name: death[name] for name in ("below", "change", "size") if name in death})
    sys.addaudithook(changes.hook)
    sys.argv, status = argv, 0
    module, function = call.split(":")
    try:
        status = getattr(importlib.import_module(module), function)()
    except SystemExit as end:
        status = end.code
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        status = 1
    changes.below = None
    os.write(counting, str(changes.seen).encode())
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status if isinstance(status, int) else int(status is not None))


class _Changes:
    """Counts changes of the file system, as Python tells of them, and kills before one of them."""

    def __init__(self, below: str | None = None, change: int = -1, size: int | None = None):
        self.below, self.change, self.size, self.seen = below, change, size, 0

    def hook(self, event: str, details: tuple) -> None:
        if self.below is None or not self._concerns(event, details):
            return
        if self.seen == self.change:
            self._die()
        self.seen += 1

    def _concerns(self, event: str, details: tuple) -> bool:
        if event == "open":
            path, _, flags = details
            if not isinstance(flags, int) or not flags & (os.O_WRONLY | os.O_RDWR) or isinstance(path, int):
                return False
            folder = -1
        elif event in CHANGES:
            path, folder = details[0], details[-1] if event in ("os.remove", "os.rmdir", "os.mkdir") else -1
        else:
            return False
        start = os.readlink(f"/proc/self/fd/{folder}") if isinstance(folder, int) and folder >= 0 else os.getcwd()
        return os.path.join(start, os.fsdecode(path)).startswith(self.below)

    def _die(self) -> None:
        if self.size is None:
            os.kill(os.getpid(), signal.SIGKILL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, self.size))


if __name__ == "__main__":
    serve()

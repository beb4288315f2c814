"""Commands run in forks of one process that has imported everything, and killed there at chosen moments.

Imports take most of a short run; with them done once, a run of the real command costs a second or two. Each fork is a
process group of its own that really dies: by SIGKILL after a while or before its n-th change below a folder, or by
SIGXFSZ in the middle of a write, whatever library writes.

`python tests/support/forked.py MODULE ...` imports the modules, then serves one request a line on stdin (see
`Host.run`).
"""

import contextlib
import gc
import importlib
import json
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


CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate"}
LIMIT = 300  # seconds for one run


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
        self._has_mounts = bool(within)
        command = [*map(str, within), sys.executable, __file__, *modules]
        self._process = subprocess.Popen(command, env=os.environ | environment, **pipes)

    def path(self, path: Path) -> Path:
        """Return the way to a file that this process sees, which may be in a mount of its own."""
        return Path(f"/proc/{self._process.pid}/root{path}") if self._has_mounts else path

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
        print(json.dumps(request), file=self._process.stdin, flush=True)
        return Ending(**json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        """End it."""
        self._process.stdin.close()
        self._process.wait()


def _plain(value: Any) -> Any:
    return os.path.realpath(value) if isinstance(value, Path) else value


def serve() -> None:
    """Answer requests until there are no more."""
    requests, answers = sys.stdin, os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what imports print is no answer
    for module in sys.argv[1:]:
        importlib.import_module(module)
    gc.freeze()
    for line in requests:
        print(json.dumps(_fork(**json.loads(line))), file=answers, flush=True)


def _fork(call: str, argv: list[str], death: dict[str, Any]) -> dict[str, Any]:
    (said, saying), (counted, counting) = os.pipe(), os.pipe()
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        os.setsid()
        os.dup2(saying, 1)
        os.dup2(saying, 2)
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

"""Two machines on one, each running one of the example scripts as several machines do."""

import functools
import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from pairs import ROOT


SCRIPT = ROOT / "examples" / "uni_dpo" / "Qwen2_VL_2B_uni_dpo.sh"
JOINED = ROOT / "tests" / "support" / "two_nodes.sh"
UNSHARE = ["unshare", "--map-root-user", "--net"]


@functools.cache
def has_namespaces() -> bool:
    """Tell whether this machine lets us make networks of our own, joined by a cable."""
    if not all(map(shutil.which, ("unshare", "nsenter", "ip"))):
        return False
    probe = [*UNSHARE, "ip", "link", "add", "cable", "type", "veth", "peer", "name", "other"]
    return subprocess.run(probe, capture_output=True).returncode == 0


def script(folder: Path, node: int | None, ranks: int, arguments: list[str], **variables: str) -> Path:
    """Write what somebody types on one machine: variables, and the example's own script.

    Args:
        folder: where to write it, and its output, `said.txt`.
        node: which of two machines; None for a machine on its own.
        ranks: processes of the machine.
        arguments: `key=value` of the script.
        **variables: more of its variables.
    """
    folder.mkdir(parents=True, exist_ok=True)
    given = {"PYTHON": sys.executable, "GPUS": "0", "NPROC_PER_NODE": str(ranks)} | variables
    if node is not None:
        given |= {"NNODES": "2", "NODE_RANK": str(node)}
    exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in given.items())
    command = shlex.join(["bash", str(SCRIPT), *arguments])
    path = folder / f"node{node or 0}.sh"
    path.write_text(f"{exports}exec {command} >{shlex.quote(str(folder / 'said.txt'))} 2>&1\n")
    return path


def start(scripts: tuple[Path, Path], statuses: Path) -> subprocess.Popen:
    """Start both machines; `statuses` gets their exit statuses in the end.

    The scripts do not name MASTER_ADDR and MASTER_PORT, which depend on how the machines are joined.
    """
    environment = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    command = [str(JOINED), *map(str, scripts), str(statuses)]
    if has_namespaces():
        environment |= {"MASTER_ADDR": "10.77.0.1", "GLOO_SOCKET_IFNAME": "cable"}
        return subprocess.Popen([*UNSHARE, "bash", *command], env=environment, start_new_session=True)
    both = 'bash "$2" & other=$!; a=0; b=0; bash "$1" || a=$?; wait $other || b=$?; echo $a $b >"$3"'
    return subprocess.Popen(["bash", "-c", both, *command], env=environment, start_new_session=True)


def free_port() -> int:
    """Return a port that nobody uses."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def wait_until(condition: Callable[[], bool], running: subprocess.Popen, limit: float = 240) -> None:
    """Wait for something to become true while a process runs.

    Raises:
        AssertionError: the process has ended, or `limit` seconds are over.
    """
    deadline = time.monotonic() + limit
    while not condition():
        assert running.poll() is None, "ended before it got there"
        assert time.monotonic() < deadline, "never got there"
        time.sleep(0.2)

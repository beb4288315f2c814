"""One command after the other, each remembered when it is done."""

import hashlib
import json
import os
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from pair_data.errors import DataError
from pair_data.writing import whole_file

from .orphans import MARK
from .plan import digest_of


WAIT = 120  # seconds that an interrupted stage has to end by itself


@dataclass(frozen=True)
class Stage:
    """A command.

    Attributes:
        name: one word.
        what: what it makes, for people.
        command: its command line.
        inputs: files and checkpoints that it reads; one that changes has the stage done again.
        output: what is there when it is done.
        variables: of its environment.
        ends: exit statuses that mean it is done.
    """

    name: str
    what: str
    command: tuple[str, ...]
    inputs: tuple[Path, ...]
    output: Path
    variables: dict[str, str] = field(default_factory=dict)
    ends: tuple[int, ...] = (0,)


def do(stage: Stage, folder: Path, root: Path) -> bool:
    """Run a stage unless it is done already; return whether it ran. Its mark is written when all of it is there."""
    mark, key = folder / ".done" / f"{stage.name}.json", _key(stage)
    title = f"{folder.name}, {stage.name}"
    if is_done(stage, folder):
        print(f"== {title}: done already, {stage.what}", flush=True)
        return False
    mark.unlink(missing_ok=True)
    _make_way(stage, folder, key)
    print(f"\n== {title}: {stage.what}\n# {shlex.join(stage.command)}", flush=True)
    started = time.monotonic()
    status = run_command(stage, root, folder.parent)
    if status not in stage.ends or not stage.output.exists():
        raise DataError(
            f"{title} ended with exit status {status}, see above. The same command goes on with it.\n"
            f"  {shlex.join(stage.command)}"
        )
    with whole_file(mark) as file:
        json.dump(key, file)
    print(f"== {title}: done in {time.monotonic() - started:.0f} s", flush=True)
    return True


def is_done(stage: Stage, folder: Path) -> bool:
    """Tell whether a stage is done, with the inputs of now."""
    return stage.output.exists() and _read(folder / ".done" / f"{stage.name}.json") == _key(stage)


def _make_way(stage: Stage, folder: Path, key: dict[str, str]) -> None:
    """Rename a folder that the stage began with other inputs: it would go on in it, or take it for finished."""
    begun = folder / ".done" / f"{stage.name}.begun.json"
    if stage.output.is_dir() and _read(begun) != key:
        kept = stage.output.with_name(f"{stage.output.name}.old-{time.strftime('%Y%m%d-%H%M%S')}")
        stage.output.rename(kept)
        print(f"# {stage.output} was made of other inputs, and is now {kept}")
    with whole_file(begun) as file:
        json.dump(key, file)


def _key(stage: Stage) -> dict[str, str]:
    content = [list(stage.command), [digest_of(path) for path in stage.inputs if path.exists()]]
    return {"key": hashlib.sha256(json.dumps(content).encode()).hexdigest()}


def _read(mark: Path) -> dict[str, str] | None:
    try:
        return json.loads(mark.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def run_command(stage: Stage, root: Path, output: Path) -> int:
    """Run a stage's command to its end; Ctrl-C reaches it as well, and it is waited for.

    Args:
        stage: what to do.
        root: the folder to start from.
        output: the folder of all rounds.

    Returns:
        The exit status.
    """
    variables = os.environ | stage.variables | {MARK: str(output)}
    process = subprocess.Popen(stage.command, cwd=root, env=variables, stdin=subprocess.DEVNULL)
    try:
        return process.wait()
    except (KeyboardInterrupt, SystemExit) as ending:
        if isinstance(ending, SystemExit):  # Ctrl-C has reached it already
            process.terminate()
        try:
            process.wait(WAIT)
        except subprocess.TimeoutExpired:
            process.kill()
        raise
    finally:
        sys.stdout.flush()

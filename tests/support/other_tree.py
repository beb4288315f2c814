"""Another LlamaFactory in a fork of `forked.Host`: what its packages stand on stays imported, they come from a folder.

As with PYTHONPATH, but for transformers and the rest below it, which are those of the test process.
"""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from forked import Host


def main() -> int | None:
    """Call MODULE:FUNCTION with the arguments, after PATH: folders joined by `:`, to be looked through first."""
    call, path, *arguments = sys.argv[1:]
    for name in [name for name in sys.modules if name.partition(".")[0] in ("llamafactory", "contract")]:
        del sys.modules[name]
    sys.excepthook = sys.__excepthook__  # ours, of the other package
    sys.path[:0] = path.split(os.pathsep)
    importlib.invalidate_caches()
    sys.argv = [call, *arguments]
    module, function = call.split(":")
    status = getattr(importlib.import_module(module), function)()
    first = Path(sys.modules["llamafactory"].__file__).parents[1]
    assert str(first) in path.split(os.pathsep), f"llamafactory came from {first}"
    return status


def run(host: Host, path: Iterable[Path], call: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Call a function in a fork with these folders first on the path; its two streams are one."""
    ending = host.run("other_tree:main", call, os.pathsep.join(map(str, path)), *arguments)
    status = -ending.signal if ending.status is None else ending.status
    return subprocess.CompletedProcess([call, *map(str, arguments)], status, ending.said, ending.said)


def train_all() -> None:
    """Train the runs of a JSON file one after the other, and write how each ended to ENDS.json."""
    from llamafactory.train.tuner import run_exp

    runs, ends = sys.argv[1:3]
    found = {}
    for name, options in json.loads(Path(runs).read_text()).items():
        try:
            run_exp(options)
            found[name] = "trained"
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"
    Path(ends).write_text(json.dumps(found))

"""Which LlamaFactory or VLMEvalKit is meant. Nothing here imports or changes it."""

import json
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from common import ToolError

from .kinds import LLAMAFACTORY, Kind


# Runs in the chosen interpreter. The empty entry of sys.path is the current folder, which no console script sees.
PROBE = """
import importlib.util, json, sys
sys.path[:] = [entry for entry in sys.path if entry]
spec = importlib.util.find_spec(sys.argv[1])
print(json.dumps([str(path) for path in spec.submodule_search_locations or []] if spec else []))
"""

# The first line of a console script; where the interpreter's path is long or has spaces, pip writes `#!/bin/sh` and
# the path into the second line.
SHEBANG = re.compile(r"#!(?:\S*/env )?(\S*python\S*)|#!/bin/sh\n'''exec' [\"']?([^\"'\n]*python[^\"' \n]*)")


@dataclass(frozen=True)
class Target:
    """One LlamaFactory or VLMEvalKit on this machine."""

    package: Path  # the folder of the `llamafactory` or `vlmeval` package
    checkout: Path | None  # the root of the checkout that holds it; None for a package among a Python's installed ones
    found: str  # how it was found, for messages
    kind: Kind = LLAMAFACTORY

    def locate(self, name: str) -> Path | None:
        """Return where a file of the overlay belongs, or None if it has no place in an installed package.

        A name is the path inside the overlay, with slashes, such as "src/llamafactory/train/dpo/__init__.py".
        """
        if self.checkout is not None:
            return self.checkout / name
        inside = name.removeprefix(f"{self.kind.inside}/")
        return None if inside == name else self.package / inside

    def name(self, path: Path) -> str:
        """Return the overlay's name of a place."""
        if self.checkout is not None:
            return path.relative_to(self.checkout).as_posix()
        return f"{self.kind.inside}/{path.relative_to(self.package).as_posix()}"

    @property
    def root(self) -> Path:
        """The folder above everything the overlay may touch."""
        return self.checkout or self.package.parent

    @property
    def version(self) -> str | None:
        """The version as the package states it, or None if it states none."""
        return stated(self.package / self.kind.version_file, self.kind.version_name)


def stated(file: Path, name: str) -> str | None:
    """Return the text that a Python file assigns to a name, without running it; None if there is none."""
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    found = re.search(rf"""^{name}\s*=\s*["']([^"']+)["']""", text, re.MULTILINE)
    return found and found.group(1)


def from_checkout(folder: Path, kind: Kind = LLAMAFACTORY) -> Target:
    """Return the upstream of a git checkout or an unpacked tree."""
    if not folder.is_dir():
        raise ToolError(f"no such folder: {folder}\n  give --checkout the root of a {kind.title} checkout")
    checkout = folder.resolve()
    if not (checkout / kind.inside / "__init__.py").is_file():
        raise ToolError(
            f"not a {kind.title} checkout: {folder} has no {kind.inside}\n"
            f"  give --checkout the folder that git clone made, the one with {kind.inside.split('/')[0]}/ in it"
        )
    return Target(checkout / kind.inside, checkout, "checkout", kind)


def from_python(python: Path | str, kind: Kind = LLAMAFACTORY) -> Target:
    """Return the upstream package that one Python interpreter would import, without importing it.

    An editable install leads to its checkout, since that is where the files are.
    """
    command = [python, "-c", PROBE, kind.package]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        folders = json.loads(done.stdout.splitlines()[-1])
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ToolError(f"cannot run {python}: {error}\n  give --python the path of a Python interpreter") from error
    except (ValueError, IndexError) as error:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise ToolError(f"{python} does not answer like a Python interpreter: {last}") from error
    if not folders:
        raise ToolError(
            f"no {kind.package} is installed for {python}\n"
            "  choose another with --python PATH (scripts/setup.sh makes .venv/bin/python), a checkout with"
            f" --checkout DIR, or install it: pip install {kind.distribution}"
        )
    package = Path(folders[0]).resolve()
    checkout = package.parents[len(Path(kind.inside).parts) - 1]
    # Among installed packages there is neither a folder src nor a run.py.
    if package == checkout / kind.inside and ("/" in kind.inside or (checkout / kind.script).is_file()):
        return Target(package, checkout, f"editable install of {checkout}", kind)
    return Target(package, None, "installed package", kind)


def from_script(script: Path, kind: Kind = LLAMAFACTORY) -> Target:
    """Return the upstream package that a console script such as `llamafactory-cli` uses."""
    return from_python(interpreter_of(script), kind)


def interpreter_of(script: Path) -> Path:
    """Return the Python interpreter that a console script such as `llamafactory-cli` starts."""
    with script.open("rb") as file:
        found = SHEBANG.match(file.read(2000).decode("utf-8", errors="replace"))
    if not found:
        raise ToolError(f"cannot tell which Python {script} starts")
    return Path(found.group(1) or found.group(2))

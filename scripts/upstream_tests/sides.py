"""Two copies of a checkout, one with the overlay, and upstream's tests in each of them."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from common import ToolError
from versions.layers import LEFT_OUT, ROOT, make_layer

from .stand_ins import variables


HERE = Path(__file__).resolve().parent
SUITES = ("tests", "tests_v1")
PERCENT = re.compile(r"\[\s*(\d+)%\]")

Outcomes = dict[str, dict[str, str]]


@dataclass(frozen=True)
class Side:
    """One copy of the checkout.

    Attributes:
        name: "without" or "with", for messages.
        folder: The copy.
        scratch: The folder of all, with the environment and the stand-ins.
    """

    name: str
    folder: Path
    scratch: Path

    def run(self, tests: Sequence[str], seconds: int, processes: int) -> Outcomes:
        """Run tests and return outcome and message of each by its pytest name.

        Args:
            tests: Files, folders or single tests, relative to the checkout.
            seconds: After which a test counts as failed.
            processes: How many to use; 1 runs one test after the other in a fresh process.

        Raises:
            ToolError: pytest did not run.
        """
        noted = self.scratch / f"{self.name}.jsonl"
        noted.unlink(missing_ok=True)
        command = [str(self.scratch / "env" / "bin" / "python"), "-m", "pytest", "-v", "--import-mode=importlib"]
        command += ["-p", "no:cacheprovider", "-p", "outcome_recorder", "--timeout", str(seconds)]
        command += ["--rootdir", str(self.folder)]
        command += ["-n", str(processes), "--dist", "loadfile"] if processes > 1 else []
        with (
            open(self.scratch / f"{self.name}.log", "w", encoding="utf-8") as log,
            tqdm(total=100, unit="%", desc=f"{self.name} the overlay") as bar,
            subprocess.Popen(
                [*command, *tests],
                cwd=self.folder,
                env=self._environment(noted),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            ) as process,
        ):
            for line in process.stdout:
                log.write(line)
                if seen := PERCENT.search(line):
                    bar.update(int(seen.group(1)) - bar.n)
        if process.returncode not in (0, 1, 2) or not noted.is_file():
            raise ToolError(f"pytest ended with exit code {process.returncode}; see {self.scratch / self.name}.log")
        return {line["test"]: line for line in map(json.loads, noted.read_text().splitlines())}

    def _environment(self, noted: Path) -> dict[str, str]:
        path = [str(self.folder / "src"), str(HERE)]
        return os.environ | {
            "PYTHONPATH": os.pathsep.join(path),
            "UPSTREAM_OUTCOMES": str(noted),
            "HF_HUB_OFFLINE": "1",
            "HF_DATASETS_CACHE": str(self.scratch / "datasets"),
            "WANDB_DISABLED": "true",
            "OMP_NUM_THREADS": "1",
            **variables(self.scratch / "stand_ins"),
        }


def make_sides(checkout: Path, scratch: Path) -> tuple[Side, Side]:
    """Copy a checkout twice, lay the overlay on the second copy, and see to an environment and stand-ins.

    Args:
        checkout: LlamaFactory, with its tests.
        scratch: A folder of our own.

    Raises:
        ToolError: It has no tests, or the installer or pip refuses.
    """
    if not any((checkout / suite).is_dir() for suite in SUITES):
        raise ToolError(f"--checkout {checkout}: no folder {' or '.join(SUITES)} in it; clone LlamaFactory with git")
    make_environment(scratch)
    (scratch / "pytest.ini").touch()  # where upstream configures nothing, pytest would go up to ours, and name by it
    sides = tuple(Side(name, scratch / name, scratch) for name in ("without", "with"))
    for side in sides:
        shutil.rmtree(side.folder, ignore_errors=True)
        shutil.copytree(checkout, side.folder, ignore=LEFT_OUT)
    installer = [sys.executable, str(ROOT / "scripts" / "install_overlay.py"), "install", "--checkout"]
    done = subprocess.run([*installer, str(sides[1].folder)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ToolError(done.stderr.strip())
    return sides


def make_environment(scratch: Path) -> None:
    """Make a layer with pytest's helpers over the Python that runs this, and the stand-ins, unless they are there.

    Raises:
        ToolError: pip cannot install them.
        ToolError: Likewise.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    python = scratch / "env" / "bin" / "python"
    if not (scratch / "env" / "ready").is_file():
        shutil.rmtree(scratch / "env", ignore_errors=True)
        make_layer(scratch / "env")
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        done = subprocess.run(
            [*pip, "pytest", "pytest-timeout", "pytest-xdist"], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise ToolError(f"pip cannot install pytest-timeout:\n{done.stderr.strip()[-1000:]}")
        (scratch / "env" / "ready").touch()
    if not (scratch / "stand_ins").is_dir():
        done = subprocess.run(
            [str(python), str(HERE / "stand_ins.py"), str(scratch / "stand_ins")],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise ToolError(f"cannot make tiny models:\n{done.stderr.strip()[-1000:]}")

"""Small environments over the one that is there: only what differs is installed, and torch never twice."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from common import ToolError
from install_overlay.kinds import LLAMAFACTORY

from .cells import Cell


ROOT = Path(__file__).resolve().parents[2]
LEFT_OUT = shutil.ignore_patterns(".git", "__pycache__", "assets", "docker", "docs", "outputs", "saves", "*uni_dpo*")


class Layer:
    """An environment whose packages come before those of the Python that runs this.

    Args:
        folder: Where it is or will be.
    """

    def __init__(self, folder: Path):
        """Take note of the place; `make` makes it."""
        self.folder = folder
        self.python = folder / "env" / "bin" / "python"
        self.checkout = folder / "checkout"

    def make(self, cell: Cell) -> None:
        """Make it anew, with what the cell asks for and without the overlay.

        Raises:
            ToolError: pip could not install it; the message ends with pip's own words.
        """
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        make_layer(self.folder / "env")
        wanted = [f"transformers=={cell.transformers}"]
        if cell.checkout is not None:
            shutil.copytree(cell.checkout, self.checkout, ignore=LEFT_OUT)
            if cell.kind is LLAMAFACTORY:
                wanted = ["--editable", str(self.checkout), *wanted]
            else:  # what it demands is what ms-vlmeval demands, and that is there; but for what it forgets to demand
                wanted.append("rouge_score")
                (site_packages(self.folder / "env") / "checkout.pth").write_text(f"{self.checkout}\n")
        else:
            release = f"{cell.kind.distribution}=={cell.version}"
            self.pip("--ignore-installed", "--no-deps", release)  # also where the same lies below: that stays as it is
            wanted = [release, *wanted] if cell.kind is LLAMAFACTORY else wanted
        self.pip(*wanted)

    def pip(self, *arguments: str) -> None:
        """Install into this layer; what lies below is seen, and never changed.

        Raises:
            ToolError: It failed.
        """
        options = ["--quiet", "--no-input", "--disable-pip-version-check"]
        done = self.run("-m", "pip", "install", *options, *arguments)
        if done.returncode != 0:
            raise ToolError(f"pip install {' '.join(arguments)}:\n{done.stderr.strip()[-2000:]}")

    def lay_overlay(self, cell: Cell) -> None:
        """Lay our overlay on, as users do.

        Raises:
            ToolError: The installer refuses.
        """
        where = ["--python", str(self.python)]
        if cell.checkout is not None:
            where = ["--checkout", str(self.checkout)]
        command = ["install", "--for", cell.kind.package, "--copy", *where]
        done = self.run(str(ROOT / "scripts" / "install_overlay.py"), *command)
        if done.returncode != 0:
            raise ToolError(done.stderr.strip())

    def run(self, *command: str, folder: Path | None = None, seconds: int = 900) -> subprocess.CompletedProcess[str]:
        """Run this layer's Python, without a device and without a hub, and return the finished process."""
        variables = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
        inherited = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
        try:
            return subprocess.run(
                [str(self.python), *command],
                env=inherited | variables,
                cwd=folder,
                capture_output=True,
                text=True,
                timeout=seconds,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return subprocess.CompletedProcess(command, 124, "", f"TimeoutError: more than {seconds} seconds")


def make_layer(folder: Path) -> None:
    """Make an empty environment that sees all packages of the Python that runs this, after its own."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    below = sysconfig.get_path("purelib")
    # `addsitedir` rather than the bare path, as the layer below may have such files itself.
    (site_packages(folder) / "zz_below.pth").write_text(f"import site; site.addsitedir({below!r})\n")


def site_packages(folder: Path) -> Path:
    """Return where an environment has its packages."""
    return next(folder.glob("lib/python3*/site-packages"))

"""Which versions go together, and small environments over the one that is there: torch is never installed twice."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from packaging.specifiers import SpecifierSet
from packaging.version import Version
from upstream import wheel_tree

from common import ROOT, ToolError
from install_overlay.kinds import KINDS, LLAMAFACTORY, VLMEVAL, Kind


# Of every minor version the last release that upstream accepts is tried. 4.51 is older than what the overlay supports,
# and accepted by LlamaFactories up to January 2026: there the overlay has to refuse.
TRANSFORMERS = (
    *("4.51.3", "4.55.4", "4.56.2", "4.57.1", "4.57.6"),
    *("5.0.0", "5.2.0", "5.5.4", "5.6.0", "5.8.0"),
)
WORD = re.compile(r"""check_version\(["']transformers([^"']+)["']""")
LEFT_OUT = shutil.ignore_patterns(".git", "__pycache__", "assets", "docker", "docs", "outputs", "saves", "*uni_dpo*")
ALONE = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}


@dataclass(frozen=True)
class Cell:
    """One environment to try: an upstream, from the package index or a checkout, and a version of transformers."""

    kind: Kind
    version: str  # on the package index, or the name of the checkout
    checkout: Path | None
    transformers: str

    @property
    def upstream(self) -> str:
        """What is tried, in words."""
        name = self.kind.distribution if self.checkout is None else f"{self.kind.title} checkout"
        return f"{name} {self.version}"

    @property
    def name(self) -> str:
        """A name for folders."""
        return f"{self.kind.package}-{self.version}-transformers-{self.transformers}"


def cells(
    kinds: list[Kind], releases: list[str], checkouts: list[Path], transformers: list[str], vlmeval: str
) -> list[Cell]:
    """Lay out the matrix.

    Args:
        kinds: LlamaFactory, VLMEvalKit or both.
        releases: Versions of LlamaFactory on the package index.
        checkouts: Folders of either.
        transformers: Versions to choose from.
        vlmeval: The version of ms-vlmeval.

    Raises:
        ToolError: A checkout is neither, or a version is not on the index.
    """
    found = []
    for version in releases if LLAMAFACTORY in kinds else []:
        try:
            tree = wheel_tree(version)
        except RuntimeError as error:
            raise ToolError(str(error)) from error
        accepted = accepted_by(tree / "llamafactory", transformers)
        found += [Cell(LLAMAFACTORY, version, None, each) for each in accepted]
    if VLMEVAL in kinds:
        found += [Cell(VLMEVAL, vlmeval, None, each) for each in newest_of_minors(transformers)]
    for folder in checkouts:
        kind = next((kind for kind in KINDS.values() if (folder / kind.inside / "__init__.py").is_file()), None)
        if kind is None:
            raise ToolError(f"--checkout {folder}: neither a LlamaFactory nor a VLMEvalKit checkout")
        if kind in kinds:
            found += [Cell(kind, folder.name, folder, v) for v in accepted_by(folder / kind.inside, transformers)]
    return found


def accepted_by(package: Path, transformers: list[str]) -> list[str]:
    """Choose versions of transformers that an upstream package accepts when it starts, the newest of each minor one.

    LlamaFactory says so in `extras/misc.py`; VLMEvalKit has no such thing, and accepts all.
    """
    misc = package / "extras" / "misc.py"
    word = WORD.search(misc.read_text(encoding="utf-8")) if misc.is_file() else None
    accepts = SpecifierSet(word.group(1) if word else "")
    return newest_of_minors([version for version in transformers if accepts.contains(version)])


def newest_of_minors(versions: list[str]) -> list[str]:
    """Keep the newest of every minor version."""
    ordered = sorted(map(Version, versions))
    return [str(list(group)[-1]) for _, group in groupby(ordered, key=lambda version: version.release[:2])]


class Layer:
    """An environment whose packages come before those of the Python that runs this; `make` makes it."""

    def __init__(self, folder: Path):
        """Choose the folder of everything that belongs to it."""
        self.folder, self.checkout = folder, folder / "checkout"
        self.python = folder / "env" / "bin" / "python"

    def make(self) -> None:
        """Make it anew and empty."""
        shutil.rmtree(self.folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(self.folder / "env")], check=True)
        # `addsitedir` rather than the bare path, as the layer below may have such files itself.
        below = sysconfig.get_path("purelib")
        (self.site_packages / "zz_below.pth").write_text(f"import site; site.addsitedir({below!r})\n")

    def add_upstream(self, cell: Cell) -> None:
        """Install what the cell asks for, without the overlay.

        Raises:
            ToolError: pip could not install it; the message ends with pip's own words.
        """
        wanted = [f"transformers=={cell.transformers}"]
        if cell.checkout is not None:
            shutil.copytree(cell.checkout, self.checkout, ignore=LEFT_OUT)
            if cell.kind is LLAMAFACTORY:
                wanted = ["--editable", str(self.checkout), *wanted]
            else:  # what it demands is what ms-vlmeval demands, and that is there; but for what it forgets to demand
                wanted.append("rouge_score")
                (self.site_packages / "checkout.pth").write_text(f"{self.checkout}\n")
        else:
            release = f"{cell.kind.distribution}=={cell.version}"
            self.pip("--ignore-installed", "--no-deps", release)  # also where the same lies below: that stays as it is
            wanted = [release, *wanted] if cell.kind is LLAMAFACTORY else wanted
        self.pip(*wanted)

    @property
    def site_packages(self) -> Path:
        """Where it has its packages."""
        return next((self.folder / "env").glob("lib/python3*/site-packages"))

    def pip(self, *arguments: str) -> None:
        """Install into this layer; what lies below is seen, and never changed.

        Raises:
            ToolError: It failed.
        """
        done = self.run("-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check", *arguments)
        if done.returncode != 0:
            raise ToolError(f"pip install {' '.join(arguments)}:\n{done.stderr.strip()[-2000:]}")

    def lay_overlay(self, cell: Cell) -> None:
        """Lay our overlay on, as users do.

        Raises:
            ToolError: The installer refuses.
        """
        where = ["--checkout", str(self.checkout)] if cell.checkout else ["--python", str(self.python)]
        installer = str(ROOT / "scripts" / "install_overlay.py")
        done = self.run(installer, "install", "--for", cell.kind.package, "--copy", *where)
        if done.returncode != 0:
            raise ToolError(done.stderr.strip())

    def run(self, *command: str, folder: Path | None = None, seconds: int = 900) -> subprocess.CompletedProcess[str]:
        """Run this layer's Python, without a device and without a hub, and return the finished process."""
        return run_alone([str(self.python), *command], folder, seconds)


def run_alone(command: list[str], folder: Path | None, seconds: int = 900) -> subprocess.CompletedProcess[str]:
    """Run a command without a device, a hub or folders of ours on Python's path, and return the finished process."""
    inherited = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    how = {"env": inherited | ALONE, "cwd": folder, "capture_output": True, "text": True, "check": False}
    try:
        return subprocess.run(command, timeout=seconds, **how)
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 124, "", f"TimeoutError: more than {seconds} seconds")

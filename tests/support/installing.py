"""What the installer's tests share: real LlamaFactory trees to install into, and snapshots to compare them by.

A pytest plugin as well (conftest.py names it): the fixtures are checkouts and environments with LlamaFactory.
"""

import hashlib
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from upstream import VERSIONS, checkout_tree, wheel_file, wheel_tree

from install_overlay import command as install_overlay
from install_overlay.kinds import LLAMAFACTORY


PACKAGE, SEAM, RECORD_FOLDER = LLAMAFACTORY.ours, LLAMAFACTORY.seam, LLAMAFACTORY.record_folder
INSTALL_KINDS = ("--copy", "--link")
LOSS = f"{PACKAGE}/objective/loss.py"


def snapshot(folder: Path) -> dict[str, tuple]:
    """Return kind, permissions and content of everything below a folder."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            found[name] = ("link", os.readlink(path))
        elif path.is_dir():
            found[name] = ("folder",)
        else:
            mode = stat.S_IMODE(path.stat().st_mode)
            found[name] = ("file", mode, hashlib.sha256(path.read_bytes()).hexdigest())
    return found


def without_record(found: dict[str, tuple]) -> dict[str, tuple]:
    """Drop the installer's own record from a snapshot."""
    return {name: value for name, value in found.items() if not name.startswith(RECORD_FOLDER)}


def run(*arguments: object) -> int:
    """Run the installer's command line in this process."""
    return install_overlay.main([str(argument) for argument in arguments])


def lay_over(overlay: Path, folder: Path) -> None:
    """Do what people do without the installer: `cp -r overlay/. folder/`, in several versions one over the other."""
    subprocess.run(["cp", "-r", f"{overlay}/.", f"{folder}/"], check=True)


def git_commit(folder: Path) -> list[str]:
    """Make a git repository of a folder, with everything in it, and return the start of a git command for it."""
    git = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message", "upstream"]):
        subprocess.run([*git, *command], check=True)
    return git


def copy_of_overlay(folder: Path) -> Path:
    """Return a copy of our overlay that a test may change."""
    shutil.copytree(install_overlay.OVERLAY, folder, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    return folder


def part_of_overlay(folder: Path) -> Path:
    """Return a few files of our overlay, one of each sort, for tests that install often."""
    others = ("examples/uni_dpo/run.sh", "data/uni_dpo/dataset_info.json", "scripts/change_data_image_path.py")
    for name in (SEAM, f"{PACKAGE}/__init__.py", LOSS, *others):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(install_overlay.OVERLAY / name, folder / name)
    return folder


def small_checkout(folder: Path) -> Path:
    """Return the part of upstream that the installer looks at, to copy it many times."""
    for name in ("__init__.py", "extras/env.py", *(file for file, _ in LLAMAFACTORY.needed)):
        path = folder / "src" / "llamafactory" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(wheel_tree("0.9.5") / "llamafactory" / name, path)
    return folder


@pytest.fixture(params=VERSIONS)
def checkout(request, tmp_path) -> Path:
    """An unpacked LlamaFactory in a folder whose name needs quoting."""
    return checkout_tree(request.param, tmp_path / 'it\'s a "checkout" $HOME')


@pytest.fixture
def small(tmp_path) -> Path:
    """As much of a LlamaFactory checkout as the installer looks at."""
    return small_checkout(tmp_path / "small")


@pytest.fixture
def small_overlay(tmp_path, monkeypatch) -> Path:
    """An overlay of a few files that the installer takes for ours; a test may change it."""
    folder = part_of_overlay(tmp_path / "overlay")
    monkeypatch.setattr(install_overlay, "OVERLAY", folder)
    return folder


@pytest.fixture(scope="session")
def python_with_wheel(tmp_path_factory):
    """A function that makes an environment with one LlamaFactory, put there by pip, and returns its Python."""

    def make(version: str) -> Path:
        folder = tmp_path_factory.mktemp("environment") / "with space"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
        pip_install(folder / "bin" / "python", version)
        return folder / "bin" / "python"

    return make


@pytest.fixture(scope="session")
def unpatched_python(python_with_wheel) -> Path:
    """The Python of an environment that several tests share and restore."""
    return python_with_wheel("0.9.5")


def pip_install(python: Path, version: str, *options: str) -> None:
    """Install LlamaFactory's real wheel, without what it depends on."""
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-index", "--no-deps"]
    subprocess.run([*pip, "--no-compile", *options, str(wheel_file(version))], check=True)

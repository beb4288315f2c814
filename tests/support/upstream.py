"""Pristine LlamaFactory trees for the tests, taken from the wheels on the package index.

`wheel_tree("0.9.4")` is the folder that holds `llamafactory/` as upstream published it, unpacked once into
`outputs/upstream/0.9.4` and reused after that. `python tests/support/upstream.py` fetches every version the tests
need, so that the tests themselves can run without a network, and transformers 4 for those that read its checkpoints.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path


VERSIONS = ("0.9.4", "0.9.5")
# Git checkouts to test as well: a colon-separated list.
CHECKOUTS = [Path(path) for path in os.environ.get("UNI_DPO_CHECKOUTS", "").split(":") if path]
TREES = [*VERSIONS, *CHECKOUTS]

# The last transformers 4, with what it needs in other versions than transformers 5 does.
TRANSFORMERS_4 = ("transformers==4.57.6", "huggingface_hub==0.36.2", "tokenizers==0.22.2")
ROOT = Path(__file__).resolve().parents[2]
UPSTREAM = ROOT / "outputs" / "upstream"


def wheel_file(version: str) -> Path:
    """Return the wheel of one published version, downloading it the first time.

    Args:
        version: A version on the package index, such as "0.9.4".

    Returns:
        The wheel, in `outputs/upstream/`.

    Raises:
        RuntimeError: It could not be downloaded; the message ends with pip's own words.
    """
    wheel = UPSTREAM / f"llamafactory-{version}-py3-none-any.whl"
    if not wheel.is_file():
        UPSTREAM.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=UPSTREAM, prefix=f".{version}-") as scratch:
            _download(version, Path(scratch)).replace(wheel)
    return wheel


def wheel_tree(version: str) -> Path:
    """Return the folder holding one published `llamafactory` package, unpacking it the first time.

    Treat the tree as read-only: copy it before changing or importing anything in it.

    Args:
        version: A version on the package index.

    Returns:
        `outputs/upstream/<version>`, with `llamafactory/` and `llamafactory-<version>.dist-info/` inside.

    Raises:
        RuntimeError: The wheel could not be downloaded.
    """
    tree = UPSTREAM / version
    if not tree.is_dir():
        wheel = wheel_file(version)
        with tempfile.TemporaryDirectory(dir=UPSTREAM, prefix=f".{version}-") as scratch:
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(Path(scratch) / "unpacked")
            _put_in_place(Path(scratch) / "unpacked", tree)
    return tree


def source(tree: str | Path) -> Path:
    """Return the folder that holds `llamafactory/`, of a version or of a checkout."""
    return wheel_tree(tree) if isinstance(tree, str) else tree / "src"


def checkout_tree(version: str, destination: Path) -> Path:
    """Lay a published package out like a git checkout: `src/llamafactory` and a `src/train.py` beside it.

    Args:
        version: A version on the package index.
        destination: A folder that does not exist yet.

    Returns:
        `destination`.
    """
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(wheel_tree(version) / "llamafactory", destination / "src" / "llamafactory", ignore=ignored)
    launcher = "from llamafactory.train.tuner import run_exp\n\n\nif __name__ == '__main__':\n    run_exp()\n"
    (destination / "src" / "train.py").write_text(launcher)
    return destination


def overlaid(tree: str | Path, folder: Path) -> Path:
    """Copy a `llamafactory` package of a version or a checkout into a folder, and our overlay over it."""
    shutil.copytree(source(tree) / "llamafactory", folder / "llamafactory")
    shutil.copytree(ROOT / "LlamaFactory" / "src" / "llamafactory", folder / "llamafactory", dirs_exist_ok=True)
    return folder


def transformers_4() -> Path:
    """Return a folder with transformers 4, to be put first on the path; installed the first time.

    Raises:
        RuntimeError: It could not be installed; the message ends with pip's own words.
    """
    folder = UPSTREAM / "transformers-4"
    if not folder.is_dir():
        UPSTREAM.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=UPSTREAM, prefix=".transformers-") as scratch:
            command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", f"{scratch}/it"]
            done = subprocess.run([*command, *TRANSFORMERS_4], capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise RuntimeError(f"cannot install {TRANSFORMERS_4[0]} beside the other:\n{done.stderr.strip()}")
            _put_in_place(Path(scratch) / "it", folder)
    return folder


def path_of(tree: Path) -> list[str]:
    """Return what has to be on the path for the `llamafactory` in a folder: transformers 4, if it knows no 5."""
    loader = (tree / "llamafactory" / "model" / "loader.py").read_text(encoding="utf-8")
    return [str(tree), *([str(transformers_4())] if "AutoModelForVision2Seq" in loader else [])]


def _download(version: str, folder: Path) -> Path:
    """Fetch the wheel of one version into `folder` with pip, without its dependencies."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    done = subprocess.run(
        [*command, "--dest", str(folder), f"llamafactory=={version}"], capture_output=True, text=True, check=False
    )
    wheels = list(folder.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        raise RuntimeError(
            f"cannot download llamafactory {version}, which the tests compare against; "
            f"run `python tests/support/upstream.py` where the package index can be reached.\n{done.stderr.strip()}"
        )
    return wheels[0]


def _put_in_place(unpacked: Path, tree: Path) -> None:
    """Rename a finished tree to its name; losing the race against another test run is as good as winning it."""
    try:
        unpacked.rename(tree)
    except OSError:
        if not tree.is_dir():
            raise


if __name__ == "__main__":
    for wanted in VERSIONS:
        print(f"llamafactory {wanted}: {wheel_tree(wanted)}")
    print(f"{TRANSFORMERS_4[0]}: {transformers_4()}")

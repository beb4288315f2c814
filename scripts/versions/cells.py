"""Which versions go together: upstream, by the versions of transformers that it accepts by its own word."""

import re
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from common import ToolError
from install_overlay.kinds import LLAMAFACTORY, VLMEVAL, Kind


# Of every minor version the last release that upstream accepts is tried. 4.51 is older than what the overlay supports,
# and accepted by LlamaFactories up to January 2026: there the overlay has to refuse.
TRANSFORMERS = (
    *("4.51.3", "4.55.4", "4.56.2", "4.57.1", "4.57.6"),
    *("5.0.0", "5.2.0", "5.5.4", "5.6.0", "5.8.0"),
)

WORD = re.compile(r"""check_version\(["']transformers([^"']+)["']""")


@dataclass(frozen=True)
class Cell:
    """One environment to try.

    Attributes:
        kind: LlamaFactory or VLMEvalKit.
        version: A version on the package index, or the name of a checkout.
        checkout: Its folder; None for a version on the package index.
        transformers: The version of transformers.
    """

    kind: Kind
    version: str
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
        accepted = accepted_by(released_source(version), transformers)
        found += [Cell(LLAMAFACTORY, version, None, each) for each in accepted]
    if VLMEVAL in kinds:
        found += [Cell(VLMEVAL, vlmeval, None, each) for each in newest_of_minors(transformers)]
    for folder in checkouts:
        kind = kind_of(folder)
        if kind in kinds:
            misc = folder / LLAMAFACTORY.inside / "extras" / "misc.py"
            word = misc.read_text(encoding="utf-8") if kind is LLAMAFACTORY else ""
            found += [Cell(kind, folder.name, folder, each) for each in accepted_by(word, transformers)]
    return found


def kind_of(checkout: Path) -> Kind:
    """Tell which upstream a folder is a checkout of.

    Raises:
        ToolError: Of neither.
    """
    for kind in (LLAMAFACTORY, VLMEVAL):
        if (checkout / kind.inside / "__init__.py").is_file():
            return kind
    raise ToolError(f"--checkout {checkout}: neither a LlamaFactory ({LLAMAFACTORY.inside}) nor a VLMEvalKit checkout")


def accepted_by(source: str, transformers: list[str]) -> list[str]:
    """Choose versions of transformers that a LlamaFactory accepts when it starts, the newest of each minor version.

    Args:
        source: The text of its `extras/misc.py`; VLMEvalKit has no such thing, and accepts all.
        transformers: Versions to choose from.
    """
    word = WORD.search(source)
    accepts = SpecifierSet(word.group(1) if word else "")
    return newest_of_minors([version for version in transformers if accepts.contains(version)])


def newest_of_minors(versions: list[str]) -> list[str]:
    """Keep the newest of every minor version."""
    ordered = sorted(map(Version, versions))
    return [str(list(group)[-1]) for _, group in groupby(ordered, key=lambda version: version.release[:2])]


def released_source(version: str) -> str:
    """Read `extras/misc.py` of a LlamaFactory on the package index.

    Raises:
        ToolError: pip cannot download it; the message ends with pip's own words.
    """
    with tempfile.TemporaryDirectory() as scratch:
        pip = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--only-binary=:all:",
            "--dest",
            scratch,
        ]
        done = subprocess.run([*pip, f"llamafactory=={version}"], capture_output=True, text=True, check=False)
        wheels = list(Path(scratch).glob("*.whl"))
        if done.returncode != 0 or not wheels:
            raise ToolError(f"cannot download llamafactory {version}:\n{done.stderr.strip()}")
        with zipfile.ZipFile(wheels[0]) as wheel:
            return wheel.read("llamafactory/extras/misc.py").decode()

"""The installer on VLMEvalKit: a checkout and an installed package, in and out again, byte for byte."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from eval_tree import OVERLAY, TREES, pristine

from install_overlay import command as install_overlay
from install_overlay.kinds import VLMEVAL


FOR = ["--for", "vlmeval"]
SEAM_OF_2025 = "from .model import Qwen2VLChat\nfrom .prompt import Qwen2VLPromptMixin\n"


def contents(folder: Path) -> dict[str, str]:
    """Every file and link below a folder, with what it holds; folders count too."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            found[name] = f"link to {os.readlink(path)}"
        else:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
    return found


def laid_out(tree: str | Path, folder: Path) -> Path:
    """Copy upstream's package."""
    shutil.copytree(pristine(tree) / "vlmeval", folder, ignore=shutil.ignore_patterns("__pycache__", "*uni_dpo*"))
    seam = folder / "vlm" / "qwen2_vl" / "__init__.py"
    kept = pristine(tree) / VLMEVAL.record_folder / "replaced__init__.py"
    if kept.is_file():  # the installed package has the overlay: its own file is in the record
        seam.unlink()
        shutil.copy(kept, seam)
    return folder


@pytest.fixture(params=[(tree, kind) for tree in TREES for kind in ("checkout", "package")], ids=str)
def target(request, tmp_path):
    """A folder to compare, and the options that lead the installer to the VLMEvalKit in it."""
    tree, kind = request.param
    if kind == "checkout":
        laid_out(tree, tmp_path / "VLMEvalKit" / "vlmeval")
        (tmp_path / "VLMEvalKit" / "run.py").write_text("")
        return tmp_path / "VLMEvalKit", ["--checkout", str(tmp_path / "VLMEvalKit")]
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "environment"], check=True)
    site = next((tmp_path / "environment").glob("lib/python*/site-packages"))
    laid_out(tree, site / "vlmeval")
    return site, ["--python", str(tmp_path / "environment" / "bin" / "python")]


@pytest.fixture
def small(tmp_path):
    """A checkout with no more than the installer looks at."""
    for name, text in VLMEVAL.needed:
        path = tmp_path / "vlmeval" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n" if text else SEAM_OF_2025)
    (tmp_path / "vlmeval" / "__init__.py").write_text("__version__ = '0.2rc1'\n")
    return tmp_path


@pytest.mark.parametrize("how", ["--copy", "--link"])
def test_round_trip(target, how, capsys):
    folder, where = target
    before = contents(folder)
    assert install_overlay.main(["status", *FOR, *where]) == 1
    assert install_overlay.main(["install", *FOR, *where, how]) == 0
    capsys.readouterr()
    assert install_overlay.main(["status", *FOR, *where]) == 0
    assert "patched  yes, " + ("copied" if how == "--copy" else "linked") in capsys.readouterr().out
    for name in (
        "vlmeval/vlm/qwen2_vl/__init__.py",
        "vlmeval/uni_dpo/cli.py",
        "vlmeval/vlm/qwen2_vl/uni_dpo/model.py",
    ):
        assert (folder / name).read_bytes() == (OVERLAY / name).read_bytes()
    assert not (folder / "config.json").exists()
    assert install_overlay.main(["install", *FOR, *where]) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert install_overlay.main(["uninstall", *FOR, *where]) == 0
    assert contents(folder) == before


def test_both_versions_of_the_replaced_file_are_known(small):
    assert install_overlay.main(["install", *FOR, "--checkout", str(small)]) == 0
    assert install_overlay.main(["uninstall", *FOR, "--checkout", str(small)]) == 0
    assert (small / VLMEVAL.seam).read_text() == SEAM_OF_2025


def test_an_unknown_file_is_not_replaced(small, capsys):
    (small / VLMEVAL.seam).write_text(SEAM_OF_2025 + "# mine\n")
    before = contents(small)
    assert install_overlay.main(["install", *FOR, "--checkout", str(small)]) == 2
    message = capsys.readouterr().err
    assert "it was edited" in message and "a VLMEvalKit we have not seen" in message
    assert contents(small) == before
    assert install_overlay.main(["install", *FOR, "--checkout", str(small), "--force"]) == 0
    assert install_overlay.main(["uninstall", *FOR, "--checkout", str(small)]) == 0
    assert contents(small) == before


def test_one_is_not_taken_for_the_other(small, capsys):
    assert install_overlay.main(["install", "--checkout", str(small)]) == 2
    assert "not a LlamaFactory checkout" in capsys.readouterr().err
    (small / "vlmeval" / "vlm" / "base.py").write_text("")
    assert install_overlay.main(["install", *FOR, "--checkout", str(small)]) == 2
    assert "BaseModel" in capsys.readouterr().err

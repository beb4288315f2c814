"""The installer where something is there already: edits, older versions, copies by hand, pip's doings."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from installing import (
    PACKAGE,
    RECORD_FOLDER,
    SEAM,
    copy_of_overlay,
    part_of_overlay,
    pip_install,
    run,
    snapshot,
    without_record,
)
from upstream import wheel_tree

from install_overlay import command as install_overlay
from install_overlay.tree import Overlay


def test_unknown_file_is_not_replaced(small, capsys):
    (small / SEAM).write_text("from .workflow import run_dpo as run_dpo  # mine\n")
    before = snapshot(small)
    assert run("install", "--checkout", small) == 2
    message = capsys.readouterr().err
    assert before[SEAM][2] in message and "edited by hand" in message and "--force" in message
    assert snapshot(small) == before

    assert run("install", "--checkout", small, "--force") == 0
    assert run("status", "--checkout", small) == 0
    assert run("uninstall", "--checkout", small) == 0
    assert snapshot(small) == before


def test_unknown_file_is_guessed(small, capsys):
    content = (small / SEAM).read_bytes()
    (small / SEAM).write_bytes(content.replace(b"\n", b"\r\n"))
    assert run("install", "--checkout", small) == 2
    assert "Windows line endings" in capsys.readouterr().err
    (small / SEAM).write_text("print()\n")
    assert run("install", "--checkout", small) == 2
    assert "not a file of LlamaFactory" in capsys.readouterr().err


def test_edits_are_not_lost(small, capsys):
    run("install", "--checkout", small)
    edited = small / PACKAGE / "objective" / "loss.py"
    edited.write_text(edited.read_text() + "# mine\n")
    before = snapshot(small)
    for command in ("install", "uninstall"):
        assert run(command, "--checkout", small) == 2
        assert str(edited) in capsys.readouterr().err
        assert snapshot(small) == before
    assert run("install", "--checkout", small, "--force") == 0
    assert "# mine" not in edited.read_text()


def test_foreign_files_stay(small, capsys):
    run("install", "--checkout", small)
    mine = small / "examples/uni_dpo/mine.yaml"
    mine.write_text("mine: true\n")
    assert run("install", "--checkout", small, "--link") == 2
    assert str(mine) in capsys.readouterr().err
    assert run("status", "--checkout", small) == 0
    assert run("uninstall", "--checkout", small) == 0
    assert f"leave {mine}" in capsys.readouterr().out
    assert [path.name for path in mine.parent.iterdir()] == ["mine.yaml"]


def test_downloads_beside_our_data_are_not_installed(small, tmp_path, monkeypatch):
    """The recipe's pairs and images are told to lie in data/uni_dpo: gigabytes that belong to the user."""
    overlay = part_of_overlay(tmp_path / "overlay")
    monkeypatch.setattr(install_overlay, "OVERLAY", overlay)
    (overlay / "data" / "uni_dpo" / "MM-RLHF").mkdir()
    (overlay / "data" / "uni_dpo" / "MM-RLHF" / "1.jpg").write_bytes(b"an image")
    (overlay / "data" / "uni_dpo" / "pairs.json").write_text("[]")
    assert run("install", "--checkout", small) == 0
    assert [path.name for path in (small / "data" / "uni_dpo").iterdir()] == ["dataset_info.json"]


def test_upgrade_replaces_and_removes(small, tmp_path, monkeypatch, capsys):
    old = copy_of_overlay(tmp_path / "old")
    (old / PACKAGE / "__init__.py").write_text('__version__ = "0.0.9"\n')
    (old / PACKAGE / "former").mkdir()
    (old / PACKAGE / "former" / "gone.py").write_text("")
    (old / SEAM).write_text((old / SEAM).read_text() + "# older uni_dpo\n")
    before = snapshot(small)
    with monkeypatch.context() as patch:
        patch.setattr(install_overlay, "OVERLAY", old)
        run("install", "--checkout", small)
    assert run("status", "--checkout", small) == 0
    assert "0.0.9" in capsys.readouterr().out
    assert run("install", "--checkout", small) == 0
    assert not (small / PACKAGE / "former").exists()
    assert without_record(snapshot(small)).items() >= snapshot(copy_of_overlay(tmp_path / "new")).items()
    assert run("uninstall", "--checkout", small) == 0
    assert snapshot(small) == before


def test_laid_over_by_cp(small, capsys):
    """Known by status; uninstalled once upstream's file is back, which only its owner can bring."""
    before = snapshot(small)
    upstreams = (small / SEAM).read_bytes()
    for file in Overlay.read(install_overlay.OVERLAY).files:
        (small / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(install_overlay.OVERLAY / file, small / file)
    laid = snapshot(small)
    assert run("status", "--checkout", small) == 0
    assert "copied by cp -r" in capsys.readouterr().out
    assert run("uninstall", "--checkout", small) == 2
    message = capsys.readouterr().err
    assert "git checkout" in message and "0.9.5" in message
    assert snapshot(small) == laid
    (small / SEAM).write_bytes(upstreams)
    assert run("uninstall", "--checkout", small) == 0
    assert snapshot(small) == before


def test_laid_over_by_cp_in_a_git_checkout(small):
    """Git still has upstream's file, so nobody has to be asked for it."""
    git = ["git", "-C", str(small), "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message", "upstream"]):
        subprocess.run([*git, *command], check=True)
    subprocess.run(["cp", "-r", f"{install_overlay.OVERLAY}/.", f"{small}/"], check=True)
    assert run("install", "--checkout", small, "--force") == 0, "takes over what cp -r left"
    assert run("uninstall", "--checkout", small) == 0
    status = subprocess.run([*git, "diff", "--name-only"], capture_output=True, text=True, check=True)
    assert status.stdout == ""
    assert not (small / PACKAGE).exists()


def test_record_is_hidden_from_git(small):
    git = ["git", "-C", str(small)]
    subprocess.run([*git, "init", "--quiet"], check=True)
    run("install", "--checkout", small)
    status = subprocess.run([*git, "status", "--short", "--untracked-files=all"], capture_output=True, text=True)
    assert PACKAGE in status.stdout and RECORD_FOLDER not in status.stdout


def test_pip_upgrade_is_diagnosed_and_mended(python_with_wheel, capsys):
    python = python_with_wheel("0.9.4")
    run("install", "--python", python)
    pip_install(python, "0.9.5")
    site = next(python.parent.parent.glob("lib/python*/site-packages"))
    assert run("status", "--python", python) == 1
    assert "half" in (told := capsys.readouterr().out) and "reinstalled or upgraded" in told
    assert run("install", "--python", python) == 0
    assert run("status", "--python", python) == 0
    assert "llamafactory 0.9.5" in capsys.readouterr().out
    assert run("uninstall", "--python", python) == 0
    clean = site / "llamafactory"
    compiled = shutil.ignore_patterns("__pycache__")
    published = Path(tempfile.mkdtemp(dir=site.parent)) / "published"
    shutil.copytree(wheel_tree("0.9.5") / "llamafactory", published, ignore=compiled)
    assert {k: v for k, v in snapshot(clean).items() if "__pycache__" not in k} == snapshot(published)


def test_leftovers_of_a_removed_llamafactory(python_with_wheel, capsys):
    python = python_with_wheel("0.9.5")
    run("install", "--python", python)
    pip = [sys.executable, "-m", "pip", "--python", str(python), "uninstall", "--quiet", "--yes", "llamafactory"]
    subprocess.run(pip, check=True)
    assert run("install", "--python", python) == 2
    assert "not a complete llamafactory" in capsys.readouterr().err
    assert run("status", "--python", python) == 1
    assert "llamafactory itself was removed" in capsys.readouterr().out
    assert run("uninstall", "--python", python) == 0
    site = next(python.parent.parent.glob("lib/python*/site-packages"))
    assert not (site / "llamafactory").exists()

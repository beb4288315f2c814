"""The installer where something is there already: edits, earlier overlays of ours, copies by hand, pip's doings."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from installing import (
    LOSS,
    PACKAGE,
    RECORD_FOLDER,
    SEAM,
    copy_of_overlay,
    git_commit,
    lay_over,
    pip_install,
    run,
    snapshot,
    without_record,
)
from upstream import wheel_tree

from install_overlay import command as install_overlay


# Modules that overlays before this one had beside their `__init__.py`, where there are folders now.
FORMER = ("arguments.py", "collate.py", "data.py", "files.py", "loss.py", "trainer.py", "caches/work.py")


@pytest.mark.parametrize("found", ["upstream's, edited", "Windows line endings", "something else"])
def test_unknown_file_is_not_replaced(small, small_overlay, found, capsys):
    content = (small / SEAM).read_bytes()
    other = {"upstream's, edited": content + b"# mine\n", "Windows line endings": content.replace(b"\n", b"\r\n")}
    (small / SEAM).write_bytes(other.get(found, b"print()\n"))
    before = snapshot(small)
    assert run("install", "--checkout", small) == 2
    message = capsys.readouterr().err
    assert before[SEAM][2] in message and "edited, has other line endings" in message and "--force" in message
    assert snapshot(small) == before

    assert run("install", "--checkout", small, "--force") == 0
    assert run("status", "--checkout", small) == 0
    assert run("uninstall", "--checkout", small) == 0
    assert snapshot(small) == before


def test_edits_are_not_lost(small, small_overlay, capsys):
    run("install", "--checkout", small)
    (small / LOSS).write_text((small / LOSS).read_text() + "# mine\n")
    before = snapshot(small)
    for command in ("install", "uninstall"):
        assert run(command, "--checkout", small) == 2
        assert str(small / LOSS) in capsys.readouterr().err
        assert snapshot(small) == before
    assert run("install", "--checkout", small, "--force") == 0
    assert "# mine" not in (small / LOSS).read_text()


def test_foreign_files_stay(small, small_overlay, capsys):
    run("install", "--checkout", small)
    mine = small / "examples/uni_dpo/mine.yaml"
    mine.write_text("mine: true\n")
    assert run("install", "--checkout", small, "--link") == 2
    assert str(mine) in capsys.readouterr().err
    assert run("status", "--checkout", small) == 0
    assert run("uninstall", "--checkout", small) == 0
    assert f"leave {mine}" in capsys.readouterr().out
    assert [path.name for path in mine.parent.iterdir()] == ["mine.yaml"]


# ---- earlier overlays of ours ----


@pytest.fixture
def earlier(tmp_path) -> Path:
    """An overlay before this one: flat, of another version, with another replaced file."""
    folder = copy_of_overlay(tmp_path / "earlier")
    shutil.rmtree(folder / PACKAGE)
    for name in FORMER:
        (folder / PACKAGE / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / PACKAGE / name).write_text(f"raise ImportError('{name} of an earlier overlay')\n")
    (folder / PACKAGE / "__init__.py").write_text('__version__ = "0.0.9"\n')
    (folder / PACKAGE / "caches" / "__init__.py").write_text("")
    (folder / SEAM).write_text((folder / SEAM).read_text() + "# older uni_dpo\n")
    return folder


def former_in(checkout: Path) -> list[str]:
    return [name for name in FORMER if (checkout / PACKAGE / name).exists()]


@pytest.mark.parametrize("kind", ["--copy", "--link"])
def test_upgrade_of_an_installation(small, earlier, tmp_path, monkeypatch, capsys, kind):
    before = snapshot(small)
    with monkeypatch.context() as patch:
        patch.setattr(install_overlay, "OVERLAY", earlier)
        assert run("install", "--checkout", small, kind) == 0
    assert run("status", "--checkout", small) == 0
    assert "0.0.9" in capsys.readouterr().out
    assert run("install", "--checkout", small, "--copy") == 0
    assert former_in(small) == []
    assert without_record(snapshot(small)).items() >= snapshot(copy_of_overlay(tmp_path / "new")).items()
    assert run("uninstall", "--checkout", small) == 0
    assert snapshot(small) == before


@pytest.mark.parametrize("new_one_too", [False, True])
def test_upgrade_of_a_copy(small, earlier, tmp_path, capsys, new_one_too):
    """The earlier one came by `cp -r`, and perhaps this one over it: status names what is left, install removes it."""
    lay_over(earlier, small)
    if new_one_too:
        lay_over(copy_of_overlay(tmp_path / "new"), small)
    assert former_in(small) == list(FORMER)
    assert run("status", "--checkout", small) == (0 if new_one_too else 1)
    assert not new_one_too or (f"{PACKAGE}/arguments.py" in (told := capsys.readouterr().out) and "unknown" in told)
    laid = snapshot(small)
    assert run("install", "--checkout", small) == 2
    message = capsys.readouterr().err
    assert all(f"{small / PACKAGE / name}\n" in message for name in FORMER) and "--force" in message
    assert snapshot(small) == laid
    assert run("install", "--checkout", small, "--force") == 0
    assert former_in(small) == [] and (small / LOSS).is_file()
    assert run("status", "--checkout", small) == 0
    assert "unknown" not in capsys.readouterr().out


def test_modules_that_an_earlier_installer_left(small, small_overlay, capsys):
    """Beside a record, in which they are not: they may be the user's. Named by status and install; --force removes."""
    run("install", "--checkout", small)
    (small / PACKAGE / "arguments.py").write_text("")
    for command in ("install", "status"):
        capsys.readouterr()
        assert run(command, "--checkout", small) == 0
        assert "uni_dpo/arguments.py" in capsys.readouterr().out
    assert run("install", "--checkout", small, "--force") == 0
    assert not (small / PACKAGE / "arguments.py").exists()


# ---- copies by hand, git and pip ----


def test_laid_over_by_cp(small, small_overlay, capsys):
    """Known by status; uninstalled once upstream's file is back, which only its owner can bring."""
    before = snapshot(small)
    upstreams = (small / SEAM).read_bytes()
    lay_over(small_overlay, small)
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


def test_laid_over_by_cp_in_a_git_checkout(small, small_overlay):
    """Git still has upstream's file, so nobody has to be asked for it; and it does not see the record."""
    git = git_commit(small)
    lay_over(small_overlay, small)
    assert run("install", "--checkout", small) == 0, "takes over what cp -r left"
    seen = subprocess.run([*git, "status", "--short", "--untracked-files=all"], capture_output=True, text=True)
    assert PACKAGE in seen.stdout and RECORD_FOLDER not in seen.stdout
    assert run("uninstall", "--checkout", small) == 0
    seen = subprocess.run([*git, "status", "--short"], capture_output=True, text=True, check=True)
    assert seen.stdout == ""


def test_pip_over_the_overlay(python_with_wheel, capsys):
    """An upgrade brings upstream's file back, which status says and install mends; uninstalling leaves ours."""
    python = python_with_wheel("0.9.4")
    site = next(python.parent.parent.glob("lib/python*/site-packages"))
    run("install", "--python", python)
    pip_install(python, "0.9.5")
    assert run("status", "--python", python) == 1
    assert "half" in (told := capsys.readouterr().out) and "reinstalled or upgraded" in told
    assert run("install", "--python", python) == 0
    assert run("status", "--python", python) == 0
    assert "llamafactory 0.9.5" in capsys.readouterr().out
    assert run("uninstall", "--python", python) == 0
    published = Path(tempfile.mkdtemp(dir=site.parent)) / "published"
    shutil.copytree(wheel_tree("0.9.5") / "llamafactory", published, ignore=shutil.ignore_patterns("__pycache__"))
    clean = {name: found for name, found in snapshot(site / "llamafactory").items() if "__pycache__" not in name}
    assert clean == snapshot(published)

    run("install", "--python", python)
    pip = [sys.executable, "-m", "pip", "--python", str(python), "uninstall", "--quiet", "--yes", "llamafactory"]
    subprocess.run(pip, check=True)
    assert run("install", "--python", python) == 2
    assert "not a complete llamafactory" in capsys.readouterr().err
    assert run("status", "--python", python) == 1
    assert "llamafactory itself was removed" in capsys.readouterr().out
    assert run("uninstall", "--python", python) == 0
    assert not (site / "llamafactory").exists()

"""The installer cut off at every change of the file system, and everything that can fail half way."""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from installing import LOSS, PACKAGE, SEAM, part_of_overlay, run, small_checkout, snapshot

from install_overlay import command as install_overlay
from install_overlay.kinds import LLAMAFACTORY
from install_overlay.ours import Installation, Overlay
from install_overlay.status import diagnose
from install_overlay.target import from_checkout


# ---- cut off anywhere ----


CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.symlink", "os.chmod", "shutil.copyfile"}


def run_and_die(arguments: list[str], change: int) -> bool:
    """Run the installer in a child that dies before its n-th change of the file system; tell whether it died."""
    child = os.fork()
    if child == 0:
        left = change

        def count(event: str, details: tuple) -> None:
            nonlocal left
            writes = event == "open" and isinstance(details[2], int) and details[2] & (os.O_WRONLY | os.O_RDWR)
            if event in CHANGES or writes:
                left -= 1
                if left < 0:
                    os._exit(9)

        with open(os.devnull, "w") as quiet, contextlib.redirect_stdout(quiet):
            sys.addaudithook(count)
            os._exit(run(*arguments))
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 9)
    return code == 9


INTERRUPTED = {
    "install": ([], ["install"]),
    "link": ([], ["install", "--link"]),
    "copy to link": ([["install"]], ["install", "--link"]),
    "link to copy": ([["install", "--link"]], ["install", "--copy"]),
    "uninstall": ([["install"]], ["uninstall"]),
    "uninstall links": ([["install", "--link"]], ["uninstall"]),
}


WIDER = ("link", "copy to link", "link to copy", "uninstall links")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.long] if name in WIDER else []) for name in INTERRUPTED]
)
def test_cut_off_at_every_change(small, small_overlay, tmp_path, name):
    """The same command completes it, uninstall takes it back, and status never takes half for whole."""
    earlier, command = INTERRUPTED[name]
    shutil.rmtree(small_overlay / "data")  # one file of each sort is enough: every change is a trial
    (small_overlay / "scripts/change_data_image_path.py").unlink()
    pristine = snapshot(small)
    start, finished = tmp_path / "start", tmp_path / "finished"
    shutil.copytree(small, start)
    for step in earlier:
        run(*step, "--checkout", start)
    shutil.copytree(start, finished, symlinks=True)
    run(*command, "--checkout", finished)
    complete = snapshot(finished)

    change = 0
    while True:
        trial = tmp_path / f"trial{change}"
        shutil.copytree(start, trial, symlinks=True)
        died = run_and_die([*command, "--checkout", str(trial)], change)
        if diagnose(Installation(from_checkout(trial), Overlay.read(small_overlay, LLAMAFACTORY))).patched:
            assert (trial / SEAM).read_bytes() == (small_overlay / SEAM).read_bytes()
            assert (trial / PACKAGE / "__init__.py").is_file()
        back = tmp_path / "back"
        shutil.copytree(trial, back, symlinks=True)
        assert run("uninstall", "--checkout", back) == 0
        assert snapshot(back) == pristine
        assert run(*command, "--checkout", trial) == 0
        assert snapshot(trial) == complete
        shutil.rmtree(back)
        shutil.rmtree(trial)
        if not died:
            break
        change += 1
    assert change > 5
    assert not any(name.endswith(".unfinished") for name in complete)


def test_half_states_are_told(small, small_overlay, capsys):
    run("install", "--checkout", small)
    shutil.rmtree(small / PACKAGE)
    assert run("status", "--checkout", small) == 1
    assert "uni_dpo is missing" in capsys.readouterr().out
    assert run("install", "--checkout", small) == 0
    (small / LOSS).unlink()
    assert run("status", "--checkout", small) == 1
    assert f"missing {LOSS}" in capsys.readouterr().out
    assert run("install", "--checkout", small) == 0
    assert run("status", "--checkout", small) == 0


def test_link_to_a_repository_that_moved(small, tmp_path, monkeypatch, capsys):
    before = snapshot(small)
    with monkeypatch.context() as patch:
        patch.setattr(install_overlay, "OVERLAY", part_of_overlay(tmp_path / "repository" / "LlamaFactory"))
        run("install", "--checkout", small, "--link")
    shutil.rmtree(tmp_path / "repository")
    assert run("status", "--checkout", small) == 1
    assert "half" in capsys.readouterr().out
    assert run("install", "--checkout", small) == 0
    assert run("status", "--checkout", small) == 0
    assert run("uninstall", "--checkout", small) == 0
    assert snapshot(small) == before


# ---- what fails ----


@contextlib.contextmanager
def ordinary_user():
    """Give up the administrator's right to write everywhere, if we have it."""
    administrator = os.geteuid() == 0
    if administrator:
        os.setresuid(65534, 65534, 0)
    try:
        yield
    finally:
        if administrator:
            os.setresuid(0, 0, 0)


@pytest.mark.parametrize("locked", ["src/llamafactory/train", "src/llamafactory/train/dpo", "."])
def test_read_only_target(locked, monkeypatch, capsys):
    """Nothing at all is changed, however deep the folder that may not be written."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        monkeypatch.setattr(install_overlay, "OVERLAY", part_of_overlay(folder / "overlay"))
        checkout = small_checkout(folder / "checkout")
        subprocess.run(["chmod", "-R", "a+rwX", folder], check=True)
        (checkout / locked).chmod(0o555)
        before = snapshot(checkout)
        with ordinary_user():
            assert run("install", "--checkout", checkout) == 2
        assert f"no permission to write in {checkout / locked}" in capsys.readouterr().err
        assert snapshot(checkout) == before
        (checkout / locked).chmod(0o755)


def test_full_disk_is_told(small, small_overlay, capsys, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfile", full)
        assert run("install", "--checkout", small) == 2
    assert "No space left" in (told := capsys.readouterr().err) and "same command again" in told
    assert run("install", "--checkout", small) == 0
    assert run("status", "--checkout", small) == 0

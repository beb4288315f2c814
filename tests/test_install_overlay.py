"""The installer against real LlamaFactory trees: in and out again, and which LlamaFactory is meant."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from installing import KINDS, PACKAGE, SEAM, copy_of_overlay, run, snapshot, without_record
from upstream import VERSIONS

from install_overlay import command as install_overlay
from install_overlay.target import from_checkout, interpreter_of


# ---- in and out again ----


@pytest.mark.parametrize("kind", KINDS)
def test_checkout_round_trip(checkout, kind, capsys):
    before = snapshot(checkout)
    assert run("status", "--checkout", checkout) == 1
    assert run("install", "--checkout", checkout, kind) == 0
    assert run("status", "--checkout", checkout) == 0
    assert ("yes, linked" if kind == "--link" else "yes, copied") in capsys.readouterr().out
    assert run("uninstall", "--checkout", checkout) == 0
    assert run("status", "--checkout", checkout) == 1
    assert snapshot(checkout) == before


@pytest.mark.parametrize("kind", KINDS)
def test_installed_package_round_trip(python_with_wheel, kind, capsys):
    python = python_with_wheel("0.9.4")
    site = next(python.parent.parent.glob("lib/python*/site-packages"))
    before = snapshot(site)
    assert run("status", "--python", python) == 1
    assert run("install", "--python", python, kind) == 0
    installed = set(snapshot(site)) - set(before)
    assert all(name.startswith("llamafactory/train/") for name in installed)
    assert (site / "llamafactory/train/uni_dpo/objective/loss.py").is_file()
    assert run("status", "--python", python) == 0
    assert run("uninstall", "--python", python) == 0
    assert run("status", "--python", python) == 1
    assert snapshot(site) == before


def test_same_tree_as_cp(tmp_path, checkout, monkeypatch):
    """Permissions included: the scripts stay executable."""
    monkeypatch.setattr(install_overlay, "OVERLAY", copy_of_overlay(tmp_path / "overlay"))
    copied = tmp_path / "copied"
    shutil.copytree(checkout, copied)
    subprocess.run(["cp", "-r", f"{install_overlay.OVERLAY}/.", f"{copied}/"], check=True)
    assert run("install", "--checkout", checkout) == 0
    assert without_record(snapshot(checkout)) == snapshot(copied)


def test_compiled_files_of_ours_go_too(checkout):
    before = snapshot(checkout)
    run("install", "--checkout", checkout)
    subprocess.run([sys.executable, "-m", "compileall", "-q", checkout / PACKAGE], check=True)
    assert list((checkout / PACKAGE).rglob("*.pyc"))
    run("uninstall", "--checkout", checkout)
    assert snapshot(checkout) == before


def test_second_install_writes_nothing(checkout, capsys):
    run("install", "--checkout", checkout)
    times = {path: path.lstat().st_mtime_ns for path in checkout.rglob("*")}
    assert run("install", "--checkout", checkout) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert {path: path.lstat().st_mtime_ns for path in checkout.rglob("*")} == times


def test_uninstall_of_nothing_changes_nothing(checkout, capsys):
    before = snapshot(checkout)
    assert run("uninstall", "--checkout", checkout) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert snapshot(checkout) == before


@pytest.mark.parametrize("kind", KINDS)
def test_dry_run_changes_nothing_and_tells_all(checkout, kind, capsys):
    before = snapshot(checkout)
    assert run("install", "--checkout", checkout, kind, "--dry-run") == 0
    assert snapshot(checkout) == before
    told = capsys.readouterr().out
    run("install", "--checkout", checkout, kind)
    new = [name for name in without_record(snapshot(checkout)) if name not in before]
    assert all(str(checkout / name) in told for name in new if not (checkout / name).is_dir())
    assert str(checkout / SEAM) in told

    installed = snapshot(checkout)
    assert run("uninstall", "--checkout", checkout, "--dry-run") == 0
    assert snapshot(checkout) == installed
    assert f"restore {checkout / SEAM}" in capsys.readouterr().out


def test_copy_to_link_and_back(checkout):
    run("install", "--checkout", checkout)
    copied = snapshot(checkout)
    assert run("install", "--checkout", checkout, "--link") == 0
    assert (checkout / PACKAGE).is_symlink() and (checkout / SEAM).is_symlink()
    assert run("install", "--checkout", checkout) == 0
    assert (checkout / PACKAGE).is_symlink(), "without --copy an installation keeps its kind"
    assert run("install", "--checkout", checkout, "--copy") == 0
    assert snapshot(checkout) == copied


def test_linked_sources_survive(checkout, tmp_path, monkeypatch):
    """Neither going back to copies nor uninstalling may reach through a link into the repository."""
    monkeypatch.setattr(install_overlay, "OVERLAY", copy_of_overlay(tmp_path / "overlay"))
    sources = snapshot(install_overlay.OVERLAY)
    for last in (["install", "--copy"], ["uninstall"]):
        run("install", "--checkout", checkout, "--link")
        assert run(*last, "--checkout", checkout) == 0
        assert snapshot(install_overlay.OVERLAY) == sources


# ---- which LlamaFactory ----


def test_status_tells_the_commands_apart(python_with_wheel, unpatched_python, small, capsys, monkeypatch):
    """One environment asked about, another on PATH, and a checkout: each with its own answer."""
    asked, other = unpatched_python, python_with_wheel("0.9.4")
    run("install", "--python", other)
    monkeypatch.setenv("PATH", f"{other.parent}:{os.environ['PATH']}")
    capsys.readouterr()
    assert run("status", "--python", asked) == 1
    beside, on_path = capsys.readouterr().out.split("\n\n")[2:]
    assert str(asked.parent / "llamafactory-cli") in beside and "patched  no" in beside and "0.9.5" in beside
    assert str(other.parent / "llamafactory-cli") in on_path and "patched  yes" in on_path and "0.9.4" in on_path
    assert run("status", "--python", asked, "--checkout", small) == 1
    assert run("install", "--checkout", small) == 0
    assert run("status", "--python", asked, "--checkout", small) == 0
    monkeypatch.chdir(small)
    capsys.readouterr()
    assert run("status", "--python", asked) == 1, "the checkout one stands in is shown, but was not asked about"
    assert f"python src/train.py in {small}" in capsys.readouterr().out


def test_console_scripts_of_every_kind(unpatched_python, tmp_path):
    assert interpreter_of(unpatched_python.parent / "llamafactory-cli") == unpatched_python
    for head, expected in (("#!/usr/bin/env python3", "python3"), ("#!/usr/bin/python3.11 -E", "/usr/bin/python3.11")):
        script = tmp_path / "llamafactory-cli"
        script.write_text(f"{head}\nimport sys\n")
        assert str(interpreter_of(script)) == expected


def test_editable_install_leads_to_its_checkout(checkout, tmp_path, capsys):
    """An editable install is a .pth file that names the checkout's src."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "e"], check=True)
    site = next((tmp_path / "e").glob("lib/python*/site-packages"))
    (site / "_editable_impl_llamafactory.pth").write_text(f"{checkout / 'src'}\n")
    assert run("install", "--python", tmp_path / "e/bin/python") == 0
    assert f"editable install of {checkout}" in capsys.readouterr().out
    assert (checkout / "examples/uni_dpo").is_dir()
    assert run("status", "--checkout", checkout) == 0


def test_nothing_is_imported(unpatched_python):
    """Without torch and all the rest, importing llamafactory would fail; asking about it does not."""
    importing = [unpatched_python, "-c", "import llamafactory.train.tuner"]
    assert subprocess.run(importing, capture_output=True, check=False).returncode != 0
    assert run("install", "--python", unpatched_python) == 0
    assert run("uninstall", "--python", unpatched_python) == 0


def test_current_folder_does_not_count(unpatched_python, small, monkeypatch, capsys):
    """Standing in a checkout's src does not change what llamafactory-cli uses."""
    monkeypatch.chdir(small / "src")
    capsys.readouterr()
    run("status", "--python", unpatched_python)
    assert str(unpatched_python.parent.parent) in capsys.readouterr().out.split("uses")[1]


def test_as_a_script(tmp_path):
    """From anywhere, with nothing but the standard library, and with help that shows how."""
    script = Path(__file__).resolve().parents[1] / "scripts" / "install_overlay.py"
    done = subprocess.run([sys.executable, "-S", script, "--help"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0 and "--checkout ~/LLaMA-Factory" in done.stdout and "exit codes" in done.stdout


def test_overlay_stays_within_its_folders(tmp_path, monkeypatch, small, capsys):
    overlay = copy_of_overlay(tmp_path / "overlay")
    (overlay / "src/llamafactory/data").mkdir()
    (overlay / "src/llamafactory/data/collator.py").write_text("")
    monkeypatch.setattr(install_overlay, "OVERLAY", overlay)
    assert run("install", "--checkout", small) == 2
    assert "would replace more of upstream" in capsys.readouterr().err


def test_version_of_every_upstream(checkout):
    assert from_checkout(checkout).version in VERSIONS

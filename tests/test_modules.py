"""Every module of the overlay can be the first one imported, and knows no more than it should."""

import ast
import graphlib
import importlib.util
import subprocess
import sys
from pathlib import Path

import grimp
import pytest
from pairs import ROOT


PACKAGE = ROOT / "LlamaFactory" / "src" / "llamafactory" / "train" / "uni_dpo"
FILES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))
MODULES = [".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in FILES]
TOOLS = [
    "pair_data",
    "launcher",
    "rounds",
    *sorted(path.parent.name for path in (ROOT / "scripts").glob("*/__init__.py")),
]
ENGINE = sorted(str(path.relative_to(PACKAGE / "engine").with_suffix("")) for path in PACKAGE.rglob("engine/**/*.py"))


def import_each_first() -> None:
    """Import each module after every module of LlamaFactory has been forgotten."""
    for name in ["llamafactory.train.dpo", *(f"llamafactory.train.uni_dpo.{module}" for module in MODULES)]:
        for loaded in [module for module in sys.modules if module.startswith("llamafactory")]:
            del sys.modules[loaded]
        importlib.import_module(name)


def test_every_module_can_be_imported_first(host):
    ending = host.run(f"{__name__}:import_each_first")
    assert ending.status == 0, ending.said[-2000:]


def test_rooms_know_only_those_below_them():
    """Contracts and reasons stand in pyproject.toml."""
    lint = [Path(sys.executable).with_name("lint-imports"), "--no-cache", str(ROOT / "pyproject.toml")]
    done = subprocess.run(lint, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "2 kept, 0 broken" in done.stdout, done.stdout[-2000:] + done.stderr


@pytest.mark.parametrize("name", TOOLS)
def test_tools_have_no_circle_of_imports(name):
    graph = grimp.build_graph(name, cache_dir=None)
    known = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    assert len(list(graphlib.TopologicalSorter(known).static_order())) == len(known) > 1


@pytest.mark.parametrize("module", ["errors", *(f"objective/{path.stem}" for path in PACKAGE.glob("objective/*.py"))])
def test_knows_only_torch(module):
    standard = {"collections", "contextlib", "dataclasses", "functools", "os", "sys", "typing"}
    assert imports(PACKAGE / f"{module}.py") <= standard | {"torch"}


@pytest.mark.parametrize("module", ["data/scores", "record/pair_log", "training/resume"])
def test_knows_nothing_of_llamafactory(module):
    """`...` would lead there."""
    assert not [name for name in imports(PACKAGE / f"{module}.py") if "llamafactory" in name or name.startswith("...")]


@pytest.mark.parametrize("module", ENGINE)
def test_engine_knows_torch_and_transformers_only(module):
    """Nothing of LlamaFactory, and nothing outside its own folder: `..` would lead there."""
    known = sys.stdlib_module_names | {"flash_attn", "torch", "transformers"}
    assert imports(PACKAGE / "engine" / f"{module}.py") <= known


def import_engine_alone() -> None:
    """Import the folder under another name where LlamaFactory cannot be imported."""
    for loaded in [module for module in sys.modules if module.startswith("llamafactory")]:
        del sys.modules[loaded]
    sys.modules["llamafactory"] = None
    path = PACKAGE / "engine"
    spec = importlib.util.spec_from_file_location(
        "apart", path / "__init__.py", submodule_search_locations=[str(path)]
    )
    sys.modules["apart"] = apart = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(apart)
    assert callable(apart.pair_logps) and "flash_attn" not in sys.modules


def test_engine_runs_without_llamafactory(host):
    ending = host.run(f"{__name__}:import_engine_alone")
    assert ending.status == 0, ending.said[-2000:]


def imports(path: Path) -> set[str]:
    """Top-level names of absolute imports, and relative ones with their dots when they leave the package."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level != 1:
            found.add("." * node.level + (node.module or "").split(".")[0])
    return found

"""Every name of upstream packages that our sources touch, read out of the sources themselves.

`python tests/support/upstream_names.py` prints them. Found are: what is imported; attributes of imported modules and
classes; what `workflow.py` swaps; options that are read; and of our subclasses what they call through `super()`, what
they override, and the attributes of `self` that they do not set. Not found is what goes through a name that says
nothing (`model.model.visual`): `contract.py` lists that by hand.
"""

import ast
import functools
from collections.abc import Iterator
from pathlib import Path


ROOT = Path(__file__).resolve().parents[2]
PACKAGES = (
    "llamafactory",
    "transformers",
    "trl",
    "peft",
    "accelerate",
    "deepspeed",
    "vlmeval",
    "qwen_vl_utils",
    "vllm",
)
TRAINING = ROOT / "LlamaFactory" / "src" / "llamafactory" / "train"
EVALUATION = ROOT / "VLMEvalKit" / "vlmeval"

# Our sources by the name under which they are imported. The two replaced files are upstream's packages.
OURS = {
    "llamafactory.train.uni_dpo": TRAINING / "uni_dpo",
    "pair_data": ROOT / "LlamaFactory" / "scripts" / "uni_dpo" / "pair_data",
    "vlmeval.uni_dpo": EVALUATION / "uni_dpo",
    "vlmeval.vlm.qwen2_vl.uni_dpo": EVALUATION / "vlm" / "qwen2_vl" / "uni_dpo",
}
REPLACED = {"llamafactory.train.dpo": TRAINING / "dpo", "vlmeval.vlm.qwen2_vl": EVALUATION / "vlm" / "qwen2_vl"}

# Parameters that hold something of upstream's wherever they occur, and the file that says what of it is ours.
TRAINER = "llamafactory.train.dpo.trainer.CustomDPOTrainer"
HOLDERS = {
    "model_args": ("llamafactory.hparams.ModelArguments", ()),
    "data_args": ("llamafactory.hparams.DataArguments", ()),
    "training_args": ("transformers.Seq2SeqTrainingArguments", ()),
    "finetuning_args": ("llamafactory.hparams.FinetuningArguments", ("options/arguments.py", "options/fields.py")),
    "trainer": (TRAINER, ("training/trainer.py",)),
}
OPTIONS = TRAINING / "uni_dpo" / "options" / "fields.py"  # our class of options is made of these, too
SET_BY_US = ("llamafactory.hparams.FinetuningArguments.stops_after_caches",)  # in caches/__main__.py


def touched() -> dict[str, str]:
    """Return every name with its packages, and a place in our sources that touches it."""
    sources, bases = _read()
    touches: dict[str, str] = {}
    for source in sources:
        for name, line in source.names(bases):
            if _is_upstreams(name) and name not in SET_BY_US:
                touches.setdefault(name, f"{source.path.relative_to(ROOT)}:{line}")
    return dict(sorted(touches.items()))


def overrides() -> dict[str, set[str]]:
    """Return upstream's classes that ours are made of, and the names that ours define, new or overridden."""
    sources, bases = _read()
    found: dict[str, set[str]] = {}
    for source in sources:
        for base, names in source.overrides(bases):
            found.setdefault(base, set()).update(names)
    return found


def _read() -> tuple[list["_Source"], dict[str, list[str]]]:
    """Read all sources; the second is what each of our classes is made of in the end, by name."""
    sources = list(_sources())
    bases = {name: found for source in sources for name, found in source.bases().items()}
    for _ in range(3):  # subclasses of our own subclasses
        bases = {name: [b for base in found for b in bases.get(base, [base])] for name, found in bases.items()}
    return sources, bases


def _sources() -> Iterator["_Source"]:
    for package, folder in OURS.items():
        for path in sorted(folder.rglob("*.py")):
            parts = (package, *path.relative_to(folder).with_suffix("").parts)
            yield _Source(path, ".".join(parts).removesuffix(".__init__"))
    for package, folder in REPLACED.items():
        yield _Source(folder / "__init__.py", package)


class _Source:
    """One module of ours, and what the names in it stand for."""

    def __init__(self, path: Path, module: str):
        self.path, self.tree = path, ast.parse(path.read_text())
        self.nodes = list(ast.walk(self.tree))
        self.package = module if path.name == "__init__.py" else module.rpartition(".")[0]
        self.imports = dict(self._imports())
        self.known = self.imports | {name: module for node in self.nodes for name, module in _lookups(node)}

    def bases(self) -> dict[str, list[str]]:
        """Return our classes and what they are made of: upstream's, with packages, and ours, by name."""
        classes = [node for node in self.nodes if isinstance(node, ast.ClassDef)]
        return {node.name: [self._full(base) for base in node.bases if isinstance(base, ast.Name)] for node in classes}

    def names(self, bases: dict[str, list[str]]) -> Iterator[tuple[str, int]]:
        """Find names with the line that touches them, ours among them."""
        for node in self.nodes:
            if isinstance(node, ast.Import | ast.ImportFrom):
                yield from ((name, node.lineno) for name in self._imported(node).values())
            elif isinstance(node, ast.Attribute):
                yield from ((name, node.lineno) for name in self._attribute(node))
            elif isinstance(node, ast.Call):
                yield from ((name, node.lineno) for name in self._call(node))
            elif isinstance(node, ast.ClassDef):
                upstreams = [base for base in bases.get(node.name, []) if _is_upstreams(base)]
                for base in upstreams[-1:]:  # the others are mixins
                    asked = _asked_of_base(node) - _defined_in(self.path) - _defined_in(OPTIONS)
                    yield from ((f"{base}.{name}", node.lineno) for name in asked | _called_of_base(node))

    def overrides(self, bases: dict[str, list[str]]) -> Iterator[tuple[str, set[str]]]:
        """Find upstream's classes under ours, and all that ours define, which may override something or not."""
        for node in self.nodes:
            if isinstance(node, ast.ClassDef):
                yield from ((base, _defined_in_class(node)) for base in bases[node.name] if _is_upstreams(base))

    def _full(self, base: ast.Name) -> str:
        name = self.imports.get(base.id, base.id)
        return name if _is_upstreams(name) else base.id

    def _imports(self) -> Iterator[tuple[str, str]]:
        for node in self.nodes:
            if isinstance(node, ast.Import | ast.ImportFrom):
                yield from self._imported(node).items()

    def _imported(self, node: ast.Import | ast.ImportFrom) -> dict[str, str]:
        if isinstance(node, ast.Import):
            return {alias.asname or alias.name: alias.name for alias in node.names}
        above = self.package.split(".")
        above = above[: len(above) - node.level + 1] if node.level else []
        module = ".".join([*above, *filter(None, [node.module])])
        return {alias.asname or alias.name: f"{module}.{alias.name}" for alias in node.names}

    def _attribute(self, node: ast.Attribute) -> Iterator[str]:
        chain, root = [node.attr], node.value
        while isinstance(root, ast.Attribute):
            chain, root = [root.attr, *chain], root.value
        if module := _looked_up(root):
            yield ".".join([module, *chain])
        elif isinstance(root, ast.Name):
            yield from self._of(root.id, chain[0] if root.id in HOLDERS else ".".join(chain))

    def _call(self, node: ast.Call) -> Iterator[str]:
        called = getattr(node.func, "id", "")
        if called == "_swapped":
            yield from (f"llamafactory.{node.args[0].value}.{keyword.arg}" for keyword in node.keywords)
        elif called in ("getattr", "hasattr", "setattr") and isinstance(node.args[1], ast.Constant):
            yield from self._of(getattr(node.args[0], "id", ""), node.args[1].value)

    def _of(self, holder: str, name: str) -> Iterator[str]:
        if holder in self.known:
            yield f"{self.known[holder]}.{name}"
        elif holder in HOLDERS:
            upstream, files = HOLDERS[holder]
            if not any(name in _defined_in(TRAINING / "uni_dpo" / file) for file in files):
                yield f"{upstream}.{name}"


def _is_upstreams(name: str) -> bool:
    ours = any(name == package or name.startswith(f"{package}.") for package in (*OURS, *REPLACED))
    inside_replaced = name.startswith(("llamafactory.train.dpo.", "vlmeval.vlm.qwen2_vl."))
    ours = ours and not (inside_replaced and ".uni_dpo" not in name)
    return name.partition(".")[0] in PACKAGES and not ours


def _looked_up(node: ast.AST) -> str | None:
    """Resolve `upstream_module("data.loader")`, which is how `swaps.py` comes to upstream's modules."""
    if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "upstream_module":
        return f"llamafactory.{node.args[0].value}" if isinstance(node.args[0], ast.Constant) else None
    return None


def _lookups(node: ast.AST) -> Iterator[tuple[str, str]]:
    """Find `loader = upstream_module("data.loader")`, also within `a, b = ..., ...`."""
    if isinstance(node, ast.Assign):
        target, value = node.targets[0], node.value
        targets, values = ([target], [value]) if isinstance(target, ast.Name) else (target, value)
        targets, values = getattr(targets, "elts", targets), getattr(values, "elts", values)
        if isinstance(targets, list) and isinstance(values, list):
            for name, call in zip(targets, values, strict=False):
                if isinstance(name, ast.Name) and (module := _looked_up(call)):
                    yield name.id, module


def _attributes(node: ast.ClassDef) -> list[ast.Attribute]:
    return [part for part in ast.walk(node) if isinstance(part, ast.Attribute)]


def _asked_of_base(node: ast.ClassDef) -> set[str]:
    return {part.attr for part in _attributes(node) if getattr(part.value, "id", "") == "self"}


def _called_of_base(node: ast.ClassDef) -> set[str]:
    return {part.attr for part in _attributes(node) if getattr(getattr(part.value, "func", None), "id", "") == "super"}


def _defined_in_class(node: ast.ClassDef) -> set[str]:
    set_here = {
        part.attr
        for part in _attributes(node)
        if isinstance(part.ctx, ast.Store) and getattr(part.value, "id", "") == "self"
    }
    named = {item.name for item in node.body if isinstance(item, ast.FunctionDef)}
    return set_here | named | {item.target.id for item in node.body if isinstance(item, ast.AnnAssign)}


@functools.cache
def _defined_in(path: Path) -> set[str]:
    """Collect what the classes of a module define."""
    classes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef)]
    return {name for node in classes for name in _defined_in_class(node)}


if __name__ == "__main__":
    for name, place in touched().items():
        print(f"{name}  ({place})")

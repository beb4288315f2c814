"""Look whether every name of `contract_list.py` is where and as we expect it, in the environment that runs this.

python tests/support/contract.py training     with an overlaid LlamaFactory on the path
python tests/support/contract.py evaluation   with an overlaid VLMEvalKit on the path

Two processes, as importing vlmeval.vlm turns gradients off.
Prints one line for each name that is not as expected, and exits with 1 if there is one. Needs no pytest.
"""

import dataclasses
import importlib.util
import inspect
import sys
from collections.abc import Iterable, Iterator
from pkgutil import resolve_name

import contract_list as contract
import upstream_names


PARTS = {
    "training": contract.TRAINING | contract.REACHED,
    "evaluation": contract.EVALUATION,
}


def spread(listed: dict[str, str]) -> dict[str, str]:
    """Return full names with their reasons, out of entries such as `"module: name other_name": "reason"`."""
    found = {}
    for entry, reason in listed.items():
        holder, _, names = entry.partition(": ")
        found |= {f"{holder}.{name}": reason for name in names.split()} if names else {holder: reason}
    return found


def broken(part: str) -> Iterator[str]:
    """Find what is not as expected, one line each.

    Args:
        part: "training" or "evaluation".
    """
    names = spread(PARTS[part])
    absent = {package for package in packages(names) if importlib.util.find_spec(package) is None}
    for package in sorted(absent & {"llamafactory", "transformers", "trl", "peft", "accelerate", "vlmeval"}):
        yield f"{package} is not installed"
    names = {name: reason for name, reason in names.items() if name.partition(".")[0] not in absent}
    for name, reason in names.items():
        if not (exists(name) or name in contract.OPTIONAL):
            yield f"missing: {name} ({reason})"
    known = packages(names)
    for name, expected in contract.SIGNATURES.items():
        if name.partition(".")[0] in known and exists(name):
            found = [*inspect.signature(resolve_name(name)).parameters]
            wanted, open_end = expected.removesuffix(" ...").split(), expected.endswith(" ...")
            if (found[: len(wanted)] if open_end else found) != wanted:
                yield f"signature: {name}({', '.join(found)}), expected ({', '.join(expected.split())})"
    yield from overridden_and_not_listed(names)
    yield from (training_joined() if part == "training" else evaluation_joined())


def overridden_and_not_listed(names: dict[str, str]) -> Iterator[str]:
    """Find what our classes define and upstream's have too, perhaps only since this version: a clash, or a seam."""
    bases = {base: defined for base, defined in upstream_names.overrides().items() if base in names}
    for base, defined in bases.items():
        for name in sorted(defined):
            if is_there(resolve_name(base), name) and not listed(base, name, names):
                yield f"not listed: {base}.{name}, which ours overrides"


def listed(base: str, name: str, names: dict[str, str]) -> bool:
    """Tell whether a name of a class, or of a listed class above or below it, is in the contract."""
    same = (resolve_name(other.rpartition(".")[0]) for other in names if other.endswith(f".{name}"))
    kind = resolve_name(base)
    return any(issubclass(kind, other) or issubclass(other, kind) for other in same if isinstance(other, type))


def training_joined() -> Iterator[str]:
    """Look whether LlamaFactory finds our classes and options, and whether its code says what it has to."""
    tuner, parser = resolve_name("llamafactory.train.tuner"), resolve_name("llamafactory.hparams.parser")
    ours = resolve_name("llamafactory.train.uni_dpo.options.arguments.UniDPOFinetuningArguments")
    if not tuner.run_dpo.__module__.endswith("uni_dpo.workflow"):
        yield f"train.tuner calls run_dpo of {tuner.run_dpo.__module__}, not the overlay's"
    if ours not in parser._TRAIN_ARGS:
        yield "our options have not joined hparams.parser._TRAIN_ARGS"
    if set(resolve_name("llamafactory.data.converter.DATASET_CONVERTERS")) != {"alpaca", "sharegpt", "openai"}:
        yield "there are other converters than those that we extend"
    if resolve_name("llamafactory.extras.constants.IGNORE_INDEX") != -100:
        yield "IGNORE_INDEX is not -100"
    if hasattr(resolve_name("llamafactory.train.dpo.workflow"), "CustomDPOTrainer"):
        yield "train.dpo.workflow imports CustomDPOTrainer early, so ours is not found"
    for name, words, reason in contract.WORDS:
        if words not in inspect.getsource(resolve_name(name)):
            yield f"source: {name} does not say `{words}` ({reason})"


def evaluation_joined() -> Iterator[str]:
    """Look whether VLMEvalKit offers our class by name."""
    if not hasattr(resolve_name("vlmeval.vlm"), "UniDPOVLM"):
        yield "vlmeval.vlm has no UniDPOVLM, so no config finds it"


def packages(names: Iterable[str]) -> set[str]:
    """Return the top-level packages of names."""
    return {name.partition(".")[0] for name in names}


def exists(name: str) -> bool:
    """Tell whether a name is there; of a class also an attribute that its instances get."""
    holder, _, last = name.rpartition(".")
    try:
        resolve_name(name)
    except AttributeError:
        pass
    else:
        return True
    try:
        kind = resolve_name(holder)
    except (AttributeError, ValueError):
        return False
    return isinstance(kind, type) and is_there(kind, last)


def is_there(kind: type, name: str) -> bool:
    """Tell whether a class or its instances have an attribute: defined, a field, or set or read by a method."""
    if any(name in vars(base) for base in kind.__mro__):
        return True
    if dataclasses.is_dataclass(kind) and name in {field.name for field in dataclasses.fields(kind)}:
        return True
    methods = [value for base in kind.__mro__ for value in vars(base).values()]
    codes = [getattr(inspect.unwrap(method), "__code__", None) for method in methods if callable(method)]
    return any(code is not None and name in code.co_names for code in codes)


def main(parts: list[str]) -> int:
    """Look at some parts of the contract, all by default, and return the exit code."""
    lines = [line for part in parts or [*PARTS] for line in broken(part)]
    count = sum(len(spread(PARTS[part])) for part in parts or [*PARTS])
    print("\n".join(lines) or f"{count} names as expected")
    return int(bool(lines))


def command() -> int:
    """Do what the command line says."""
    return main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(command())

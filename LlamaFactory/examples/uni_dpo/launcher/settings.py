"""The settings of a run: YAML file, then environment variables, then the command line."""

import importlib.util
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pair_data.errors import DataError
from pair_data.settings import load_yaml, parse_options

from . import EXAMPLES
from .checks import check_llamafactory
from .gpus import Gpu


OPTION_VARIABLES = {
    "MODEL": "model_name_or_path",
    "DATA": "dataset",
    "DATASET_DIR": "dataset_dir",
    "OUTPUT": "output_dir",
    "BATCH": "per_device_train_batch_size",
}
VARIABLES = {
    *OPTION_VARIABLES,
    *("GLOBAL_BATCH", "GPUS", "NPROC_PER_NODE", "NNODES", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT"),
    *("FRESH", "SKIP_MEMORY_CHECK"),
}
# What other launch scripts, the published ones among them, call these things, and what does it here.
OTHER_NAMES = {
    **dict.fromkeys(("MODEL_NAME", "MODEL_PATH", "MODEL_NAME_OR_PATH"), "MODEL={}"),
    **dict.fromkeys(("GPU_LIST", "GPU_IDS"), "CUDA_VISIBLE_DEVICES={} before the command"),
    **dict.fromkeys(("NUM_GPUS", "GPU_NUM", "N_GPUS", "NGPUS"), "GPUS={}"),
    **dict.fromkeys(("OUTPUT_DIR", "OUTPUT_PATH", "SAVE_DIR", "SAVE_PATH"), "OUTPUT={}"),
    **dict.fromkeys(("DATASET", "DATASET_NAME"), "DATA={}"),
    **dict.fromkeys(("DATA_DIR", "DATA_PATH"), "DATASET_DIR={}, a folder with dataset_info.json"),
    **dict.fromkeys(("CONDA_ENV", "CONDA_PATH"), "PYTHON=/path/to/its/python before the command"),
    "BATCH_SIZE": "BATCH={}",
}
PATH_OPTIONS = ("dataset_dir", "media_dir", "output_dir", "tokenized_path", "deepspeed")
PATH_OPTIONS += ("uni_dpo_reference_cache", "uni_dpo_image_cache")
PATHS_OR_NAMES = ("ref_model", "adapter_name_or_path", "resume_from_checkpoint")  # several with commas between
TEXTS = ("model_name_or_path", "output_dir", "dataset_dir")  # without which nothing can start
MOST = 10**9  # that any number of a launch may be


@dataclass
class Run:
    """One training run, as the YAML, the environment, the arguments and the machine make it."""

    root: Path  # holds models/, outputs/ and data/
    is_checkout: bool  # of LlamaFactory
    settings: dict[str, Any]  # LlamaFactory's options
    given: set[str]  # those of them that the user chose; nothing here changes them
    variables: dict[str, str]  # the environment, with the arguments that are variables laid over it
    resume: bool | None  # None: go on if the settings are the same; True: in any case; False: start anew
    gpus: int = 0
    processes: int = 1  # on this machine
    nodes: int = 1  # machines
    cards: list[Gpu] = field(default_factory=list)  # the GPUs that it runs on, where they are of this machine
    notes: list[str] = field(default_factory=list)  # what the user should know, a line each

    @property
    def output(self) -> Path:
        """Where the trained model goes."""
        return Path(self.settings["output_dir"])

    @property
    def world_size(self) -> int:
        """Processes on all machines together."""
        return self.processes * self.nodes

    @property
    def node_rank(self) -> int:
        """Which of the machines this one is, from 0."""
        return self.number("NODE_RANK", 0, least=0) if self.nodes > 1 else 0  # some clusters always set it

    @property
    def pairs_a_step(self) -> int:
        """Pairs that one update sees, on all processes."""
        each = self.option("per_device_train_batch_size", 1) * self.option("gradient_accumulation_steps", 1)
        return self.world_size * each

    def suggest(self, option: str, value: object) -> None:
        """Set an option unless the user chose it."""
        if option not in self.given:
            self.settings[option] = value

    def number(self, variable: str, default: int, least: int = 1) -> int:
        """Return a variable as a whole number, of which `least` is the smallest allowed."""
        return whole_number(variable, self.variables.get(variable, default), least)

    def option(self, name: str, default: int, least: int = 1) -> int:
        """Return an option as a whole number; the default also for null and 0."""
        return whole_number(name, self.settings.get(name) or default, least)


def whole_number(name: str, value: object, least: int) -> int:
    """Return `value` as a whole number."""
    try:
        number = int(str(value))
    except ValueError:
        number = -1
    if not least <= number <= MOST:
        raise DataError(f"{name}={str(value)[:60]} must be a whole number, {least} or more")
    return number


def read_run(config: Path, arguments: list[str]) -> Run:
    """Lay the command line over the environment over the YAML file.

    Relative paths in the YAML start from the root, relative paths that the user gives from the current folder.
    """
    root, is_checkout = find_root()
    if is_checkout:
        sys.path.insert(0, str(root / "src"))
    if importlib.util.find_spec("omegaconf") is None:  # it comes with LlamaFactory
        check_llamafactory(root, is_checkout, deepspeed=False)
    variables, options = split_arguments(arguments)
    settings = load_yaml(config)
    chosen = {option: variables[name] for name, option in OPTION_VARIABLES.items() if name in variables}
    if "BATCH" in variables:
        chosen[OPTION_VARIABLES["BATCH"]] = whole_number("BATCH", variables["BATCH"], least=1)
    chosen |= parse_options(options)
    resume = chosen.pop("resume", None)
    if resume not in (True, False, None):
        raise DataError(f"resume={resume} must be true or false")
    if _is_on("FRESH", variables.get("FRESH", "0")):
        if resume:
            raise DataError("FRESH=1 starts anew and resume=true goes on: leave one of them out")
        resume = False
    anchor_paths(settings, root)
    anchor_paths(chosen, Path.cwd())
    run = Run(root, is_checkout, {"dataset_dir": "data"} | settings | chosen, set(chosen), variables, resume)
    for variable, option in OPTION_VARIABLES.items():
        value = run.settings.get(option)
        if option in TEXTS and (not isinstance(value, str) or not value.strip() or "\0" in value):
            said = f"{option} is {value!r}, and must be a text"
            raise DataError(f"{said}\n  set it in {config}, or with {variable}=...")
    ignored = known_elsewhere(os.environ)
    run.notes += [f"the variable {name} means nothing here; what does: {here}" for name, here in ignored.items()]
    name = run.settings["model_name_or_path"]
    run.settings["model_name_or_path"] = found = find_model(name, root)
    if os.path.isdir(found) and not os.path.isdir(os.path.expanduser(name)):
        run.notes.append(f"model: {found}, for {name}")
    return run


def _is_on(name: str, value: str) -> bool:
    known = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
    if value.lower() not in known:
        raise DataError(f"{name}={value[:60]} must be 1 or 0")
    return known[value.lower()]


def find_root() -> tuple[Path, bool]:
    """Return the folder that holds examples/, and whether it is a LlamaFactory checkout.

    In the overlay's own repository examples/uni_dpo is a link into LlamaFactory/, which holds only the overlay.
    """
    tree = EXAMPLES.parent.parent
    is_checkout = (tree / "src" / "llamafactory" / "cli.py").is_file()
    return (tree if is_checkout else tree.parent), is_checkout


def split_arguments(arguments: list[str]) -> tuple[dict[str, str], list[str]]:
    """Return the environment with upper-case arguments laid over it, and the other arguments."""
    variables = {name: value for name, value in os.environ.items() if value}
    options = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if not equals or name.startswith("-"):
            raise DataError(f"argument {argument!r} is not key=value, such as learning_rate=1e-6 (see --help)")
        if not name.isupper():
            options.append(argument)
        elif name in VARIABLES:
            variables[name] = value
        elif instead := known_elsewhere({name: value}):
            raise DataError(f"there is no variable {name}; here it is {instead[name]} (see --help)")
        elif name == "CUDA_VISIBLE_DEVICES":  # PyTorch has to find it when it starts
            raise DataError(f"{argument} goes before the command: {argument} bash examples/uni_dpo/... (see --help)")
        else:
            raise DataError(f"there is no variable {name}; there are {', '.join(sorted(VARIABLES))} (see --help)")
    return variables, options


def known_elsewhere(variables: Mapping[str, str]) -> dict[str, str]:
    """Return those of some variables that other launch scripts know and we do not, each with what does it here."""
    return {
        name: OTHER_NAMES[name].format(value) for name, value in variables.items() if name in OTHER_NAMES and value
    }


def as_yaml(settings: dict[str, Any]) -> str:
    """Write settings such that `load_yaml` and LlamaFactory read the same values."""
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(OmegaConf.create(settings))


def anchor_paths(settings: dict[str, Any], folder: Path) -> None:
    """Make the path options absolute, relative ones starting from `folder`."""
    for option in PATH_OPTIONS:
        value = str(settings.get(option))
        if settings.get(option) is None or value == "ONLINE" or value.startswith("REMOTE:"):
            continue
        settings[option] = str(folder / os.path.expanduser(value))
    for option in PATHS_OR_NAMES:
        if isinstance(settings.get(option), str):
            paths = [(name, folder / os.path.expanduser(name)) for name in settings[option].split(",")]
            settings[option] = ",".join(str(path) if os.path.isdir(path) else name for name, path in paths)


def find_model(name: str, root: Path) -> str:
    """Return the folder meant by `name`, or `name` itself where it is a hub id with no copy in models/."""
    folders = [Path(os.path.expanduser(name)), root / name]
    if not name.startswith(("/", ".", "~")) and name.count("/") < 2:  # a path that is not there is no hub id
        folders.append(root / "models" / name.rpartition("/")[2])
    for folder in folders:
        if os.path.isdir(folder):  # unlike a Path's, also False where the system refuses the name
            return str(folder.absolute())
    return name

"""The settings of a run: YAML file, then environment variables, then the command line."""

import importlib.util
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .gpus import Gpu
from .preflight import UserError, check_llamafactory


OPTION_VARIABLES = {
    "MODEL": "model_name_or_path",
    "DATA": "dataset",
    "DATASET_DIR": "dataset_dir",
    "OUTPUT": "output_dir",
    "BATCH": "per_device_train_batch_size",
}
LAUNCH_VARIABLES = (
    *("GLOBAL_BATCH", "GPUS", "NPROC_PER_NODE", "NNODES", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT"),
    "FRESH",
)
SWITCHES = ("SKIP_MEMORY_CHECK",)
# What other launch scripts, the published ones among them, call these things, and what does it here.
STRANGERS = {
    **dict.fromkeys(("MODEL_NAME", "MODEL_PATH", "MODEL_NAME_OR_PATH"), "MODEL={}"),
    **dict.fromkeys(("GPU_LIST", "GPU_IDS"), "CUDA_VISIBLE_DEVICES={} before the command"),
    **dict.fromkeys(("NUM_GPUS", "GPU_NUM", "N_GPUS", "NGPUS"), "GPUS={}"),
    **dict.fromkeys(("OUTPUT_DIR", "OUTPUT_PATH", "SAVE_DIR", "SAVE_PATH"), "OUTPUT={}"),
    **dict.fromkeys(("DATASET", "DATASET_NAME"), "DATA={}"),
    **dict.fromkeys(("DATA_DIR", "DATA_PATH"), "DATASET_DIR={}, a folder with dataset_info.json"),
    **dict.fromkeys(("CONDA_ENV", "CONDA_PATH"), "PYTHON=/path/to/its/python before the command"),
    "BATCH_SIZE": "BATCH={}",
}
PATH_OPTIONS = ("dataset_dir", "media_dir", "output_dir", "tokenized_path", "deepspeed", "ref_model")
LONGEST_NUMBER = 18  # digits
DEEPEST_YAML = 100  # lists in lists
EXAMPLES = Path(__file__).resolve().parent.parent


@dataclass
class Run:
    """One training run, as the YAML, the environment, the arguments and the machine make it.

    `settings` are LlamaFactory's options. `given` names those the user chose; nothing here changes them.
    `variables` are the environment variables, with those given as arguments laid over them.
    `cards` are the GPUs that it runs on, where they are of this machine.
    """

    root: Path
    is_checkout: bool
    settings: dict
    given: set[str]
    variables: dict[str, str]
    resume: bool | None  # None: go on if the settings are the same; True: in any case; False: start anew
    gpus: int = 0
    processes: int = 1
    nodes: int = 1
    cards: list[Gpu] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

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
        return self.number("NODE_RANK", 0, least=0)

    def suggest(self, option: str, value: object) -> None:
        """Set an option unless the user chose it."""
        if option not in self.given:
            self.settings[option] = value

    def number(self, name: str, default: int, least: int = 1) -> int:
        """Return a variable as a whole number, of which `least` is the smallest allowed."""
        return whole_number(name, self.variables.get(name, default), least)


def whole_number(name: str, value: object, least: int) -> int:
    """Return `value` as a whole number.

    Raises:
        UserError: It is not one, or less than `least`.
    """
    if isinstance(value, int) and abs(value) >= 10**LONGEST_NUMBER:
        value = "a number beyond all use"
    text = str(value)
    if not text.isdecimal() or len(text) > LONGEST_NUMBER or int(text) < least:
        raise UserError(f"{name}={text[:60]} must be a whole number, {least} or more")
    return int(text)


def read_run(config: Path, arguments: list[str]) -> Run:
    """Lay the command line over the environment over the YAML file.

    Relative paths in the YAML start from the root, relative paths that the user gives from the current folder.

    Args:
        config: YAML file with LlamaFactory options.
        arguments: `key=value` with LlamaFactory's options, `resume`, or one of the variables.

    Raises:
        UserError: The file cannot be read, or an argument cannot be understood.
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
    resume = False if variables.get("FRESH", "0") != "0" else chosen.pop("resume", None)
    if resume not in (True, False, None):
        raise UserError(f"resume={resume} must be true or false")
    anchor_paths(settings, root)
    anchor_paths(chosen, Path.cwd())
    run = Run(root, is_checkout, settings | chosen, set(chosen), variables, resume)
    require_texts(run.settings, config)
    ignored = strangers(os.environ)
    run.notes += [f"the variable {name} means nothing here; what does: {here}" for name, here in ignored.items()]
    run.settings["model_name_or_path"] = find_model(run.settings["model_name_or_path"], root)
    return run


def require_texts(settings: dict, config: Path) -> None:
    """Refuse settings without a model or an output folder, or with something else than their names.

    Raises:
        UserError: They are such.
    """
    for option, variable in (
        ("model_name_or_path", "MODEL"),
        ("output_dir", "OUTPUT"),
        ("dataset_dir", "DATASET_DIR"),
    ):
        value = settings.setdefault("dataset_dir", "data") if option == "dataset_dir" else settings.get(option)
        if not isinstance(value, str) or not value.strip() or "\0" in value:
            raise UserError(f"{option} is {value!r}, and must be a text\n  set it in {config}, or with {variable}=...")


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
    known = {*OPTION_VARIABLES, *LAUNCH_VARIABLES, *SWITCHES}
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if not equals or name.startswith("-"):
            raise UserError(f"argument {argument!r} is not key=value, such as learning_rate=1e-6 (see --help)")
        if not name.isupper():
            options.append(argument)
        elif name in known:
            variables[name] = value
        elif instead := strangers({name: value}):
            raise UserError(f"there is no variable {name}; here it is {instead[name]} (see --help)")
        elif name == "CUDA_VISIBLE_DEVICES":  # PyTorch has to find it when it starts
            raise UserError(f"{argument} goes before the command: {argument} bash examples/uni_dpo/... (see --help)")
        else:
            raise UserError(f"there is no variable {name}; there are {', '.join(sorted(known))} (see --help)")
    return variables, options


def strangers(variables: Mapping[str, str]) -> dict[str, str]:
    """Return those of some variables that other launch scripts know and we do not, each with what does it here."""
    return {name: STRANGERS[name].format(value) for name, value in variables.items() if name in STRANGERS and value}


def load_yaml(path: Path) -> dict:
    """Read LlamaFactory options with the library LlamaFactory reads them with, so that numbers mean the same."""
    from omegaconf import OmegaConf

    try:
        require_shallow(path)
        settings = OmegaConf.to_container(OmegaConf.load(path))
    except Exception as error:  # a missing file, or any of YAML's complaints
        raise UserError(f"cannot read the settings in {path}: {error}") from error
    if not isinstance(settings, dict) or not all(isinstance(name, str) for name in settings):
        raise UserError(f"{path} must hold options of LlamaFactory, as name: value")
    return settings


def require_shallow(path: Path) -> None:
    """Refuse YAML that is nested so deeply that building it ends this process; its events are no danger.

    Raises:
        ValueError: It is.
    """
    import yaml

    depth = 0
    with open(path, encoding="utf-8") as file:
        for event in yaml.parse(file, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST_YAML:
                raise ValueError(f"nested more than {DEEPEST_YAML} deep")


def parse_options(options: list[str]) -> dict:
    """Read `key=value` as LlamaFactory does."""
    from omegaconf import OmegaConf

    try:
        return OmegaConf.to_container(OmegaConf.from_cli(options))
    except Exception as error:  # YAML's complaints about a value
        raise UserError(f"cannot read the arguments {' '.join(options)}: {error}") from error


def anchor_paths(settings: dict, folder: Path) -> None:
    """Make the path options absolute, relative ones starting from `folder`."""
    for option in PATH_OPTIONS:
        value = settings.get(option)
        if value is None or str(value) == "ONLINE" or str(value).startswith("REMOTE:"):
            continue
        path = folder / os.path.expanduser(str(value))
        if option != "ref_model" or os.path.isdir(path):  # a model may also be a hub id
            settings[option] = str(path)


def find_model(name: str, root: Path) -> str:
    """Return the folder meant by `name`, or `name` itself where it is a hub id with no copy in models/."""
    for folder in (Path(os.path.expanduser(name)), root / name, root / "models" / name.rpartition("/")[2]):
        if os.path.isdir(folder):  # unlike a Path's, also False where the system refuses the name
            return str(folder.absolute())
    return name


def as_yaml(settings: dict) -> str:
    """Write settings such that `load_yaml` and LlamaFactory read the same values."""
    from omegaconf import OmegaConf

    return OmegaConf.to_yaml(OmegaConf.create(settings))

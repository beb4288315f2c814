"""What must be there before a training run starts: LlamaFactory with the overlay, the model, the data, disk space.

Each check raises `UserError` with what is missing, where it was looked for and how to get it, so that nobody waits
for a model to load to learn that an image folder is elsewhere.
"""

import importlib.util
import json
import os
import shutil
import sys
from pathlib import Path


RECIPE_DATA = "uni_dpo_mm_rlhf"
RECIPE_FILE = "uni_dpo_image_only_mcq_short_long_50k.json"
BYTES_PER_WEIGHT_BYTE = 6  # float32 Adam moments and master weights (12 bytes) beside each bf16 weight (2 bytes)
GB = 1e9


class UserError(Exception):
    """Something the person at the keyboard can put right; shown without a traceback, exit status 2."""


def check_llamafactory(root: Path, is_checkout: bool, deepspeed: bool) -> None:
    """Refuse a Python without LlamaFactory, a LlamaFactory without the overlay, and ZeRO without DeepSpeed.

    Args:
        root: The repository, or the LlamaFactory checkout that the overlay was copied over.
        is_checkout: Whether `root` is such a checkout; its `src` must be first on `sys.path`.
        deepspeed: Whether the run names a DeepSpeed configuration.

    Raises:
        UserError: The package, the overlay or DeepSpeed is missing.
    """
    spec = importlib.util.find_spec("llamafactory")
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            f"LlamaFactory is not installed for {sys.executable}\n"
            "  make the environment with: bash scripts/setup.sh   (in the Uni-DPO repository)\n"
            "  or name a Python that has it: PYTHON=/path/to/python bash examples/uni_dpo/..."
        )
    package = Path(spec.submodule_search_locations[0])
    seam = package / "train" / "dpo" / "__init__.py"
    has_package = (package / "train" / "uni_dpo" / "options" / "arguments.py").is_file()
    if not (has_package and seam.is_file() and "uni_dpo" in seam.read_text(encoding="utf-8")):
        copy = f"cp -r LlamaFactory/. {root}/   (in the Uni-DPO repository)"
        install = f"{sys.executable} {root / 'scripts' / 'install_overlay.py'} install"
        raise UserError(
            f"the LlamaFactory at {package} does not have the Uni-DPO overlay\n"
            f"  install it with: {copy if is_checkout else install}"
        )
    if deepspeed and importlib.util.find_spec("deepspeed") is None:
        raise UserError(
            f"DeepSpeed is not installed for {sys.executable}\n"
            f"  install it with: {sys.executable} -m pip install deepspeed\n"
            "  or do without ZeRO, each GPU then holding the whole optimizer: deepspeed=null"
        )


def check_environment(variables: dict[str, str]) -> None:
    """Refuse the variables that make LlamaFactory start another trainer, in which the overlay has no part.

    Raises:
        UserError: One of them is on.
    """
    for name in ("USE_V1", "USE_MCA", "USE_MEGATRON_BRIDGE"):
        if variables.get(name, "0").lower() in ("1", "true", "y"):
            raise UserError(f"{name}={variables[name]} starts a trainer without Uni-DPO; unset {name}")


def check_model(name: str, cache_dir: str | None, root: Path) -> None:
    """Refuse a model that is neither a checkpoint folder, nor in the hub cache, nor on a hub that answers.

    Args:
        name: `model_name_or_path`: an existing folder, or a hub id such as "Qwen/Qwen2-VL-2B".
        cache_dir: LlamaFactory's option of that name; None for the hub's default.
        root: Where `models/` is proposed to be.

    Raises:
        UserError: There is no such model, or its folder is incomplete.
    """
    folder = Path(name)
    if os.path.isdir(folder):
        if not (folder / "config.json").is_file() or not weight_files(folder):
            raise UserError(
                f"{folder} is not a complete model: it needs config.json and *.safetensors (or *.bin) files\n"
                "  download it again, or point MODEL at the folder that holds these files"
            )
        return
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise UserError(
            f"there is no model folder {folder.absolute()}\n"
            "  set MODEL to a model folder or a hub id, such as Qwen/Qwen2-VL-2B"
        )
    if os.environ.get("USE_MODELSCOPE_HUB") or os.environ.get("USE_OPENMIND_HUB"):
        return  # LlamaFactory asks these hubs itself
    reason = hub_refusal(name, cache_dir)
    if reason:
        target = root / "models" / name.split("/")[1]
        raise UserError(
            f"model {name} is not on this machine, and the hub did not give it ({reason})\n"
            f"  where there is a network: hf download {name} --local-dir '{target}'\n"
            f"  then start again: {target} is found by itself; any other place with MODEL=/path/to/folder"
        )


def hub_refusal(name: str, cache_dir: str | None) -> str | None:
    """Return why a hub model cannot be used, in a word, or None if it is cached or can be downloaded."""
    import huggingface_hub

    try:
        if isinstance(huggingface_hub.try_to_load_from_cache(name, "config.json", cache_dir=cache_dir), str):
            return None
        huggingface_hub.model_info(name, timeout=10)  # one request; asking for a file would be retried for 20 seconds
    except Exception as error:  # no network, offline mode, gated model, bad name: each has its own class
        return type(error).__name__
    return None


def check_data(settings: dict) -> None:
    """Refuse data sets that are not described, whose file is missing, or whose images do not resolve.

    Args:
        settings: The options of the run; reads `dataset`, `eval_dataset`, `dataset_dir`, `media_dir`,
            `tokenized_path`. Data on a hub, behind a script or already tokenized is left to LlamaFactory.

    Raises:
        UserError: Something is missing.
    """
    folder, tokenized = str(settings["dataset_dir"]), settings.get("tokenized_path")
    if folder == "ONLINE" or folder.startswith("REMOTE:") or (tokenized and os.path.isdir(tokenized)):
        return
    info_file = Path(folder) / "dataset_info.json"
    try:
        described = json.loads(info_file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"cannot read {info_file} ({error})\n  DATASET_DIR must be a folder with LlamaFactory's dataset_info.json"
        ) from error
    if not isinstance(described, dict):
        raise UserError(f"{info_file} must be an object of data sets, as LlamaFactory's is")
    for name in data_names(settings.get("dataset")) + data_names(settings.get("eval_dataset")):
        if name not in described:
            raise UserError(
                f"data set {name!r} is not described in {info_file}\n"
                f"  described there: {', '.join(described)}\n"
                "  set DATA to one of them, or DATASET_DIR to the folder of another dataset_info.json\n"
                "  a new entry: python scripts/uni_dpo/data.py register NAME FILE"
            )
        entry = described[name]
        texts = (entry.get("file_name", ""), entry.get("columns", {})) if isinstance(entry, dict) else (None, None)
        if not (isinstance(texts[0], str) and isinstance(texts[1], dict)):
            raise UserError(
                f"data set {name!r}: its entry in {info_file} must be an object whose file_name is a text and whose "
                "columns are an object"
            )
        if "file_name" in entry:
            check_data_file(name, described[name], Path(folder), Path(settings.get("media_dir") or folder))


def data_names(value: str | list | None) -> list[str]:
    """Split LlamaFactory's comma-separated data set names.

    Raises:
        UserError: They are not texts.
    """
    names = value.split(",") if isinstance(value, str) else value or []
    if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise UserError(f"dataset and eval_dataset are names with commas between them, and not {value!r}")
    return [name.strip() for name in names]


def check_data_file(name: str, description: dict, folder: Path, media_dir: Path) -> None:
    """Refuse a missing JSON file, and images of it that are neither under `media_dir` nor where they say."""
    path = folder / description["file_name"]
    if not os.path.exists(path):
        recipe = (
            "\n  It is the scored 50k pair file of the Uni-DPO authors. This fetches it, and MM-RLHF's images:\n"
            f"    python scripts/uni_dpo/data.py download --to '{media_dir}'\n"
            "  One that you have, in data/ of LlamaFactory too, is found once it is described beside it:\n"
            f"    python scripts/uni_dpo/data.py register {RECIPE_DATA} .../{RECIPE_FILE}\n"
            "  Another folder: DATASET_DIR=... (with a dataset_info.json); for the images only: media_dir=..."
        )
        hint = "\n  put the file there, or correct file_name in dataset_info.json"
        raise UserError(f"data set {name!r}: there is no {path}{recipe if name == RECIPE_DATA else hint}")
    column = description.get("columns", {}).get("images")
    if not isinstance(column, str) or not os.path.isfile(path) or path.suffix not in (".json", ".jsonl"):
        return
    rows = read_rows(path)
    for number in range(0, len(rows), max(1, len(rows) // 64)):
        images = rows[number].get(column) or []
        for image in images if isinstance(images, list) else [images]:
            if isinstance(image, str) and not any(map(os.path.isfile, (media_dir / image, image))):
                raise UserError(
                    f"data set {name!r}: row {number} (counted from 0) of {path} needs the image {image}\n"
                    f"  which is neither {media_dir / image} nor a file by itself\n"
                    "  put the images there, or name the folder that these paths start from: media_dir=/path/to/it\n"
                    "  paths of another machine are rewritten by: python scripts/uni_dpo/data.py paths"
                    + ("\n  MM-RLHF's images come with: data.py download" if name == RECIPE_DATA else "")
                )


def read_rows(path: Path) -> list[dict]:
    """Read a JSON list or JSON lines.

    Raises:
        UserError: The file is not valid JSON, or not a list of objects.
    """
    try:
        text = path.read_text(encoding="utf-8")
        if text.lstrip().startswith("["):
            rows = json.loads(text)
        else:  # JSON lines, which LlamaFactory also takes in a file called .json
            rows = [json.loads(line) for line in text.splitlines() if line.strip()]
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON: {error}\n  download it again or repair it") from error
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path} must be a list of objects, one for each preference pair, and not empty")
    return rows


def weight_files(folder: Path) -> list[Path]:
    """Return the weight files of a model folder."""
    return [*folder.glob("*.safetensors"), *folder.glob("*.bin")]


def disk_note(settings: dict) -> str | None:
    """Return a warning when the checkpoints of a full fine-tuning may not fit on the disk, else None.

    Raises:
        UserError: Not even the trained model would fit.
    """
    model, place = Path(settings["model_name_or_path"]), Path(settings["output_dir"])
    while not os.path.exists(place):
        place = place.parent
    free = shutil.disk_usage(place).free
    weights = sum(file.stat().st_size for file in weight_files(model)) if os.path.isdir(model) else 0
    if settings.get("finetuning_type") != "full" or not weights:
        return None
    if free < weights:
        raise UserError(
            f"{place} has {free / GB:.1f} GB free, the trained model needs {weights / GB:.1f} GB\n"
            "  make room, or set OUTPUT to another disk"
        )
    checkpoint = weights * (1 if settings.get("save_only_model") else 1 + BYTES_PER_WEIGHT_BYTE)
    limit = settings.get("save_total_limit")
    kept = 1 + (
        limit if isinstance(limit, int) and limit > 0 else 1
    )  # an old checkpoint is removed after the new one is there
    needed = weights + kept * checkpoint
    if free >= needed:
        return None
    return f"disk: up to {needed / GB:.0f} GB for checkpoints, {free / GB:.0f} GB free at {place} (OUTPUT= moves it)"

"""What must be there before a training run starts: LlamaFactory with the overlay, the model, the data, disk space.

Each check raises `DataError` with what is missing, where it was looked for and how to get it, so that nobody waits
for a model to load to learn that an image folder is elsewhere.
"""

import importlib.util
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from pair_data.descriptions import RECIPE_DATA, RECIPE_FILE, entry_of, names_in
from pair_data.errors import DataError
from pair_data.rows import read_rows


BYTES_PER_WEIGHT_BYTE = 6  # float32 Adam moments and master weights (12 bytes) beside each bf16 weight (2 bytes)
GB = 1e9
EVERY = 100  # images are looked for in that many first rows, and in every hundredth after them

NO_PAIRS = f"""
  It is the scored 50k pair file of the Uni-DPO authors. This fetches it, and MM-RLHF's images:
    python scripts/uni_dpo/data.py download --to '{{}}'
  One that you have, in data/ of LlamaFactory too, is found once it is described beside it:
    python scripts/uni_dpo/data.py register {RECIPE_DATA} .../{RECIPE_FILE}
  Another folder: DATASET_DIR=... (with a dataset_info.json); for the images only: media_dir=..."""


def check_llamafactory(root: Path, is_checkout: bool, deepspeed: bool) -> None:
    """Refuse a Python without LlamaFactory, a LlamaFactory without the overlay, and ZeRO without DeepSpeed.

    `root` is the repository or the checkout that the overlay was copied over, whose `src` must be first on `sys.path`.
    """
    spec = importlib.util.find_spec("llamafactory")
    if spec is None or not spec.submodule_search_locations:
        raise DataError(
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
        raise DataError(
            f"the LlamaFactory at {package} does not have the Uni-DPO overlay\n"
            f"  install it with: {copy if is_checkout else install}"
        )
    if deepspeed and importlib.util.find_spec("deepspeed") is None:
        raise DataError(
            f"DeepSpeed is not installed for {sys.executable}\n"
            f"  install it with: {sys.executable} -m pip install deepspeed\n"
            "  or do without ZeRO, each GPU then holding the whole optimizer: deepspeed=null"
        )


def check_environment(variables: dict[str, str]) -> None:
    """Refuse the variables that make LlamaFactory start another trainer, in which the overlay has no part."""
    for name in ("USE_V1", "USE_MCA", "USE_MEGATRON_BRIDGE"):
        if variables.get(name, "0").lower() in ("1", "true", "y"):
            raise DataError(f"{name}={variables[name]} starts a trainer without Uni-DPO; unset {name}")


def check_model(name: str, cache_dir: str | None, root: Path) -> None:
    """Refuse a model that is neither a checkpoint folder, nor in the hub cache, nor on a hub that answers."""
    folder = Path(name)
    if os.path.isdir(folder):
        if not (folder / "config.json").is_file() or not _weight_files(folder):
            raise DataError(
                f"{folder} is not a complete model: it needs config.json and *.safetensors (or *.bin) files\n"
                "  download it again, or point MODEL at the folder that holds these files"
            )
        return
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise DataError(
            f"there is no model folder {folder.absolute()}\n"
            "  set MODEL to a model folder or a hub id, such as Qwen/Qwen2-VL-2B"
        )
    if os.environ.get("USE_MODELSCOPE_HUB") or os.environ.get("USE_OPENMIND_HUB"):
        return  # LlamaFactory asks these hubs itself
    import huggingface_hub

    try:
        if not isinstance(huggingface_hub.try_to_load_from_cache(name, "config.json", cache_dir=cache_dir), str):
            huggingface_hub.model_info(name, timeout=10)  # one request; one for a file would be retried for 20 seconds
    except Exception as error:  # no network, offline mode, gated model, bad name: each has its own class
        target = root / "models" / name.split("/")[1]
        raise DataError(
            f"model {name} is not on this machine, and the hub did not give it ({type(error).__name__})\n"
            f"  where there is a network: hf download {name} --local-dir '{target}'\n"
            f"  then start again: {target} is found by itself; any other place with MODEL=/path/to/folder"
        ) from error


def check_data(settings: dict[str, Any]) -> None:
    """Refuse data sets that are not described, whose file is missing, or whose images do not resolve.

    Data on a hub, behind a script or already tokenized is left to LlamaFactory.
    """
    folder, tokenized = str(settings["dataset_dir"]), settings.get("tokenized_path")
    if folder == "ONLINE" or folder.startswith("REMOTE:") or (tokenized and os.path.isdir(tokenized)):
        return
    for name in names_in(settings.get("dataset")) + names_in(settings.get("eval_dataset")):
        try:
            entry = entry_of(name, Path(folder))
        except DataError as error:
            hint = "set DATA to a data set that is described, or DATASET_DIR to the folder of its dataset_info.json"
            raise DataError(f"{error}\n  {hint}") from error
        if "file_name" in entry:
            _check_file(name, entry, Path(folder), Path(settings.get("media_dir") or folder))


def _check_file(name: str, entry: dict[str, Any], folder: Path, media_dir: Path) -> None:
    """Refuse a missing file, and images of a JSON file that are neither below `media_dir` nor where they say."""
    path = folder / entry["file_name"]
    if not os.path.exists(path):
        hint = "\n  put the file there, or correct file_name in dataset_info.json"
        hint = NO_PAIRS.format(media_dir) if name == RECIPE_DATA else hint
        raise DataError(f"data set {name!r}: there is no {path}{hint}")
    column = entry.get("columns", {}).get("images")
    if not column or not os.path.isfile(path) or path.suffix not in (".json", ".jsonl"):
        return
    number = -1
    for number, row in enumerate(read_rows(path)):
        images = (row.get(column) or []) if number < EVERY or number % EVERY == 0 else []
        for image in images if isinstance(images, list) else [images]:
            if isinstance(image, str) and not any(map(os.path.isfile, (media_dir / image, image))):
                raise DataError(
                    f"data set {name!r}: row {number} (counted from 0) of {path} needs the image {image}\n"
                    f"  which is neither {media_dir / image} nor a file by itself\n"
                    "  put the images there, or name the folder that these paths start from: media_dir=/path/to/it\n"
                    "  paths of another machine are rewritten by: python scripts/uni_dpo/data.py paths"
                    + ("\n  MM-RLHF's images come with: data.py download" if name == RECIPE_DATA else "")
                )
    if number < 0:
        raise DataError(f"{path} has no rows; a data set is a list of objects, one for each preference pair")


def _weight_files(folder: Path) -> list[Path]:
    return [*folder.glob("*.safetensors"), *folder.glob("*.bin")]


def disk_note(settings: dict[str, Any]) -> list[str]:
    """Warn where the checkpoints of a full fine-tuning may not fit on the disk."""
    model, place = Path(settings["model_name_or_path"]), Path(settings["output_dir"])
    while not os.path.exists(place):
        place = place.parent
    free = shutil.disk_usage(place).free
    weights = sum(file.stat().st_size for file in _weight_files(model)) if os.path.isdir(model) else 0
    if settings.get("finetuning_type") != "full" or not weights:
        return []
    if free < weights:
        raise DataError(
            f"{place} has {free / GB:.1f} GB free, the trained model needs {weights / GB:.1f} GB\n"
            "  make room, or set OUTPUT to another disk"
        )
    checkpoint = weights * (1 if settings.get("save_only_model") else 1 + BYTES_PER_WEIGHT_BYTE)
    limit = settings.get("save_total_limit")
    kept = limit if isinstance(limit, int) and limit > 0 else 1
    needed = weights + (1 + kept) * checkpoint  # an old checkpoint is removed after the new one is there
    room = f"{free / GB:.0f} GB free at {place} (OUTPUT= moves it)"
    return [f"disk: up to {needed / GB:.0f} GB for checkpoints, {room}"] if free < needed else []

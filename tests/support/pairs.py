"""Small preference data sets for the tests, and runs of the real LlamaFactory over them."""

import gc
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import forked
from PIL import Image


ROOT = Path(__file__).resolve().parents[2]
CLI = [sys.executable, "-m", "llamafactory.cli", "train"]

ALPACA = {"prompt": "instruction", "chosen": "chosen", "rejected": "rejected", "images": "images"}
SHAREGPT = {"messages": "conversations", "chosen": "chosen", "rejected": "rejected", "images": "images"}


def make_rows(folder: Path, count: int = 24, seed: int = 0) -> list[dict[str, Any]]:
    """Draw `count` small pictures into `folder` and return alpaca rows about them.

    Scores are quarters between 0 and 10, which every JSON reader and float32 keep exactly.
    """
    rng = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for i in range(count):
        picture = folder / f"{seed}-{i}.png"
        if not picture.exists():
            size = rng.choice([(56, 56), (84, 56)])
            Image.new("RGB", size, tuple(rng.randrange(256) for _ in range(3))).save(picture)
        rows.append(
            {
                "instruction": f"<image>What is number {i}?",
                "chosen": f"It is {i}." + " Indeed." * rng.randrange(3),
                "rejected": f"Sorry, no idea about {i}." + " None." * rng.randrange(3),
                "score_chosen": rng.randrange(40) / 4,
                "score_rejected": rng.randrange(40) / 4,
                "images": [picture.name],
            }
        )
    return rows


def mixed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rewrite alpaca rows so that every third has no picture, and every third two; some answers start alike."""
    changed = []
    for i, row in enumerate(rows):
        question = row["instruction"].removeprefix("<image>")
        if i % 3 == 0:
            row = row | {"instruction": question, "images": []}
        elif i % 3 == 1:
            row = row | {"rejected": row["chosen"].replace("It is", "It is not")}
        else:
            both = [row["images"][0], rows[i - 1]["images"][0]]
            row = row | {"instruction": f"<image>One,<image>two. {question}", "images": both}
        changed.append(row)
    return changed


def as_sharegpt(row: dict[str, Any]) -> dict[str, Any]:
    """Rewrite an alpaca row in the sharegpt shape."""
    return row | {
        "conversations": [{"from": "human", "value": row["instruction"]}],
        "chosen": {"from": "gpt", "value": row["chosen"]},
        "rejected": {"from": "gpt", "value": row["rejected"]},
    }


def as_openai(row: dict[str, Any]) -> dict[str, Any]:
    """Rewrite an alpaca row in the openai shape."""
    return row | {
        "messages": [{"role": "user", "content": row["instruction"]}],
        "chosen": {"role": "assistant", "content": row["chosen"]},
        "rejected": {"role": "assistant", "content": row["rejected"]},
    }


def write_dataset(
    folder: Path,
    rows: Iterable[dict[str, Any]],
    name: str = "pairs",
    columns: dict[str, str] | None = None,
    **entry: Any,
) -> Path:
    """Write `name`.json beside its pictures and add it to the folder's `dataset_info.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(list(rows)))
    info = folder / "dataset_info.json"
    entries = json.loads(info.read_text()) if info.exists() else {}
    entries[name] = {"file_name": f"{name}.json", "ranking": True, "columns": columns or ALPACA} | entry
    info.write_text(json.dumps(entries))
    return folder


def options(model: Path, data: Path, output: Path, **changes: Any) -> dict[str, Any]:
    """Options of a short Uni-DPO run; `changes` override them, None removes one."""
    chosen = {
        "model_name_or_path": str(model),
        "stage": "dpo",
        "do_train": True,
        "finetuning_type": "full",
        "pref_loss": "uni_dpo",
        "pref_beta": 2.0,
        "dataset": "pairs",
        "dataset_dir": str(data),
        "media_dir": str(data),
        "template": "qwen2_vl",
        "cutoff_len": 512,
        "preprocessing_num_workers": 1,
        "output_dir": str(output),
        "overwrite_cache": True,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "per_device_train_batch_size": 2,
        "per_device_eval_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "learning_rate": 1e-3,
        "max_steps": 4,
        "seed": 7,
    } | changes
    return {name: value for name, value in chosen.items() if value is not None}


def train(run: dict[str, Any], pictures: bool = False) -> list[dict[str, Any]]:
    """Train in this process through LlamaFactory's own entry and return the log history.

    Pictures take as long as the rest of such a run, and are drawn only where a test looks at them.
    """
    from llamafactory.train.tuner import run_exp
    from llamafactory.train.uni_dpo.record import plots

    if not gc.get_freeze_count():
        gc.freeze()  # the trainer collects garbage: not among all that was imported
    with nullcontext() if pictures else mock.patch.object(plots, "plot_run"):
        run_exp(run)
    return log_history(run["output_dir"])


def prompt_ids(run: dict[str, Any]) -> list[list[int]]:
    """Return the token ids of every prompt of a run, from LlamaFactory's own data pipeline."""
    from llamafactory.data import get_dataset, get_template_and_fix_tokenizer
    from llamafactory.hparams import get_train_args
    from llamafactory.model import load_tokenizer

    model_args, data_args, training_args, *_ = get_train_args(run)
    loaded = load_tokenizer(model_args)
    template = get_template_and_fix_tokenizer(loaded["tokenizer"], data_args)
    rows = get_dataset(template, model_args, data_args, training_args, stage="rm", **loaded)["train_dataset"]
    return [
        [i for i, label in zip(row["chosen_input_ids"], row["chosen_labels"], strict=True) if label == -100]
        for row in rows
    ]


def log_history(output: str | Path) -> list[dict[str, Any]]:
    """Read what the trainer logged."""
    return json.loads((Path(output) / "trainer_state.json").read_text())["log_history"]


def command_line(
    run: dict[str, Any], config: Path, *arguments: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Train through `llamafactory-cli train CONFIG [ARGUMENTS]` and return the finished process.

    It is a fork of the test process's host (`forked.py`), whose two streams are one, if there is one; with variables
    of its own it is a process that imports everything anew.
    """
    config.write_text(json.dumps(run))  # JSON is YAML
    if forked.shared() is not None and not environment:
        ending = forked.shared().run("llamafactory.cli:main", "train", config, *arguments)
        status = -ending.signal if ending.status is None else ending.status
        return subprocess.CompletedProcess([*CLI, config, *arguments], status, ending.said, ending.said)
    # LlamaFactory starts `torchrun` by name: this Python's, whether or not its environment is activated.
    environment = os.environ | {"PATH": os.pathsep.join([sys.prefix + "/bin", os.environ["PATH"]])} | environment
    command = [*CLI, str(config), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)

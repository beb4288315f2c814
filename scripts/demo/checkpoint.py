"""The start checkpoint of the demo: a tiny Qwen2-VL, trained with LlamaFactory's own sft stage.

Three runs of `llamafactory-cli train`: captions, from which the model learns to see; conversations of a careful
annotator, from which it learns to answer; and a few conversations of a careless one (habits.py), so that there is
something to repair.
"""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from common import write_text

from .habits import careful_answer, careless_answer
from .model import build
from .questions import ask
from .writers import Annotator, Turns, caption, conversation, scenes, write_sft


RECIPE = Path(__file__).with_name("sft.yaml")


@dataclass(frozen=True)
class Stage:
    """One run of LlamaFactory's sft stage; `options` join those of sft.yaml."""

    name: str
    rows: int
    turns: Turns
    annotator: Annotator
    options: tuple[str, ...]


# Muon learns to see in 600 steps by captions where AdamW had not finished after 900.
MUON = "use_muon=true"

STAGES = (
    # Captions first: they name every thing in the picture, and a model that has not learned to see by them takes many
    # times as long to learn it from questions.
    Stage(
        "demo_captions",
        9600,
        caption,
        careful_answer,
        (MUON, "learning_rate=2.0e-3", "warmup_steps=40", "per_device_train_batch_size=16"),
    ),
    Stage("demo_questions", 28000, conversation, careful_answer, (MUON, "learning_rate=1.2e-3", "warmup_steps=60")),
    Stage("demo_sft", 3200, conversation, careless_answer, ("learning_rate=3.0e-4", "warmup_steps=20")),
)


def train_checkpoint(out: Path, scale: float, seed: int) -> Path:
    """Make data, model and all training runs, and gather the result.

    What is already there is kept, so an interrupted run continues with the stage it was in.

    Args:
        out: working folder.
        scale: share of every stage's rows; 1.0 is the recipe of the shipped checkpoint.
        seed: of data, weights and training.

    Returns:
        The folder of the finished checkpoint, `out`/checkpoint.

    Raises:
        ValueError: a training run failed, or the folder was begun with another scale or seed.
    """
    base, begun, asked = out / "base", out / "begun.json", {"scale": scale, "seed": seed}
    if begun.is_file() and (before := json.loads(begun.read_text(encoding="utf-8"))) != asked:
        raise ValueError(f"{out} was begun with {before}, not {asked}: give another --out, or remove it")
    write_text(begun, json.dumps(asked))
    if not (base / "model.safetensors").is_file():
        build(base, "demo", seed, vocabulary_texts())
    model, log = base, []
    for stage in STAGES:
        data, trained = out / "data" / stage.name, out / stage.name
        if not (data / "dataset_info.json").is_file():
            write_sft(data, stage.name, max(1, round(scale * stage.rows)), seed, stage.turns, stage.annotator)
        if not (trained / "model.safetensors").is_file():
            train_stage(model, data, stage.name, trained, seed, stage.options)
        lines = (trained / "trainer_log.jsonl").read_text(encoding="utf-8").splitlines()
        log += [{"stage": stage.name, **json.loads(line)} for line in lines]
        model = trained
    return gather_checkpoint(base, model, log, out / "checkpoint")


def vocabulary_texts() -> list[str]:
    """Text with every word of the world, so that each becomes one token."""
    texts = ["system user assistant\nYou are a helpful assistant."] * 100
    for scene, rng in scenes("train", 2000, 0, "texts"):
        for question in ask(scene, rng):
            texts += [question.text, careless_answer(question, rng), question.answer]
    return texts


def train_stage(model: Path, data: Path, name: str, out: Path, seed: int, options: tuple[str, ...]) -> None:
    """Train `model` on the data set `name` of the folder `data`, by `llamafactory-cli train` with sft.yaml.

    Raises:
        ValueError: the training run failed.
    """
    command = [sys.executable, "-m", "llamafactory.cli", "train", str(RECIPE), f"model_name_or_path={model}"]
    command += [f"dataset_dir={data}", f"media_dir={data}", f"dataset={name}", f"output_dir={out}", f"seed={seed}"]
    # One thread for each core at most: on a shared machine more threads than free cores are far slower.
    environment = {"OMP_NUM_THREADS": str(min(2, os.cpu_count() or 1)), **os.environ}
    if subprocess.run([*command, *options], env=environment).returncode:
        raise ValueError(f"training on {name} failed, see the messages above; run the same command to try again.")


def gather_checkpoint(base: Path, trained: Path, log: list[dict], out: Path) -> Path:
    """Trained weights beside the files of the untrained model.

    A training run writes its own config.json in the form of its transformers version, which no other version reads
    well; ours is read by all. Weights are stored in half precision to halve the download, and load as float32.
    """
    part = out.with_name(out.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(base, part)
    weights = load_file(trained / "model.safetensors")
    half = {name: weight.to(torch.float16).contiguous() for name, weight in weights.items()}
    save_file(half, part / "model.safetensors", metadata={"format": "pt"})
    shutil.rmtree(out, ignore_errors=True)
    os.replace(part, out)
    write_text(out.with_name("train_log.jsonl"), "".join(json.dumps(line) + "\n" for line in log))
    return out

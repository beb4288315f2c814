"""A judge that had to learn: a reward model, trained by LlamaFactory on other scenes and asked by `data.py score`.

Its pairs are of the same start checkpoint's answers, labelled like those of the base condition, about scenes that no
other part of the study has. Scores of a reward model have a scale of their own; they are moved and stretched to the
mean and the deviation of the imperfect judge's, as somebody would who takes eta from `data.py stats`.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import fmean, pstdev

import yaml

from common import ROOT, ToolError
from demo.pairs import Candidates, sample_candidates, write_pairs

from .conditions import CONDITIONS, ModelScores, asked_of_model, rows_of


PAIRS, SCORED = "judge_pairs", "scored.json"
RECIPE = Path(__file__).with_name("judge.yaml")
SCENES = 4000  # seeds of scenes that nothing else uses


def train_judge(home: Path, seed: int, questions: int, answerer, samples: int, temperature: float) -> None:
    """Train the reward model of a seed, as `home`/judge/model.

    Args:
        home: the seed's folder, with its start checkpoint.
        seed: its number.
        questions: how many the judge learns from.
        answerer: the start checkpoint, which answers them.
        samples: answers to each question.
        temperature: of the sampling.

    Raises:
        ToolError: training failed.
    """
    folder = home / "judge"
    candidates = sample_candidates(answerer, folder, "train", questions, samples, temperature, SCENES + seed)
    write_pairs(folder, {PAIRS: rows_of(CONDITIONS["base"], candidates, f"judge's {seed}")})
    recipe = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
    kind = {name: recipe[name] for name in ("stage", "finetuning_type", "template")}
    start, adapter = {"model_name_or_path": str(home / "start")}, str(folder / "adapter")
    data = {"dataset": PAIRS, "dataset_dir": str(folder), "media_dir": str(folder), "seed": 42 + seed}
    _llamafactory("train", folder, recipe | start | data | {"output_dir": adapter})
    merged = {"adapter_name_or_path": adapter, "export_dir": str(folder / "model"), "export_device": "cpu"}
    _llamafactory("export", folder, kind | start | merged)
    for file in (home / "start").glob("*.json"):  # with its chat template, and a config that both transformers read
        shutil.copy(file, folder / "model" / file.name)


def _llamafactory(command: str, folder: Path, options: dict[str, object]) -> None:
    config = folder / f"{command}.yaml"  # JSON is YAML, and LlamaFactory 0.9.5 cannot read a .json
    config.write_text(json.dumps(options), encoding="utf-8")
    if subprocess.run([sys.executable, "-m", "llamafactory.cli", command, str(config)]).returncode:
        raise ToolError(f"`llamafactory-cli {command}` of the reward model failed, see the messages above")


def ask_judge(home: Path, data: Path, candidates: list[Candidates], key: str) -> ModelScores:
    """Let `data.py score` ask the reward model for the base condition's pairs, whose answers all conditions share.

    Args:
        home: the seed's folder.
        data: the folder from which pictures' paths start.
        candidates: the sampled answers.
        key: the seed of the judge who makes the pairs.

    Raises:
        ToolError: it failed.
    """
    rows, scored = rows_of(CONDITIONS["base"], candidates, key), home / "judge" / SCORED
    asked = scored.with_name("asked.json")
    asked.write_text(json.dumps(rows), encoding="utf-8")
    scored.unlink(missing_ok=True)
    command = [ROOT / "scripts" / "uni_dpo" / "data.py", "score", asked, "-o", scored, "--media-dir", data]
    command += ["--model", home / "judge" / "model", "--kind", "value-head", "--overwrite", "--batch-size", "32"]
    if subprocess.run([sys.executable, *map(str, command)]).returncode:
        raise ToolError("the reward model could not be asked, see the messages above")
    found = {}
    for row in json.loads(scored.read_text(encoding="utf-8")):
        found |= {asked_of_model(row, side): row[f"score_{side}"] for side in ("chosen", "rejected")}
    return fitted(found, [row[f"score_{side}"] for row in rows for side in ("chosen", "rejected")])


def fitted(scores: ModelScores, like: list[float]) -> ModelScores:
    """Move and stretch scores to the mean and the deviation of others."""
    mean, deviation = fmean(scores.values()), pstdev(scores.values()) or 1.0
    return {key: fmean(like) + pstdev(like) * (score - mean) / deviation for key, score in scores.items()}

"""What the cells of a seed share: a start checkpoint, pairs sampled from it, test questions, reference log-probs.

Everything is made once, in the order in which it is needed, and kept; an interrupted preparation goes on with the part
it was in.
"""

import shutil
import subprocess
import sys
from pathlib import Path

from demo.benchmarks import write_benchmarks, write_config
from demo.habits import careless_answer
from demo.pairs import sample_candidates, write_pairs
from demo.writers import conversation, write_sft

from .conditions import CONDITIONS, dataset_name, rows_of
from .judge import ask_judge, train_judge
from .methods import METHODS
from .plan import Size


RECIPE = Path(__file__).with_name("recipe.yaml")

# The last stage of the demo checkpoint's own training: few conversations with a careless annotator.
SFT_OPTIONS = ("learning_rate=3.0e-4", "warmup_steps=20")
SAMPLES, TEMPERATURE = 6, 1.0
VAL_PAIRS = "study_val"
LAST_PART = "reference"
# Seeds of scenes that neither the demo nor its design has used.
SFT_SEED, PAIR_SEED, VAL_SEED, TEST_SEED = 2000, 3000, 500, 1000
SETTINGS = (SFT_OPTIONS, SAMPLES, TEMPERATURE, SFT_SEED, PAIR_SEED, VAL_SEED, TEST_SEED)


def prepare(home: Path, seed: int, size: Size, model: Path) -> None:
    """Make everything that the cells of a seed need, below `home`.

    Args:
        home: the seed's folder.
        seed: its number.
        size: how much of everything.
        model: a checkpoint that knows the demo world; its last supervised stage is repeated with data of this seed.

    Raises:
        ValueError: supervised training failed.
    """
    parts = (
        ("start", _start),
        ("judge", _judge),
        ("data", _pairs),
        ("benchmarks", _benchmarks),
        (LAST_PART, _reference),
    )
    for folder, make in parts:
        if not (home / folder / "done").exists():
            shutil.rmtree(home / folder, ignore_errors=True)
            make(home, seed, size, model)
            (home / folder / "done").touch()


def _start(home: Path, seed: int, size: Size, model: Path) -> None:
    from demo.checkpoint import gather_checkpoint, train_stage

    scratch = home / "sft"
    shutil.rmtree(scratch, ignore_errors=True)
    write_sft(scratch / "data", "study_sft", size.sft_rows, SFT_SEED + seed, conversation, careless_answer)
    train_stage(model, scratch / "data", "study_sft", scratch / "trained", seed, SFT_OPTIONS)
    gather_checkpoint(model, scratch / "trained", [], home / "start")
    shutil.rmtree(scratch)


def _judge(home: Path, seed: int, size: Size, model: Path) -> None:
    import torch

    from demo.generate import Answerer

    torch.manual_seed(seed)
    train_judge(home, seed, size.questions, Answerer(home / "start"), SAMPLES, TEMPERATURE)


def _pairs(home: Path, seed: int, size: Size, model: Path) -> None:
    import torch

    from demo.generate import Answerer

    torch.manual_seed(seed)
    answerer, folder, data_seed = Answerer(home / "start"), home / "data", PAIR_SEED + seed
    candidates = {
        split: sample_candidates(answerer, folder, split, count, SAMPLES, TEMPERATURE, data_seed)
        for split, count in (("train", size.questions), ("val", size.val_questions))
    }
    asked = ask_judge(home, folder, candidates["train"], f"train {seed}")
    datasets = {
        dataset_name(name): rows_of(it, candidates["train"], f"train {seed}", asked) for name, it in CONDITIONS.items()
    }
    write_pairs(folder, {**datasets, VAL_PAIRS: rows_of(CONDITIONS["base"], candidates["val"], f"val {seed}")})


def _benchmarks(home: Path, seed: int, size: Size, model: Path) -> None:
    write_benchmarks(home / "benchmarks", size.rows, TEST_SEED + seed, "test")
    write_config(home / "benchmarks")


def _reference(home: Path, seed: int, size: Size, model: Path) -> None:
    """Compute the reference's log-probs of every pair of every condition, which all cells then read."""
    names = ",".join(dataset_name(name) for name in CONDITIONS)
    options = {**METHODS["uni_dpo"], **shared_options(home, names), "output_dir": home / "fill", "learning_rate": 1e-4}
    command = [sys.executable, "-m", "llamafactory.train.uni_dpo.caches", str(RECIPE)]
    if subprocess.run([*command, *(f"{name}={value}" for name, value in options.items())]).returncode:
        raise ValueError("the reference's log-probs could not be computed, see the messages above")
    shutil.rmtree(home / "fill", ignore_errors=True)


def shared_options(home: Path, dataset: str) -> dict[str, object]:
    """What all runs of a seed have in common."""
    return {
        "model_name_or_path": str(home / "start"),
        "dataset": dataset,
        "dataset_dir": str(home / "data"),
        "media_dir": str(home / "data"),
        "uni_dpo_reference_cache": str(home / "reference"),
    }

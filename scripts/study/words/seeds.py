"""What the cells of a seed share: pairs of the model's own answers, and the reference's log-probs of them.

Everything is made by the commands that users have: `data.py sample`, `score --rule` and `pairs`.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

from common import ROOT, ToolError
from demo.pairs import ENTRY
from demo.writers import write_dataset

from ..conditions import dataset_name
from ..seeds import LAST_PART
from .conditions import CONDITIONS, rows_of
from .plan import METHODS, Size
from .questions import Instruction, instructions


RECIPE, RULE = Path(__file__).with_name("recipe.yaml"), Path(__file__).with_name("rule.py")
DATA = ROOT / "LlamaFactory" / "scripts" / "uni_dpo" / "data.py"
SAMPLING = ("--count", "6", "--temperature", "0.7", "--top-k", "20", "--max-tokens", "28", "--dtype", "float32")
BATCH = "240"
PAIRS = "pairs.json"
TRAIN_SEED, VAL_SEED, TEST_SEED = 100, 200, 300
SETTINGS = (SAMPLING, TRAIN_SEED, VAL_SEED, TEST_SEED)
COLUMNS = {name: name for name in ENTRY["columns"] if name not in ("query", "images")} | {"prompt": "instruction"}


def prepare(home: Path, seed: int, size: Size, model: Path) -> None:
    """Make everything that the cells of a seed need, below `home`; each command goes on where it was ended.

    Pairs that are there already, as those that came with the results, are taken as they are.

    Args:
        home: the seed's folder.
        seed: its number.
        size: how much of everything.
        model: the language model.

    Raises:
        ToolError: a command failed.
    """
    data, start = home / "data", home / "start"
    data.mkdir(parents=True, exist_ok=True)
    if not start.exists():
        start.symlink_to(model)
    if not (data / PAIRS).exists():
        _make_pairs(data, seed, size, start)
    pairs = json.loads((data / PAIRS).read_text(encoding="utf-8"))
    entry = ENTRY | {"columns": COLUMNS}
    rows = {dataset_name(name): (rows_of(it, pairs, seed), entry) for name, it in CONDITIONS.items()}
    write_dataset(data, rows)
    _reference(home)
    (home / LAST_PART / "done").touch()


def _make_pairs(data: Path, seed: int, size: Size, start: Path) -> None:
    asked = sorted(instructions("train", size.questions, TRAIN_SEED + seed), key=lambda it: it.kind)
    (data / "questions.jsonl").write_text("".join(_line(it) for it in asked), encoding="utf-8")
    options = [*SAMPLING, "--seed", str(seed), "--batch-size", BATCH, "--keep", "kind,wanted"]
    _data("sample", data / "questions.jsonl", data / "answers.json", "--model", str(start), *options)
    _data("score", data / "answers.json", data / "scored.json", "--rule", f"{RULE}:score", "--workers", "1")
    _data("pairs", data / "scored.json", data / PAIRS, "--pairs", "best-worst", "--eta", "0.3")


def shared_options(home: Path, dataset: str) -> dict[str, object]:
    """What all runs of a seed have in common."""
    return {
        "model_name_or_path": str(home / "start"),
        "dataset": dataset,
        "dataset_dir": str(home / "data"),
        "uni_dpo_reference_cache": str(home / LAST_PART),
    }


def _line(it: Instruction) -> str:
    return json.dumps({"question": it.text, "kind": it.kind, "wanted": json.dumps(it.wanted)}) + "\n"


def _data(command: str, source: Path, out: Path, *options: str) -> None:
    if out.exists():
        return
    words = [sys.executable, str(DATA), command, str(source), "-o", str(out), *options]
    if subprocess.run(words).returncode:
        raise ToolError(f"data.py {command} failed, see the messages above")


def _reference(home: Path) -> None:
    """Compute the reference's log-probs of every pair of every condition, which all cells then read."""
    names = ",".join(map(dataset_name, CONDITIONS))
    options = METHODS["uni_dpo"] | shared_options(home, names)
    options |= {"output_dir": home / "fill", "learning_rate": 1e-4}
    command = [sys.executable, "-m", "llamafactory.train.uni_dpo.caches", str(RECIPE)]
    if subprocess.run([*command, *(f"{name}={value}" for name, value in options.items())]).returncode:
        raise ToolError("the reference's log-probs could not be computed, see the messages above")
    shutil.rmtree(home / "fill", ignore_errors=True)

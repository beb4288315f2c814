"""The fast forward on two ranks, started as users do: they train as one does by upstream's forward.

Every step has a rank whose pairs have no picture while the other's have one or two, and answers of different lengths.
All ranks have to do the same collective work all the same, or a run hangs or averages the wrong gradients.
`trust/test_parallel_matrix.py` has the other strategies.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from pairs import log_history, mixed, options, train, write_dataset
from ranks import BY_UPSTREAM, TWO_RANKS
from safetensors.torch import load_file

from llamafactory.train.uni_dpo.record.pair_log import PAIR_LOG, read_pair_log


STEPS = 4
# The tower trains too: a rank without pictures must still take part in averaging its gradients.
FULL = {"freeze_vision_tower": False, "freeze_multi_modal_projector": False}
LORA = {"finetuning_type": "lora", "lora_rank": 4, "learning_rate": 1e-3}


@pytest.fixture(scope="module")
def data(rows, pair_data) -> Path:
    """In turn two pairs without a picture, and two with one or two."""
    none, one, two = (mixed(rows)[kind::3] for kind in range(3))
    order = [row for i in range(0, 8, 2) for row in (*none[i : i + 2], *(one if i % 4 else two)[i : i + 2])]
    return write_dataset(pair_data, order, name="uneven")


def settings(model: Path, data: Path, output: Path, changes: dict) -> dict:
    fixed = {"dataset": "uneven", "disable_shuffling": True, "max_steps": STEPS, "uni_dpo_log_pairs": True}
    # Biases of keys have no gradient but rounding errors, by which Adam would go full steps without an epsilon.
    fixed |= {"adam_epsilon": 1e-5}
    return options(model, data, output, **{"learning_rate": 1e-4, "pref_beta": 0.5} | fixed | changes)


@pytest.fixture(scope="module")
def alone(tiny_model, data, tmp_path_factory):
    """One rank, by upstream's forward: twice the accumulation makes the same steps."""
    folder = tmp_path_factory.mktemp("alone")
    for name, changes in (("full", FULL), ("lora", LORA)):
        train(settings(tiny_model, data, folder / name, changes | {"pref_forward": "upstream"}))
    return folder


def start(model: Path, data: Path, folder: Path, changes: dict) -> Path:
    """Write the options of a run on two ranks."""
    run = settings(model, data, folder / "out", changes | {"gradient_accumulation_steps": 1})
    (folder / "run.yaml").write_text(json.dumps(run))  # JSON is YAML
    return folder / "run.yaml"


def launched(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    # LlamaFactory starts `torchrun` by name: this Python's, whether or not its environment is activated.
    path = os.pathsep.join([sys.prefix + "/bin", os.environ["PATH"]])
    environment = os.environ | {"PATH": path} | environment
    command = [sys.executable, "-m", *command]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)


def assert_equal(done: subprocess.CompletedProcess, alone: Path, output: Path, bound: float = 1e-4):
    assert done.returncode == 0, done.stderr[-4000:]
    assert "pref_forward: shared_prefix." in done.stdout and "Self-check of pref_forward: within" in done.stdout
    for first, second in zip(log_history(alone)[:STEPS], log_history(output)[:STEPS], strict=True):
        for key in ("loss", "grad_norm", "rewards/margins", "logps/chosen", "uni_dpo/w_perf"):
            assert second[key] == pytest.approx(first[key], rel=bound, abs=bound), key
    ours, theirs = (
        {(row["step"], row["row"]): row["loss"] for row in read_pair_log(str(folder / PAIR_LOG))}
        for folder in (output, alone)
    )
    assert len(theirs) == 4 * STEPS and ours == pytest.approx(theirs, rel=bound)
    wanted, found = (load_file(next(folder.glob("*.safetensors"))) for folder in (alone, output))
    assert found.keys() - wanted.keys() <= {"lm_head.weight"}  # DeepSpeed also saves the tied one
    # Rates of 1e-4 and 1e-3 over four steps: an averaging gone wrong moves weights by as much.
    assert max((wanted[name] - found[name].float()).abs().max() for name in wanted) < 2e-5


@BY_UPSTREAM
@pytest.mark.parametrize("kind", ["full", "lora"])
def test_ddp(tiny_model, data, alone, tmp_path, kind):
    config = start(tiny_model, data, tmp_path, {"full": FULL, "lora": LORA}[kind])
    done = launched("llamafactory.cli", "train", config, **TWO_RANKS)
    assert_equal(done, alone / kind, tmp_path / "out")

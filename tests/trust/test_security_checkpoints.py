"""Checkpoints from strangers: nothing in them is run, neither pickles nor the code that `auto_map` points to."""

import json
import pickle
import shutil
import sys
from pathlib import Path

import pytest
import torch
from data_cli import data
from pairs import command_line, options, train
from reward_models import text_classifier
from score_runs import score, unscored, write
from tiny_models import adapter, text_model

from pair_data import DataError


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, trace: Path):
        """Create `trace`."""
        self.trace = trace

    def __reduce__(self):
        """Say what unpickling does."""
        return (Path.touch, (self.trace,))


@pytest.fixture
def trace(tmp_path):
    """A file that is there once a bomb has gone off; it must never be."""
    trace = tmp_path / "boom"
    yield trace
    assert not trace.exists(), "code of a checkpoint was run"


def pickled(folder: Path, name: str, trace: Path) -> Path:
    """Put a bomb into a checkpoint in the place of a file."""
    torch.save({"state": Bomb(trace)}, folder / name)
    return folder


def copied(model: Path, folder: Path, weights: bool = True) -> Path:
    shutil.copytree(model, folder, ignore=None if weights else shutil.ignore_patterns("*.safetensors"))
    return folder


# LlamaFactory registers its own classes for these when it sees them, and cannot save such a model afterwards.
REGISTERED = ("AutoConfig", "AutoModelForCausalLM", "AutoTokenizer")


def with_code(model: Path, folder: Path, trace: Path, without: tuple = ()) -> Path:
    """Copy a checkpoint and let its configs ask for code of its own wherever they can."""
    copied(model, folder)
    (folder / "evil.py").write_text(f"from pathlib import Path\nPath({str(trace)!r}).touch()\nclass Evil: pass\n")
    kinds = "Config Model ModelForCausalLM ModelForImageTextToText ModelForSequenceClassification"
    kinds = [f"Auto{kind}" for kind in (*kinds.split(), "Processor", "ImageProcessor", "VideoProcessor")]
    wanted = {kind: "evil.Evil" for kind in kinds} | {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}
    wanted = {kind: place for kind, place in wanted.items() if kind not in without}
    for file in ("config.json", "preprocessor_config.json", "tokenizer_config.json", "processor_config.json"):
        if (folder / file).exists():
            content = json.loads((folder / file).read_text()) | {"auto_map": wanted}
            (folder / file).write_text(json.dumps(content))
    return folder


def answer() -> None:
    """Answer a question from each checkpoint of the command line by VLMEvalKit's adapter, and print how that went."""
    from vlmeval.vlm.qwen2_vl import UniDPOQwen2VL

    for folder in sys.argv[1:]:
        try:
            said = UniDPOQwen2VL(folder, max_new_tokens=2).generate([{"type": "text", "value": "Well?"}])
            print("\n" + json.dumps(["answered", str(said)]))  # a bar may stand in the line
        except Exception as error:
            print("\n" + json.dumps([type(error).__name__, str(error)]))


def adapted(host, *folders: Path) -> list[list[str]]:
    """Let VLMEvalKit's adapter answer from checkpoints, in a process that nobody can answer questions of."""
    ending = host.run(f"{__name__}:answer", *folders)
    assert ending.status == 0, ending.said[-3000:]
    return [json.loads(line) for line in ending.said.splitlines() if line.startswith('["')]


def test_bombs_go_off_where_pickles_are_trusted(trace, tmp_path):
    """They are real ones, and torch's careful loading is what stops them."""
    pickled(tmp_path, "old.bin", tmp_path / "elsewhere")
    torch.load(tmp_path / "old.bin", weights_only=False)
    assert (tmp_path / "elsewhere").exists()
    with pytest.raises(pickle.UnpicklingError):
        torch.load(pickled(tmp_path, "new.bin", trace) / "new.bin", weights_only=True)


def test_evaluation(host, tiny_model, tmp_path, trace):
    """Code is left alone, pickled weights are refused whatever is in them, other pickles are not looked at."""
    code = with_code(tiny_model, tmp_path / "code", trace)
    model = pickled(copied(tiny_model, tmp_path / "model", weights=False), "pytorch_model.bin", trace)
    lora = adapter(tiny_model, tmp_path / "lora")
    (lora / "adapter_model.safetensors").unlink()
    pickled(lora, "adapter_model.bin", trace)
    beside = copied(tiny_model, tmp_path / "beside")
    for name in ("training_args.bin", "optimizer.pt", "rng_state.pth", "pytorch_model.bin"):
        pickled(beside, name, trace)
    outcomes = adapted(host, code, model, lora, beside)
    assert [kind for kind, _ in outcomes] == ["answered", "UniDPOError", "UniDPOError", "answered"]
    assert "its weights are pickled (pytorch_model.bin)" in outcomes[1][1]
    assert "its weights are pickled (adapter_model.bin)" in outcomes[2][1]


def test_scoring(tiny_model, tmp_path, trace):
    """The same for models that score."""
    rows = write(tmp_path / "rows.jsonl", unscored(tmp_path, 9)[::3])
    judge = with_code(text_model(tiny_model, tmp_path / "judge"), tmp_path / "code", trace)
    assert "scored" in score(rows, "-o", tmp_path / "out.jsonl", "--model", judge, "--kind", "yes-no")

    classifier = text_classifier(tiny_model, tmp_path / "classifier")
    for weights in classifier.glob("*.safetensors"):
        weights.unlink()
    pickled(classifier, "pytorch_model.bin", trace)
    with pytest.raises(DataError, match="cannot load"):
        score(rows, "-o", tmp_path / "out.jsonl", "--overwrite", "--model", classifier, "--kind", "classifier")

    head = pickled(copied(judge, tmp_path / "head"), "value_head.bin", trace)
    with pytest.raises(DataError, match="value_head.bin"):
        score(rows, "-o", tmp_path / "out.jsonl", "--overwrite", "--model", head, "--kind", "value-head")


def test_tokenizers_of_the_data_commands(tiny_model, tmp_path, trace):
    rows = write(
        tmp_path / "rows.jsonl", [row | {"score_chosen": 2, "score_rejected": 1} for row in unscored(tmp_path, 3)]
    )
    model = with_code(tiny_model, tmp_path / "code", trace)
    for command in ("check", "stats"):
        code, printed, said = data(command, rows, "--no-images", "--model", model)
        assert code == 0, printed + said


def test_training(tiny_model, pair_data, tmp_path, trace):
    """A start checkpoint that brings code trains without it."""
    model = with_code(tiny_model, tmp_path / "code", trace, without=REGISTERED)
    assert train(options(model, pair_data, tmp_path / "out", max_steps=1))[0]["loss"] > 0


LATER = [pytest.param(name, marks=pytest.mark.long) for name in ("scheduler.pt", "rng_state.pth", "training_args.bin")]


@pytest.fixture(scope="module")
def trained(tiny_model, pair_data, tmp_path_factory):
    """The options of a run that has stopped at its checkpoint after step 2."""
    output = tmp_path_factory.mktemp("trained") / "out"
    run = options(tiny_model, pair_data, output, save_strategy="steps", save_steps=2)
    train(run | {"max_steps": 2})
    return run


@pytest.fixture
def stopped(trained, tmp_path):
    """The same in a folder of the test's own."""
    shutil.copytree(trained["output_dir"], tmp_path / "out")
    return trained | {"output_dir": str(tmp_path / "out")}


@pytest.mark.parametrize("name", ["optimizer.pt", *LATER])
def test_resuming(stopped, tmp_path, trace, name):
    """A checkpoint whose state was exchanged: refused, or not looked at."""
    pickled(tmp_path / "out" / "checkpoint-2", name, trace)
    done = command_line(stopped, tmp_path / "run.yaml")
    assert (done.returncode != 0) == (name != "training_args.bin"), done.stderr[-3000:]


def test_resuming_from_pickled_weights(stopped, tmp_path, trace):
    """Refused by a message, whatever is in them: the run that wrote the checkpoint wrote safetensors."""
    checkpoint = tmp_path / "out" / "checkpoint-2"
    (checkpoint / "model.safetensors").unlink()
    pickled(checkpoint, "pytorch_model.bin", trace)
    done = command_line(stopped | {"resume_from_checkpoint": str(checkpoint)}, tmp_path / "run.yaml")
    assert done.returncode == 1 and "Error: " in done.stderr and "safetensors" in done.stderr, done.stderr[-3000:]
    assert "Traceback" not in done.stderr

"""Files of checkpoints, changed at random: evaluated, loaded for training, and gone on from.

Whoever loads them ends with an answer, a model or a finished run, or with one of our own errors, within bounds of
time and memory, whatever size a config asks for.
"""

import contextlib
import json
import os
import resource
import shutil
from pathlib import Path

import pytest
from damage import Tally, fuzz, mutated, ruined
from hypothesis import example, given
from hypothesis import strategies as st
from pairs import options
from variants import variant

from llamafactory.hparams import get_train_args
from llamafactory.model import load_model, load_tokenizer
from llamafactory.train.uni_dpo.errors import UniDPOError
from llamafactory.train.uni_dpo.models import loading


GB = 1 << 30
SETTINGS = ("config.json", "preprocessor_config.json", "tokenizer_config.json", "generation_config.json")
FILES = (*SETTINGS, "model.safetensors", "tokenizer.json", "vocab.json", "merges.txt", "chat_template.json")
BOMBS = [{"num_hidden_layers": 10**9}, {"vocab_size": 10**12}, {"hidden_size": 2**40}, {"intermediate_size": 2**40}]
BOMBS += [{"vision_config": {"depth": 10**8}}, {"vision_config": {"embed_dim": 2**30}}]


@contextlib.contextmanager
def memory_bound():
    """Let this process have three more gigabytes at most."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + 3 * GB, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def answer(folder):
    from vlmeval.vlm.qwen2_vl.uni_dpo.model import UniDPOQwen2VL

    model = UniDPOQwen2VL(str(folder), max_new_tokens=1, device="cpu")
    assert isinstance(model.generate([{"type": "text", "value": "Which colour?"}]), str)


def load(folder):
    model_args, _, _, finetuning_args, _ = get_train_args(options(folder, folder, folder / "out"))
    tokenizer = loading.explaining_tokenizer(load_tokenizer)(model_args)["tokenizer"]
    loading.explaining_model(load_model)(tokenizer, model_args, finetuning_args, True)


def refusals_of(use):
    if use is load:
        return (UniDPOError,)
    from vlmeval.uni_dpo import errors

    return (errors.UniDPOError,)


@pytest.mark.parametrize("use", [answer, load])
def test_loading(tiny_model, tmp_path, figure, use):
    tally = Tally(*refusals_of(use))
    folder = variant(tiny_model, tmp_path / "checkpoint")
    files = [name for name in FILES if (folder / name).exists()]
    contents = {name: (folder / name).read_bytes() for name in files}
    configs = {name: json.loads(contents[name]) for name in files if name in SETTINGS}

    def attempt(name, content):
        (folder / name).write_bytes(content)
        try:
            with memory_bound(), tally.attempt(120):
                use(folder)
        finally:
            (folder / name).write_bytes(contents[name])

    @fuzz(20, 1000)
    @given(st.sampled_from(sorted(configs)).flatmap(lambda name: st.tuples(st.just(name), mutated(configs[name]))))
    def by_value(changed):
        attempt(changed[0], json.dumps(changed[1]).encode())

    @fuzz(15, 700)
    @given(st.sampled_from(files).flatmap(lambda name: st.tuples(st.just(name), ruined(contents[name]))))
    def by_byte(changed):
        attempt(*changed)

    for change in BOMBS:
        config = configs["config.json"]
        nested = {name: config[name] | value for name, value in change.items() if isinstance(value, dict)}
        attempt("config.json", json.dumps(config | change | nested).encode())
    assert tally.counts == {False: len(BOMBS)}, "a config that asks for more than there is was taken"
    by_value()
    by_byte()
    what = {answer: "VLMEvalKit's adapter", load: "training's model"}[use]
    figure("8 fuzz", f"checkpoint files changed or damaged: {what}", tally.total, tally.seen())


def test_resuming(host, tiny_model, pair_data, tmp_path, figure):
    """A damaged file of the newest checkpoint: a run that goes on all the same, or a message with its name."""
    tally, config = Tally(), tmp_path / "run.yaml"
    saving = {"save_strategy": "steps", "save_steps": 1, "max_steps": 2}
    config.write_text(json.dumps(options(tiny_model, pair_data, tmp_path / "out", **saving)))
    ending = host.run("llamafactory.cli:main", "train", config)
    assert ending.status == 0, ending.said
    shutil.rmtree(tmp_path / "out" / "checkpoint-2")
    for path in tmp_path.glob("out/*.safetensors"):
        path.unlink()
    shutil.copytree(tmp_path / "out", tmp_path / "kept")
    newest = tmp_path / "kept" / "checkpoint-1"
    names = ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json", "config.json"]

    @fuzz(5, 100)
    @given(st.sampled_from(names).flatmap(lambda name: st.tuples(st.just(name), ruined((newest / name).read_bytes()))))
    @example(("optimizer.pt", b""))
    @example(("trainer_state.json", b'{"best_global_[[[[": null, "global_step": 1}'))
    @example(("config.json", (newest / "config.json").read_bytes()))
    def trial(changed):
        name, content = changed
        shutil.rmtree(tmp_path / "out")
        shutil.copytree(tmp_path / "kept", tmp_path / "out")
        (tmp_path / "out" / "checkpoint-1" / name).write_bytes(content)
        ending = host.run("llamafactory.cli:main", "train", config)
        assert ending.signal is None and "Traceback" not in ending.said, ending.said[-3000:]
        assert ending.status == 0 or "Error: " in ending.said and "checkpoint-1" in ending.said, ending.said[-3000:]
        tally.note(ending.status == 0, ending.said.rpartition("Error: ")[2])

    trial()
    figure("8 fuzz", "a checkpoint's files damaged before training goes on from it", tally.total, tally.seen())

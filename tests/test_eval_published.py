"""The name `Qwen2VLChat` and its options, as the published config has them, for checkpoints of our training."""

import json
import os
import shutil

import pandas as pd
import pytest
from eval_tree import TREES, answer_of, overlaid
from test_eval_adapter import FLAT
from test_eval_odd_benchmarks import CHOICE, DEMO, MCQ, ROWS, rows, write


ROLES = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
)
OPTIONS = {"min_pixels": 28 * 28, "max_pixels": 56 * 56, "use_custom_prompt": False, "max_new_tokens": 12}
PUBLISHED = OPTIONS | {
    **{"post_process": False, "gpu_utils": 0.9, "use_vllm": False, "use_lmdeploy": False, "total_pixels": None},
    **{"top_p": 0.001, "top_k": 1, "temperature": 0.01, "verbose": False, "system_prompt": None},
}


def checkpoint(folder, trained):
    """The demo's checkpoint with the flat chat template of a base model, and perhaps our record of training."""
    shutil.copytree(DEMO, folder)
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": FLAT}))
    for name, changes in {
        "tokenizer_config.json": {"chat_template": FLAT},
        "config.json": {"uni_dpo": {"template": "qwen2_vl", "prompt": ROLES, "pref_loss": "uni_dpo"}},
    }.items():
        if trained or name != "config.json":
            content = json.loads((folder / name).read_text()) | changes
            (folder / name).write_text(json.dumps(content))
    if trained:
        (folder / "trainer_state.json").write_text("{}")
    return folder


@pytest.fixture(scope="module", params=TREES, ids=str)
def found(request, tmp_path_factory):
    """Runs of both loops with both class names, one after the other in one process."""
    folder = tmp_path_factory.mktemp("published")
    write(folder / "data", "Own_MCQ", rows(**CHOICE))
    paths = {name: checkpoint(folder / name, name == "trained") for name in ("trained", "downloaded")}
    data = {"Own_MCQ": {"class": MCQ, "dataset": "Own_MCQ"}}

    def run(work, model, **options):
        entry = {"model_path": str(paths[model])} | options
        (folder / f"{work}.json").write_text(json.dumps({"model": {"tiny": entry}, "data": data}))
        return ["--config", str(folder / f"{work}.json"), "--work-dir", str(folder / work)]

    def loop(*arguments, **options):
        return {"loop": [*run(*arguments, **options), "--judge", "exact_matching"]}

    ours, theirs = {"class": "UniDPOQwen2VL"}, {"class": "Qwen2VLChat"}
    look = f"""
import copy, inspect, json
import vlmeval.vlm
from pathlib import Path
from vlmeval.vlm.qwen2_vl import model as upstream
theirs = vlmeval.vlm.Qwen2VLChat
class Derived(theirs):
    pass
trained, downloaded = {str(paths["trained"])!r}, {str(paths["downloaded"])!r}
model = theirs(trained, **{PUBLISHED!r})
seen = {{
    "same": theirs is upstream.Qwen2VLChat and theirs.__module__ == upstream.__name__,
    "instance": isinstance(model, theirs) and isinstance(model, vlmeval.vlm.UniDPOQwen2VL),
    "copied": type(copy.copy(model)) is type(model),
    "attributes": [theirs.INTERLEAVE, theirs.VIDEO_LLM, theirs.INSTALL_REQ],
    "parameters": list(inspect.signature(theirs).parameters)[:3],
    "theirs": [type(theirs.__new__(theirs, path)) is theirs for path in (downloaded, "Qwen/Qwen2-VL-2B", trained)],
    "derived": type(Derived.__new__(Derived, trained)) is Derived,
    "sampling": theirs(trained, do_sample=True).generation,
    "share": theirs(trained, gpu_utils=0.5).vllm_options["gpu_memory_utilization"],
}}
Path({str(folder / "seen.json")!r}).write_text(json.dumps(seen))
"""
    requests = {
        "plain": run("plain", "trained", **ours, **OPTIONS),
        "ours": run("ours", "trained", **theirs, **PUBLISHED),
        "theirs": loop("theirs", "trained", **theirs, **PUBLISHED),
        "own_name": loop("own_name", "trained", **ours, **PUBLISHED),
        "downloaded": run("downloaded", "downloaded", **theirs),
        "lmdeploy": loop("lmdeploy", "trained", **theirs, use_lmdeploy=True),
        "unknown": run("unknown", "trained", **theirs, limit_mm=3),
        "warm": run("warm", "trained", **ours, temperature=0.7),
        "look": {"prepare": look},
    }
    os.environ["LMUData"] = str(folder / "data")
    answers = answer_of(overlaid(request.param, folder / "tree"), "eval_runs.py", requests, folder)
    return answers | {"folder": folder, "seen": json.loads((folder / "seen.json").read_text())}


def predictions(found, work):
    path = next((found["folder"] / work).rglob("tiny_Own_MCQ.xlsx"))
    return list(pd.read_excel(path, dtype=str, keep_default_na=False)["prediction"])


@pytest.mark.parametrize("name", ["ours", "theirs", "own_name"])
def test_the_published_config_gives_the_answers_of_ours(found, name):
    """Upstream's class needs a GPU, and shows the model nothing of the question with such a chat template."""
    assert found["plain"]["exit"] == found[name]["exit"] == 0, found[name]["text"]
    answers = predictions(found, "plain")
    assert len(answers) == ROWS and any(answers)
    assert predictions(found, name) == answers


def test_the_class_stays_what_it_was_for_all_others(found):
    seen = found["seen"]
    assert seen["same"] and seen["instance"] and seen["copied"] and seen["derived"]
    assert seen["theirs"] == [True, True, False]
    assert seen["attributes"] == [True, True, False]
    assert seen["parameters"][0] == "model_path"


def test_options_mean_what_they_mean_there(found):
    """Its sampling takes the likeliest token where nothing is said."""
    sampling = found["seen"]["sampling"]
    assert (sampling["do_sample"], sampling["top_k"], sampling["temperature"]) == (True, 1, 0.01)
    assert found["seen"]["share"] == 0.5


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("downloaded", "has no record of our training, so Qwen2VLChat is VLMEvalKit's own class"),
        ("lmdeploy", 'does not do use_lmdeploy: True; leave it out, or write "use_vllm": true'),
        ("unknown", "has no option 'limit_mm'; it has model_path"),
        ("warm", 'add "do_sample": true, or leave it out'),
    ],
)
def test_what_is_not_understood_is_one_message(found, name, words):
    assert found[name]["exit"] == 1
    assert words in found[name]["text"]

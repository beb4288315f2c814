"""Evaluation with real vLLM, against transformers on the same questions: `bash scripts/test.sh vllm`.

The shipped demo checkpoint answers held-out questions of the demo world; in float32 both backends must say the same.
"""

import importlib.util
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from importlib.metadata import packages_distributions

import pytest
from eval_sets import DEMO, metrics, predictions, write_config
from eval_tree import answer_of, environment, overlaid, python
from family_checkpoints import checkpoint_of
from reward_models import text_classifier
from score_runs import PROGRAM, program, read, unscored, write
from tiny_models import adapter, dropped_head, qwen2_5
from transformers import AutoTokenizer

from demo.benchmarks import data_config, write_benchmarks
from demo.questions import ask
from demo.scene import draw
from demo.writers import scenes
from pair_data.score.checkpoints import WEIGHT_NAMES, of_training


if importlib.util.find_spec("vllm") is None:
    pytest.skip("vLLM has an environment of its own: bash scripts/test.sh vllm", allow_module_level=True)
if "vllm" in packages_distributions()["vllm"]:
    os.environ.pop("CUDA_VISIBLE_DEVICES", None)  # the build for GPUs needs those that other tests do without

LENGTH = 16
SETS = ("DemoWorld_MCQ", "DemoWorld_Short_openended")
FAMILIES = ("qwen3_vl", "qwen3_5", "internvl", "glm4v", "llava")
ROWS = 96  # two a batch, or all are answered before a run is killed


@pytest.fixture(scope="module")
def messages(tmp_path_factory):
    """A question about each of a few pictures."""
    folder = tmp_path_factory.mktemp("pictures")
    found = []
    for i, (scene, rng) in enumerate(scenes("test", 20, 0, "vllm")):
        draw(scene, rng).save(folder / f"{i}.png")
        text = rng.choice(ask(scene, rng)).text
        found.append([{"type": "image", "value": str(folder / f"{i}.png")}, {"type": "text", "value": text}])
    return found


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return overlaid("installed", tmp_path_factory.mktemp("tree"))


def in_tiles(model, folder):
    """Copy an InternVL, as one that was trained with its images in tiles."""
    shutil.copytree(model, folder)
    config = json.loads((folder / "config.json").read_text())
    prompt = "<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
    images = {"crop_to_patches": True}
    config["uni_dpo"] = {"template": "intern_vl", "prompt": prompt, "pref_loss": "uni_dpo", "images": images}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def asked(tree, messages, video, tmp_path_factory):
    """What checkpoints answer, each in one engine, with both backends."""
    folder = tmp_path_factory.mktemp("asked")
    pictures = [picture for picture, _ in messages[:8]]
    describe = {"type": "text", "value": "Describe the picture."}
    say = {"type": "text", "value": "Which colour is it?"}
    pairs = zip(pictures[::2], pictures[1::2], strict=True)
    orders = [order for a, b in pairs for order in ([a, b], [b, a], [a, describe, b, pictures[0]])]
    image = {"image": {"messages": messages}}
    rounds = image | {
        "images": {"messages": [[*order, describe] for order in orders]},
        "text": {"messages": [[describe], "Which colour is it?"]},
        # Two frames: transformers 5.5 places the rows of more of them wrongly, see huggingface/transformers#45381.
        "video": {"messages": [[{"type": "video", "value": str(video)}, say]], "changes": {"nframe": 2}},
        "few pixels": {"messages": messages, "changes": {"max_pixels": 28 * 28 * 4}},
    }
    wishes = {
        "demo": (DEMO, rounds),
        "qwen2_5": (qwen2_5(DEMO, folder / "qwen2_5"), image | {"images": rounds["images"]}),
        "lora": (adapter(DEMO, folder / "lora"), image),
        "apart": (adapter(DEMO, folder / "apart", apart=True), image),
        "dropped head": (dropped_head(DEMO, folder / "dropped"), image),
    }
    options = {"max_new_tokens": LENGTH, "dtype": "float32"}
    request = {
        name: {"options": options | {"model_path": str(model)}, "rounds": wish}
        for name, (model, wish) in wishes.items()
    }
    return answer_of(tree, "vllm_probe.py", request, folder)


def answered(found):
    """What both backends answer, vLLM first.

    An answer cut off inside a character ends with U+FFFD in transformers and without in vLLM.
    """
    return [[answer.rstrip("\ufffd") for answer in found[name]["answers"]] for name in ("vllm", "transformers")]


@pytest.mark.parametrize("name", ["image", "images", "text", "video", "few pixels"])
def test_answers_are_those_of_transformers(asked, name):
    """And about the pictures: others get other answers, and with few pixels vLLM answers otherwise, too."""
    vllm, transformers = answered(asked["demo"][name])
    assert vllm == transformers and all(vllm)
    assert len(set(vllm)) > {"image": 5, "images": 1}.get(name, 0)
    assert (vllm == answered(asked["demo"]["image"])[0]) == (name == "image")


def test_pictures_keep_their_order(asked):
    """By a model with random weights; the demo's says the same of two pictures in both orders."""
    vllm, transformers = answered(asked["qwen2_5"]["images"])
    assert vllm == transformers
    assert any(one != other for one, other in zip(vllm[::3], vllm[1::3], strict=True))


@pytest.mark.parametrize("name", ["qwen2_5", "lora", "apart", "dropped head"])
def test_other_kinds_of_checkpoint(asked, name):
    """A Qwen2.5-VL, a LoRA folder of a rank and with a vision tower that vLLM does not take as they are.

    And output layers that were trained by themselves, beside a config that ties them to the embeddings: such a model
    would say what its `generation_config.json` forbids, of which vLLM by itself reads nothing.
    """
    vllm, transformers = answered(asked[name]["image"])
    assert vllm == transformers
    assert len(set(vllm)) > 5
    assert vllm != answered(asked["demo"]["image"])[0]


@pytest.mark.parametrize("name", [*FAMILIES, "internvl in tiles"])
def test_other_families(name, tree, messages, video, tmp_path):
    """Prompts token by token, what may come first, and answers of models that transformers 5 saves under other names.

    In bfloat16, and vLLM's layers with a state know nothing else on a CPU, the answers of a random model part after
    some tokens.
    """
    kind, rounded = name.split()[0], name == "qwen3_5"
    model = checkpoint_of(kind, DEMO, tmp_path / kind, wide=True)
    model = in_tiles(model, tmp_path / "tiles") if kind != name else model
    (one, text), (two, _), *_ = messages
    say, broken = ({"type": "text", "value": value} for value in ("Describe the picture.", "\n ?\n\n"))
    orders = [[one, two, say], [two, one, say], [one, say, two, one], [one, broken, two, broken], [say]]
    orders += [[{"type": "video", "value": str(video)}, say]] if name.startswith("qwen") else []
    options = {
        "model_path": str(model),
        "max_new_tokens": LENGTH,
        "dtype": "bfloat16" if rounded else "float32",
        "fps": 1.0,
    }
    request = {name: {"options": options, "rounds": {"few": {"messages": [*messages[:3], *orders]}}}}
    found = answer_of(tree, "vllm_probe.py", request, tmp_path)[name]["few"]
    vllm, transformers = found["vllm"], found["transformers"]
    assert vllm["prompts"] == transformers["prompts"] and len(set(map(len, vllm["prompts"]))) > 3
    for first, all_of_them in zip(vllm["first"], transformers["first"], strict=True):
        plain = {token: all_of_them[int(token)] for token in first}
        assert first == pytest.approx(plain, abs=0.5 if rounded else 1e-4)
    answers = answered(found)
    assert (rounded or answers[0] == answers[1]) and len(set(answers[0])) > 3
    if name == "internvl in tiles":  # a tile has four tokens, and none of the prompts more than three pictures
        assert max(prompt.count(token) for prompt in vllm["prompts"] for token in set(prompt)) > 3 * 4


def kill_when(ready, command, **environment):
    """Start a run, kill it as soon as something is on the disk, and see all that it has started go within a minute."""
    command = [sys.executable, *map(str, command)]
    with subprocess.Popen(command, env=os.environ | environment, start_new_session=True) as run:
        while run.poll() is None and not ready():
            time.sleep(0.01)
        run.send_signal(signal.SIGSTOP)  # or it would be done before its processes are counted
        assert len(alive(run.pid)) > 1, "vLLM has processes of its own"
        run.kill()
    patience = time.monotonic() + 60
    while alive(run.pid) and time.monotonic() < patience:
        time.sleep(0.2)
    survived = alive(run.pid)
    if survived:
        os.killpg(run.pid, signal.SIGKILL)
    assert not survived, "the engine outlives the run that started it, and would keep its memory"


def alive(session):
    """The names of the processes of a session that are not dead."""
    listed = subprocess.run(["ps", "-e", "-o", "sess=,stat=,comm="], capture_output=True, text=True, check=True)
    processes = [line.split(None, 2) for line in listed.stdout.splitlines()]
    return [name for number, state, name in processes if number == str(session) and not state.startswith("Z")]


def test_a_killed_run_continues_and_answers_as_with_transformers(tree, tmp_path):
    """And VLMEvalKit scores the answers alike. Two tokens: answers that take more are cut off."""
    data, config = str(tmp_path / "data"), tmp_path / "config.json"
    write_benchmarks(tmp_path / "data", ROWS)
    write_config(config, DEMO, {name: data_config()[name] for name in SETS}, max_new_tokens=2, dtype="float32")
    start = ["-m", "vlmeval.uni_dpo", "--config", config, "--batch-size", "2", "--work-dir"]
    assert python(tree, *start, tmp_path / "plain", LMUData=data).returncode == 0
    journal = tmp_path / "vllm" / "tiny" / "answers" / f"{SETS[0]}.rank0.jsonl"

    def given():
        return journal.read_bytes().count(b"\n") if journal.is_file() else 0

    with_vllm = [*start, tmp_path / "vllm", "--use-vllm"]
    kill_when(lambda: given() >= 4, with_vllm, **environment(tree, LMUData=data))
    known = given()
    assert 4 <= known < ROWS
    done = python(tree, *with_vllm, LMUData=data)
    assert done.returncode == 0 and f"{ROWS} rows, {ROWS - known} answered" in done.stdout, done.stderr[-3000:]
    plain, vllm = (predictions(tmp_path / work, sets=SETS) for work in ("plain", "vllm"))
    assert plain == vllm and all(len(found) == ROWS and len(set(found)) > 1 for found in vllm.values())
    scores = metrics(tmp_path / "plain")
    assert scores == metrics(tmp_path / "vllm") and len(scores) >= len(SETS)
    tokenizer = AutoTokenizer.from_pretrained(DEMO)
    assert max(len(tokenizer(text)["input_ids"]) for found in vllm.values() for text in found) == 2


@pytest.fixture(scope="module")
def pairs_to_score(tmp_path_factory):
    """Pairs with no, one and two pictures, and many more with none."""
    folder = tmp_path_factory.mktemp("score")
    rows = unscored(folder, 24)
    write(folder / "pictures.jsonl", rows)
    write(folder / "text.jsonl", [row | {"chosen": f"{row['chosen']} {i}."} for i in range(60) for row in rows[::3]])
    return folder


def scored(folder, data, *arguments):
    """Score pairs and return the scores, chosen and rejected by turns."""
    out = folder / f"{len(list(folder.iterdir()))}.out.jsonl"
    with program(folder / data, "-o", out, *arguments, "--dtype", "float32") as run:
        output, errors = run.communicate()
    assert run.returncode == 0, output + errors[-3000:]
    return [row[f"score_{side}"] for row in read(out) for side in ("chosen", "rejected")]


@pytest.mark.parametrize("kind", ["demo", "qwen3_vl", "llava"])
def test_scores_of_a_judge_are_those_of_transformers(pairs_to_score, kind):
    """`data.py score` with pictures; to 1e-4, where the scores differ by more than a hundred times that."""
    model = DEMO if kind == "demo" else checkpoint_of(kind, DEMO, pairs_to_score / kind, wide=True)
    of_training(WEIGHT_NAMES).mend_names(model)
    judge = ("pictures.jsonl", "--model", model, "--kind", "yes-no")
    plain = scored(pairs_to_score, *judge)
    assert scored(pairs_to_score, *judge, "--backend", "vllm") == pytest.approx(plain, abs=1e-4)
    assert len({round(score, 2) for score in plain}) > 20


def test_judges_that_vllm_would_get_wrong_are_refused(pairs_to_score):
    for kind, reason in (("gemma3", "image see each other"), ("internvl", "save_original_format=False")):
        model = checkpoint_of(kind, DEMO, pairs_to_score / kind, wide=True)
        asked = (pairs_to_score / "pictures.jsonl", "-o", pairs_to_score / "none.jsonl", "--model", model)
        with program(*asked, "--kind", "yes-no", "--backend", "vllm") as run:
            _, errors = run.communicate()
        assert run.returncode == 2 and reason in " ".join(errors.split()) and "Traceback" not in errors, errors


def test_scores_of_a_classifier_are_those_of_transformers_after_a_kill_too(pairs_to_score):
    """Log-odds of two labels in float32, to 1e-4; the engine of the killed run goes, and its scores stay."""
    model = text_classifier(DEMO, pairs_to_score / "classifier", labels=2)
    classify = ("text.jsonl", "--model", model, "--kind", "classifier")
    cache = pairs_to_score / "killed.sqlite"
    with_vllm = (*classify, "--backend", "vllm", "--cache", cache)
    command = [*PROGRAM, pairs_to_score / "text.jsonl", "-o", pairs_to_score / "killed.jsonl", *with_vllm[1:]]
    kill_when(lambda: kept(cache), [*command[1:], "--dtype", "float32"])
    assert 0 < kept(cache) < kept_at_end(pairs_to_score)
    plain = scored(pairs_to_score, *classify)
    assert scored(pairs_to_score, *with_vllm) == pytest.approx(plain, abs=1e-4)
    assert kept(cache) == kept_at_end(pairs_to_score) and len({round(score, 2) for score in plain}) > 20


def kept(cache):
    """How many scores are on the disk."""
    if not cache.is_file():
        return 0
    with sqlite3.connect(cache) as database:
        tables = database.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]
        return database.execute("SELECT COUNT(*) FROM scores").fetchone()[0] if tables else 0


def kept_at_end(folder):
    """How many different answers there are."""
    rows = read(folder / "text.jsonl")
    return len({(row["instruction"], row[side]) for row in rows for side in ("chosen", "rejected")})


def test_sampling_asks_as_with_transformers(tree, messages, tmp_path):
    """Likeliest answers are equal, also where a stop string or the limit ends them."""
    rows = [{"question": text["value"], "image": picture["value"]} for picture, text in messages]
    file = write(tmp_path / "questions.jsonl", rows)

    def sampled(name, *options):
        out = tmp_path / f"{name}.json"
        command = (PROGRAM[1], "sample", file, "-o", out, "--model", DEMO, "--dtype", "float32", *options)
        done = python(tree, *command)
        assert done.returncode == 0, done.stderr[-3000:]
        return [[(one["text"], one["tokens"], one["cut"]) for one in row["answers"]] for row in read(out)]

    greedy = ("-n", 1, "--temperature", 0, "--max-tokens", 6, "--stop", "t")
    vllm = sampled("greedy_vllm", *greedy, "--backend", "vllm")
    plain = sampled("greedy", *greedy)
    assert [[one[::2] for one in row] for row in vllm] == [[one[::2] for one in row] for row in plain]
    assert any(cut for row in plain for *_, cut in row) and not all(cut for row in plain for *_, cut in row)

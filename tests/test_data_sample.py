"""`data.py sample` with the shipped demo checkpoint, which answers questions about drawn scenes, and endpoints."""

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter

import pytest
from chat_server import ChatServer, Reply
from data_cli import DATA, data
from eval_sets import DEMO
from eval_tree import environment, vlmevalkit
from pairs import ALPACA, options, prompt_ids, write_dataset
from PIL import Image
from score_runs import read, write

from demo.pairs import prompts
from demo.writers import save_image
from pair_data.sample.asked import Drawn
from pair_data.sample.merging import merged


QUESTIONS = 10


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """A folder with plain questions about drawn scenes, with right answers."""
    folder = tmp_path_factory.mktemp("asked")
    rows = []
    for number, (question, _) in enumerate(prompts("train", QUESTIONS, 0)):
        _, path = save_image(folder, f"scene_{number}", question.scene, random.Random(number))
        rows.append({"question": question.text, "image": path, "answer": question.answer, "kind": question.kind})
    write(folder / "questions.jsonl", rows)
    return folder


def sample(*arguments):
    """Run the command where VLMEvalKit has been imported already."""
    done = vlmevalkit("installed").ask("data", arguments=["sample", *map(str, arguments)])
    return done["exit"], done["text"]


@pytest.fixture(scope="module")
def whole(asked):
    """What a run gives that nothing ends, two answers a batch."""
    out = asked / "whole.json"
    status, said = sample(*_command(asked, out), "--report", asked / "report.json")
    assert status == 0, said
    return out, said, json.loads((asked / "report.json").read_text())


def _command(asked, out):
    small = ("-n", 2, "--batch-size", 2, "--max-tokens", 12)
    return asked / "questions.jsonl", "-o", out, "--model", DEMO, *small


def test_a_row_for_each_question_in_order_and_who_answered(asked, whole):
    """Rows change places, a column is lost, counts are wrong, or nobody knows where an answer came from."""
    out, said, report = whole
    questions, rows = read(asked / "questions.jsonl"), read(out)
    assert [row["instruction"] for row in rows] == [f"<image>{question['question']}" for question in questions]
    assert [row["reference"] for row in rows] == [[question["answer"]] for question in questions]
    assert [row["images"] for row in rows] == [[question["image"]] for question in questions]
    answers = [answer for row in rows for answer in row["answers"]]
    assert all(sum(answer["times"] for answer in row["answers"]) == 2 for row in rows)
    assert all(len({answer["text"] for answer in row["answers"]}) == len(row["answers"]) for row in rows)
    by = {json.dumps(answer["by"] | {"seed": None}) for answer in answers}
    (by,) = map(json.loads, by)
    assert by["backend"] == "transformers" and by["temperature"] == 1.0 and len(by["weights"]) == 16
    assert len({row["answers"][0]["by"]["seed"] for row in rows}) == QUESTIONS  # each batch has one of its own
    assert report["answers"] == 2 * QUESTIONS and report["cut"] == sum(
        answer["cut"] * answer["times"] for answer in answers
    )
    assert report["distinct"] == {
        str(number): count for number, count in sorted(Counter(len(row["answers"]) for row in rows).items())
    }
    assert f"{QUESTIONS} questions, {QUESTIONS} with images, {QUESTIONS} with a right answer" in said


def test_kill_9_and_again_gives_the_same_to_the_letter(asked, whole, tmp_path):
    """Answers of a run that went on differ from those of one that nothing ended, or are drawn twice."""
    out = asked / "killed.json"
    cache = asked / "killed.json.answers.sqlite"
    command = [*map(str, DATA), "sample", *map(str, _command(asked, out))]
    known = 0
    for wanted in (2, 5):
        process = subprocess.Popen(
            command,
            env=environment(vlmevalkit("installed").root),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while _kept(cache) < wanted and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not out.exists() and known < _kept(cache) < QUESTIONS, _kept(cache)
        known = _kept(cache)
    status, said = sample(*_command(asked, out))
    assert status == 0 and f"\n{QUESTIONS - known} questions asked now" in said
    assert out.read_bytes() == whole[0].read_bytes()


def _kept(cache):
    if not cache.exists():
        return 0
    try:
        with sqlite3.connect(f"file:{cache}?mode=ro", uri=True) as database:
            return database.execute("SELECT count(*) FROM answers").fetchone()[0]
    except sqlite3.OperationalError:  # the table is not there yet
        return 0


def test_what_was_asked_is_not_asked_again_unless_something_changed(asked, tmp_path):
    """Answers are drawn anew for rows that stayed, or kept although an image, a seed or a setting is another."""
    rows = read(asked / "questions.jsonl")[:4]
    for row in rows:
        picture = tmp_path / row["image"]
        picture.parent.mkdir(exist_ok=True)
        picture.write_bytes((asked / row["image"]).read_bytes())
    file, out = tmp_path / "q.jsonl", tmp_path / "a.json"
    given = (file, "-o", out, "--model", DEMO, "-n", 1, "--batch-size", 1, "--max-tokens", 8)

    def now(rows, *more):
        write(file, rows)
        status, said = sample(*given, *more)
        assert status == 0, said
        return int(said.split(" questions asked now")[0].split()[-1])

    assert now(rows) == 4
    before = read(out)
    assert now(rows) == 0 and now([*rows, rows[0] | {"question": "Which colour?"}]) == 1
    assert now([rows[2], rows[0], rows[3]]) == 0 and read(out) == [before[2], before[0], before[3]]
    assert now(rows, "--seed", 1) == 4 and now(rows, "--temperature", 0.7) == 4 and now(rows, "--max-tokens", 9) == 4
    Image.new("RGB", (56, 56), "red").save(tmp_path / rows[1]["image"])
    assert now(rows) == 1


def test_the_likeliest_answer_is_that_of_evaluation(asked, tmp_path):
    """Sampling asks otherwise than the benchmarks do."""
    status, said = sample(
        asked / "questions.jsonl", "-o", tmp_path / "a.json", "--model", DEMO, "-n", 1, "--temperature", 0,
        "--image-min-pixels", 1, "--image-dir", tmp_path,
    )  # fmt: skip
    assert status == 0, said
    rows = read(asked / "questions.jsonl")
    messages = [
        [{"type": "image", "value": str(asked / row["image"])}, {"type": "text", "value": row["question"]}]
        for row in rows
    ]
    wanted = vlmevalkit("installed").ask("answers", options={"model_path": str(DEMO)}, messages=messages)["single"]
    assert [row["answers"][0]["text"] for row in read(tmp_path / "a.json")] == wanted


def test_prompts_are_those_of_training(tiny_model, tmp_path):
    """Token for token: images beyond the limits of training, a system prompt of the row's own."""
    sizes = [(1000, 1000), (1400, 900), (20, 24), (3000, 40), (300, 200)]
    rows, messages = [], []
    for number, size in enumerate(sizes):
        Image.new("RGB", size, (40 * number, 200, 90)).save(tmp_path / f"{number}.png")
        rows.append({"instruction": f"Look: <image>\nWhich {number}?", "chosen": "a", "rejected": "b"})
        rows[-1] |= {"score_chosen": 2.0, "score_rejected": 1.0, "images": [f"{number}.png"], "system": "Be brief."}
        picture = {"type": "image", "value": str(tmp_path / f"{number}.png")}
        messages.append([{"type": "text", "value": "Look: "}, picture])
        messages[-1].append({"type": "text", "value": f"\nWhich {number}?"})
    folder = write_dataset(tmp_path, rows, columns=ALPACA | {"system": "system"})
    wanted = prompt_ids(options(tiny_model, folder, tmp_path / "out", cutoff_len=8192))
    asked = {"options": {"model_path": str(tiny_model)}, "messages": messages, "system": "Be brief."}
    found = vlmevalkit("installed").ask("sampled_tokens", pixels=[32 * 32, 768 * 768], **asked)
    assert found == wanted
    assert vlmevalkit("installed").ask("sampled_tokens", pixels=[1, 300 * 300], **asked) != wanted


def test_stop_strings_and_the_limit(asked, tmp_path):
    """An answer goes on behind a stop string, keeps it, or is not said to be cut."""
    given = (asked / "questions.jsonl", "-o", tmp_path / "a.json", "--model", DEMO, "-n", 2, "--image-dir", tmp_path)
    assert sample(*given, "--max-tokens", 24, "--stop", "e", "--stop", ",")[0] == 0
    answers = [answer for row in read(tmp_path / "a.json") for answer in row["answers"]]
    assert not any("e" in answer["text"] or "," in answer["text"] for answer in answers)
    assert answers and not all(answer["cut"] for answer in answers)
    status, said = sample(*given, "--max-tokens", 2, "--report", tmp_path / "r.json")
    report = json.loads((tmp_path / "r.json").read_text())
    assert status == 0 and 0 < report["cut"] < 2 * QUESTIONS and f"{report['cut']} answers cut at 2 tokens" in said
    cut = [answer["cut"] for row in read(tmp_path / "a.json") for answer in row["answers"]]
    assert any(cut) and not all(cut)


def test_questions_of_every_shape(asked, tmp_path):
    """The answers of a set are asked about, its question is not found, or a right answer is made up or lost."""
    picture = str(asked / read(asked / "questions.jsonl")[0]["image"])
    shapes = {
        "pairs": [{"instruction": "<image>Red?", "chosen": "Yes.", "rejected": "No.", "images": [picture]}],
        "ranked": [{"question": "Red?", "image": picture, "answers": [{"text": "Yes.", "score": 1}, {"text": "No."}]}],
        "messages": [
            {"messages": [{"role": "user", "content": "<image>Red?"}, {"role": "assistant", "content": "Yes."}]}
            | {"images": [picture]}
        ],
        "supervised": [{"instruction": "<image>Red?", "input": "", "output": "Yes.", "images": [picture]}],
        "several": [{"question": "Red?", "image": picture, "reference": ["Yes", "yes"]}],
        "plain": [{"prompt": "<image>Red?", "images": [picture]}],
    }
    wanted = {"messages": ["Yes."], "supervised": ["Yes."], "several": ["Yes", "yes"]}
    for name, rows in shapes.items():
        out = tmp_path / f"{name}.json"
        given = ("--model", DEMO, "-n", 1, "--max-tokens", 4)
        status, said = sample(write(tmp_path / f"{name}.jsonl", rows), "-o", out, *given)
        assert status == 0, said
        (row,) = read(out)
        assert row["instruction"] == "<image>Red?" and row["images"] == [picture], name
        assert row.get("reference") == wanted.get(name), name


def test_rows_that_cannot_be_asked_are_counted_and_named(asked, tmp_path):
    picture = str(asked / read(asked / "questions.jsonl")[0]["image"])
    (tmp_path / "half.png").write_bytes((asked / picture).read_bytes()[:300])
    good = {"question": "Red?", "image": picture}
    rows = [
        *[good | {"question": f"Red {number}?"} for number in range(6)],
        {"question": "Gone?", "image": "gone.png"},
        {"question": "Half?", "image": "half.png"},
        {"question": "<image>And?", "history": [["Red?", "Yes."]], "image": picture},
    ]
    given = (write(tmp_path / "q.jsonl", rows), "-o", tmp_path / "a.json", "--model", DEMO, "-n", 1)
    status, said = sample(*given)
    assert status == 2 and "1 of 7 questions could not be asked" in said and "row 7: half.png: damaged" in said
    status, said = sample(*given, "--on-error", "skip")
    assert status == 0 and len(read(tmp_path / "a.json")) == 6
    for line in ("there is no such file (row 6)", "damaged", "a dialogue: a checkpoint is asked one question"):
        assert line in said.replace("gone.png: ", ""), said
    assert "(row 8)" in said


# ---- merging


def drawn(*texts):
    return [Drawn(text, len(text), not text.endswith("~")) for text in texts]


@pytest.mark.parametrize(
    "texts, similar, wanted",
    [
        (("Red.", "red", " RED ", "Blue"), 1, [("Red.", 3), ("Blue", 1)]),
        (("red", "Red.", "red"), 1, [("red", 3)]),  # as it came most often
        (("a red dot", "a  red dot", "a red dots"), 1, [("a red dot", 2), ("a red dots", 1)]),
        (("-3", "3", "3.5", "35"), 1, [("-3", 1), ("3", 1), ("3.5", 1), ("35", 1)]),
        (("5", ".5", "(5)", '".5"'), 1, [("5", 1), (".5", 2), ("(5)", 1)]),
        (("one two three four five six", "one two three four five seven"), 0.8, [("one two three four five six", 2)]),
        (("one two three 5", "one two three 6"), 0.5, [("one two three 5", 1), ("one two three 6", 1)]),
        (("Yes.", "", "  ", "look <image>"), 1, [("Yes.", 1)]),
    ],
)  # fmt: skip
def test_answers_that_say_the_same_are_one(texts, similar, wanted):
    left = Counter()
    found = merged(drawn(*texts), similar, left)
    assert [(row["text"], row["times"]) for row in found] == wanted
    assert left.total() == len(texts) - sum(times for _, times in wanted)


def test_a_rule_may_mark_the_form():
    """With --exact nothing but spaces at the ends is overlooked."""
    found = merged(drawn("river", "RIVER", " river", "- a\n- b", "- a - b"), 1, Counter(), exact=True)
    assert [row["text"] for row in found] == ["river", "RIVER", "- a\n- b", "- a - b"]


def test_a_whole_answer_stands_for_one_that_was_cut():
    found = merged([Drawn("red", 9, False), Drawn("red", 1, True)], 1, Counter())
    assert [(row["cut"], row["tokens"], row["times"]) for row in found] == [(False, 1, 2)]


# ---- endpoints


def completion(*texts, reason="stop", **more):
    choices = [
        {"index": n, "message": {"role": "assistant", "content": text}, "finish_reason": reason}
        for n, text in enumerate(texts)
    ]
    body = {"id": "1", "object": "chat.completion", "created": 0, "model": "served-7b", "choices": choices} | more
    return Reply(raw=json.dumps(body))


@pytest.mark.parametrize("gives", [3, 1], ids=["as many as asked", "one at a time"])
def test_an_endpoint_is_asked_until_there_are_enough(tmp_path, gives):
    """A server that does not know `n` gives fewer answers than others, or the same one again."""

    def rule(asked, number):
        texts = [f"answer {asked.body['seed'] % 1000} {n}" for n in range(min(gives, asked.body["n"]))]
        return completion(*texts, system_fingerprint="fp_1")

    Image.new("RGB", (56, 56), "red").save(tmp_path / "a.png")
    rows = [{"question": "Red?", "image": "a.png"}, {"question": "<image>And now?", "history": [["Hm?", "Yes."]]}]
    rows[1] |= {"system": "Be brief.", "image": "a.png"}
    out = tmp_path / "a.json"
    with ChatServer(rule) as server:
        given = ("-o", out, "--endpoint", server.url, "--model", "big", "-n", 3, "--stop", "END", "--top-k", 5)
        status, said, wrong = data("sample", write(tmp_path / "q.jsonl", rows), *given)
        assert status == 0, wrong
        assert len(server.asked) == 2 * 3 // gives
        again = data("sample", tmp_path / "q.jsonl", *given)
        assert again[0] == 0 and "\n0 questions asked now" in again[1] and len(server.asked) == 2 * 3 // gives
        bodies = sorted((asked.body for asked in server.asked), key=lambda body: len(body["messages"]))
    found = read(out)
    assert [len(row["answers"]) for row in found] == [3, 3]
    assert found[1]["history"] == [["Hm?", "Yes."]] and found[1]["system"] == "Be brief."
    by = found[0]["answers"][0]["by"]
    assert by["served"] == "served-7b" and by["system_fingerprint"] == "fp_1" and by["endpoint"] == server.url
    assert by["prompt"] == "as the server's chat template writes it" and by["temperature"] == 1.0
    assert bodies[0]["stop"] == ["END"] and bodies[0]["top_k"] == 5 and bodies[0]["max_tokens"] == 512
    kinds = [(message["role"], message["content"]) for message in bodies[-1]["messages"]]
    assert [role for role, _ in kinds] == ["system", "user", "assistant", "user"]
    assert (
        kinds[0][1] == "Be brief." and kinds[3][1][0]["type"] == "image_url" and kinds[3][1][1]["text"] == "And now?"
    )


@pytest.mark.parametrize("on_error", ["finish", "skip", "stop"])
def test_what_an_endpoint_does_not_answer(tmp_path, on_error):
    def rule(asked, number):
        return Reply(status=500) if "3" in asked.text else completion("Yes.", reason="length")

    rows = [{"question": f"Is it {number}?"} for number in range(8)]
    out = tmp_path / "a.json"
    with ChatServer(rule) as server:
        given = ("-o", out, "--endpoint", server.url, "--model", "big", "-n", 1, "--retries", 0, "--concurrency", 1)
        status, said, wrong = data("sample", write(tmp_path / "q.jsonl", rows), *given, "--on-error", on_error)
        asked = len(server.asked)
    if on_error == "skip":
        assert status == 0 and [row["instruction"][-2] for row in read(out)] == list("0124567")
        assert read(out)[0]["answers"][0]["cut"] is True and "left out" in said and "(row 3)" in said
        return
    assert status == 2 and "row 3: InternalServerError" in wrong and not out.exists()
    assert asked == (4 if on_error == "stop" else 8)


WRONG = {
    "two answers of one kind": (["--temperature", "0"], "--temperature 0 gives 4 equal answers: add -n 1"),
    "for an endpoint": (["--concurrency", "2"], "--concurrency: only with --endpoint"),
    "not with an endpoint": (["--endpoint", "http://x/v1", "--dtype", "float32"], "--dtype: not with --endpoint"),
    "an address that is none": (["--endpoint", "x"], "--endpoint x: an address such as"),
    "a field that is set": (
        ["--endpoint", "http://x/v1", "--request-fields", '{"seed": 1}'],
        "without model, messages",
    ),
    "nothing to stop at": (["--stop", ""], "--stop: an empty text would end every answer"),
    "over the questions": (["-o", "q.jsonl"], "q.jsonl is also read"),
    "no column of answers": (
        ["--reference", "right"],
        "--reference right: no row of q.jsonl has a right answer there",
    ),
    "a column that would join the question": (
        ["--keep", "input"],
        "--keep input: a column of that name means something",
    ),
    "both ways to tell answers apart": (["--exact", "--similar", "0.9"], "leave one of them out"),
    "no column to keep": (["--keep", "kind"], "--keep kind: no row of q.jsonl has such a column"),
    "no question": (["--question", "ask"], "--question ask: no row has anything there"),
}


@pytest.mark.parametrize("case", WRONG)
def test_mistakes_are_one_message(tmp_path, case, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options, message = WRONG[case]
    write(tmp_path / "q.jsonl", [{"question": "Red?"}])
    if "--endpoint" not in options and not any(word in message for word in ("--endpoint", "equal", "stop", "also")):
        options = ["--endpoint", "http://127.0.0.1:9/v1", *options]
    status, _, wrong = data("sample", "q.jsonl", "-o", "a.json", "--model", "m", *options)
    assert status == 2 and message in wrong and "Traceback" not in wrong, wrong


def test_without_vlmevalkit_there_is_a_way_on(tmp_path):
    """A traceback about a module that nobody knows."""
    (tmp_path / "vlmeval").mkdir()
    (tmp_path / "vlmeval" / "__init__.py").write_text("raise ImportError('none here')")
    write(tmp_path / "q.jsonl", [{"question": "Red?"}])
    command = [*map(str, DATA), "sample", tmp_path / "q.jsonl", "-o", tmp_path / "a.json", "--model", DEMO]
    done = subprocess.run(
        list(map(str, command)), env=os.environ | {"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert f"{sys.executable} has none (none here)" in done.stderr and "--endpoint" in done.stderr


def test_an_older_adapter_is_named(tmp_path):
    """As after a `git pull` without set-up: an attribute that is not there."""
    for name, text in {
        **{
            f"{folder}__init__.py": "" for folder in ("", "uni_dpo/", "vlm/", "vlm/qwen2_vl/", "vlm/qwen2_vl/uni_dpo/")
        },
        "uni_dpo/errors.py": "class UniDPOError(Exception): pass",
        "vlm/qwen2_vl/uni_dpo/model.py": "class UniDPOVLM: pass",
    }.items():
        file = tmp_path / "vlmeval" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    write(tmp_path / "q.jsonl", [{"question": "Red?"}])
    command = [*map(str, DATA), "sample", tmp_path / "q.jsonl", "-o", tmp_path / "a.json", "--model", DEMO]
    variables = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(list(map(str, command)), env=variables, capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "the adapter in VLMEvalKit is older than this repository" in done.stderr

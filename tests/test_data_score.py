"""`data.py score` over a data set, with a judge behind a local endpoint that counts what it is asked."""

import base64
import io
import json
import signal
import sqlite3
import time

import pytest
from chat_server import ChatServer, Reply
from pairs import ALPACA, write_dataset
from PIL import Image
from score_runs import judge, judged, program, read, score, unscored, write

from pair_data import DataError


@pytest.fixture
def server():
    with ChatServer(judge) as server:
        yield server


@pytest.fixture
def asking(server):
    return ("--endpoint", server.url, "--model", "rule", "--retries", 0)


def scored(rows):
    return [row | {f"score_{side}": judged(row[side]) for side in ("chosen", "rejected")} for row in rows]


def test_every_answer_gets_its_own_score(tmp_path, server, asking):
    """Scores stand beside other answers, rows or columns change, or answers are asked about together."""
    rows = unscored(tmp_path)
    out = score(write(tmp_path / "in.jsonl", rows), "-o", tmp_path / "out.json", *asking)
    assert read(tmp_path / "out.json") == scored(rows) and "9 rows with scores" in out
    assert sorted(asked.answer for asked in server.asked) == sorted(
        row[side] for row in rows for side in ("chosen", "rejected")
    )


def test_images_are_sent_in_order_and_within_the_limit(tmp_path, server, asking):
    """The judge sees other images than training, in another order, or of another size."""
    rows = unscored(tmp_path)[2:3]
    Image.new("RGB", (200, 50), "red").save(tmp_path / rows[0]["images"][0])
    score(write(tmp_path / "in.jsonl", rows), "-o", tmp_path / "out.json", *asking, "--image-max-pixels", 2500)
    (content,) = {json.dumps(asked.body["messages"][0]["content"][1:4:2]) for asked in server.asked}
    urls = [part["image_url"]["url"].partition(",")[2] for part in json.loads(content)]
    pictures = [Image.open(io.BytesIO(base64.b64decode(url))) for url in urls]
    assert pictures[0].size == (100, 28) and pictures[0].getpixel((50, 14))[0] > 250  # 25 high, but no side below 28
    assert pictures[1].getpixel((20, 20)) != pictures[0].getpixel((20, 20))


def test_columns_of_a_described_data_set_and_scores_that_are_there(tmp_path, server, asking):
    """Scores land in columns that training does not read, or replace others by accident."""
    columns = ALPACA | {"score_chosen": "good", "score_rejected": "bad"}
    rows = unscored(tmp_path, 3)
    described = ("pairs", "--dataset-dir", tmp_path, "-o", tmp_path / "out.jsonl", *asking)
    write_dataset(tmp_path, rows, columns=columns)
    score(*described)
    found = read(tmp_path / "out.jsonl")
    assert [row["good"] for row in found] == [judged(row["chosen"]) for row in rows]
    write_dataset(tmp_path, [row | {"good": None, "bad": 1.0} for row in rows], columns=columns)
    server.asked.clear()
    with pytest.raises(DataError, match='row 0 .* "bad" already.*--overwrite'):
        score(*described, "--cache", tmp_path / "new")
    assert not server.asked
    score(*described, "--overwrite")
    assert [row["bad"] for row in read(tmp_path / "out.jsonl")] == [judged(row["rejected"]) for row in rows]


def test_what_was_asked_is_not_asked_again(tmp_path, server, asking):
    """Scores are paid for twice, or kept although the image, the rubric or the history is another."""
    rows = unscored(tmp_path)
    rows.append(rows[0] | {"rejected": rows[0]["chosen"]})  # the same question and answer: nothing new
    data, out = write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    for _ in range(2):
        score(data, "-o", out, *asking)
        assert len(server.asked) == 18
    Image.new("RGB", (56, 56), "white").save(tmp_path / rows[4]["images"][0])  # the image of rows 4 and 5
    score(data, "-o", out, *asking)
    assert len(server.asked) == 22
    write(data, [row | {"history": [["And now?", "Go on."]]} for row in rows[:1]])
    score(data, "-o", out, *asking)
    assert len(server.asked) == 24 and "User: And now?\n\nAssistant: Go on.\n\nUser:" in server.asked[-1].text
    (tmp_path / "rubric").write_text("{question}? {answer}! {braces}\nAnswer:\n\n\nSay in one")
    score(data, "-o", out, *asking, "--rubric", tmp_path / "rubric")
    assert len(server.asked) == 26 and "{braces}" in server.asked[-1].text


def test_killed_and_interrupted(tmp_path, server, asking):
    """A kill costs scores that had been given, Ctrl-C waits for a reply that hangs, or half an output is left."""
    rows = unscored(tmp_path, 30)
    data, out = write(tmp_path / "in.jsonl", rows), tmp_path / "out.json"
    command = (data, "-o", out, *asking, "--concurrency", 1)

    def stopped_after(count, how):
        with program(*command) as run:
            patience = time.monotonic() + 60
            while len(server.asked) < count and time.monotonic() < patience:
                time.sleep(0.002)
            run.send_signal(how)
            said = run.communicate(timeout=30)[1]
        assert not out.exists()
        with sqlite3.connect(f"{out}.scores.sqlite") as database:
            (kept,) = database.execute("SELECT COUNT(*) FROM scores").fetchone()
        assert len(server.asked) - 2 <= kept <= len(server.asked)  # one under way, and one that came meanwhile
        return run.returncode, said, kept

    status, _, kept = stopped_after(20, signal.SIGKILL)
    assert status == -9
    server.asked, before = server.asked[:kept], kept
    server.rule = lambda asked, number: Reply(hang=True) if number == 30 else judge(asked)
    status, said, kept = stopped_after(31, signal.SIGINT)
    assert status == 130 and f"Scores so far are kept in {out}.scores.sqlite" in said and before < kept
    server.asked, server.rule = server.asked[:kept], judge
    score(*command)
    assert len(server.asked) == 60 and read(out) == scored(rows)


def test_rows_that_cannot_be_scored_stop_the_run_before_its_first_request(tmp_path, server, asking):
    """A wrong path is found out after hours, or such a row gets a score."""
    rows = unscored(tmp_path)
    spoilt = {
        1: {"system": "Look: <image>"},
        2: {"images": rows[2]["images"][:1]},
        4: {"images": ["absent.png"]},
        5: {"videos": ["a.mp4"]},
        6: {"audios": ["a.wav"]},
        7: {"rejected": None},
        8: {"tools": '[{"name": "look"}]'},
    }
    data, out = write(tmp_path / "in.jsonl", [row | spoilt.get(i, {}) for i, row in enumerate(rows)]), tmp_path / "out"
    with pytest.raises(DataError) as error:
        score(data, "-o", out.with_suffix(".json"), *asking)
    assert not server.asked and not out.with_suffix(".json").exists()
    for line in (
        "7 of 9 rows",
        "row 1, system: <image> in a text where no image can be",
        "row 2, instruction: 2 <image> in its text for 1 images",
        "row 4, images: absent.png: there is no such file",
        "row 5, videos: the scorers here see no videos",
        "row 6, audios: the scorers here see no sounds",
        "and 2 more",
        "--on-error skip",
    ):
        assert line in str(error.value)
    out = out.with_suffix(".jsonl")
    assert "2 rows with scores, 7 left out" in score(data, "-o", out, *asking, "--drop-unscored")
    assert read(out) == scored([rows[0], rows[3]])


def test_a_truncated_image_costs_its_row_alone(tmp_path, server, asking):
    """Its header is fine, so it shows only when it is scored; the others' scores must not be lost."""
    rows = unscored(tmp_path)
    Image.effect_noise((300, 300), 50).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:20000])
    rows[4]["images"] = ["cut.png"]
    data, out = write(tmp_path / "in.jsonl", rows), tmp_path / "out.json"
    with pytest.raises(DataError, match=r"1 of 9 rows .*\n  row 4, chosen: ImageError: cut.png: damaged"):
        score(data, "-o", out, *asking)
    assert len(server.asked) == 16 and not out.exists()
    Image.new("RGB", (56, 56), "white").save(tmp_path / "cut.png")
    score(data, "-o", out, *asking)
    assert len(server.asked) == 18 and len(read(out)) == 9


@pytest.mark.parametrize("when", [2, 17])
def test_a_data_set_that_changes_meanwhile_is_not_written(tmp_path, server, asking, when):
    """Scores end up beside other rows than they were given for, or are kept for other answers."""
    rows = unscored(tmp_path)
    data, out = write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"

    def change(asked, number):
        if number == when:
            write(data, rows[::-1])
            Image.new("RGB", (56, 56)).save(tmp_path / rows[8]["images"][0])
        return judge(asked)

    server.rule = change
    with pytest.raises(DataError, match="changed while it was being scored"):
        score(data, "-o", out, *asking, "--concurrency", 1)
    assert not out.exists() and len(server.asked) <= (16 if when == 2 else 18), "a changed row is asked about"
    server.rule = judge
    score(write(data, rows), "-o", out, *asking)
    assert read(out) == scored(rows)


def test_report(tmp_path, server, asking):
    """The agreement is wrong, subsets are mixed up, or a reversed scorer goes unnoticed."""
    rows = [row | {"subset": "ab"[i % 2]} for i, row in enumerate(unscored(tmp_path, 24))]
    data, report = write(tmp_path / "in.jsonl", rows), tmp_path / "report.json"
    server.rule = lambda asked, _: "Score: 1" if asked.answer.startswith("It is") or "19" in asked.text else "Score: 4"
    shown = score(data, "-o", tmp_path / "out.jsonl", *asking, "--by", "subset", "--report", report)
    content = json.loads(report.read_text())
    ties = sum(row["rejected"].startswith("It is") or "19" in row["instruction"] for row in rows)
    everything = content["groups"]["all"]
    assert (everything["agree"], everything["ties"], everything["disagree"]) == (0, ties, 24 - ties)
    assert [content["groups"][f"subset: {name}"]["pairs"] for name in "ab"] == [12, 12]
    assert everything["chosen"] == {"mean": 1.0, "sd": 0.0} and content["scorer"]["model"] == "rule"
    assert "contradict" in content["hints"][0] and content["hints"][0] in shown
    with pytest.raises(DataError, match='no column "sub"'):
        score(data, "-o", tmp_path / "out.jsonl", *asking, "--by", "sub")
    shown = score(data, "-o", tmp_path / "out.jsonl", *asking)
    assert "(no image) " in shown and "(other images) " in shown


def test_nothing_but_failures_ends_the_run(tmp_path, server, asking):
    """A judge that never gives a score is asked 50,000 times."""
    server.rule = lambda asked, number: "I would rather not."
    data = write(tmp_path / "in.jsonl", unscored(tmp_path, 40))
    with pytest.raises(DataError, match="20 answers in a row .*\n.*I would rather not"):
        score(data, "-o", tmp_path / "out.jsonl", *asking, "--concurrency", 1)
    assert len(server.asked) == 2 * 20

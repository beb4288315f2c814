"""A judge behind an endpoint that is slow, busy, broken or evasive; and the parts that need no endpoint."""

import threading

import pytest
from chat_server import ChatServer, Reply
from score_runs import judge, judged, read, score, unscored, write

from pair_data import DataError
from pair_data.score.agreement import Group, hints, wilson
from pair_data.score.pacing import Pacer, Stopped
from pair_data.score.replies import read_score


@pytest.fixture
def pairs(tmp_path):
    return write(tmp_path / "in.jsonl", unscored(tmp_path, 3))


def run(pairs, rule, *arguments):
    """Score three pairs, one request at a time, with a judge of this rule; return its requests and the scores."""
    out = pairs.with_name("out.jsonl")
    with ChatServer(rule) as server:
        try:
            given = ("--endpoint", server.url, "--model", "rule", "--concurrency", 1, *arguments)
            score(pairs, "-o", out, *given)
        finally:
            run.asked = server.asked
    return server.asked, [row["score_chosen"] for row in read(out)]


def at_first(reply):
    """Answer the first request so, and all others well."""
    return lambda asked, number: judge(asked, number) if number else reply


def good(pairs):
    return [judged(row["chosen"]) for row in read(pairs)]


@pytest.mark.parametrize("status", [429, 500, 503, 408])
def test_failed_requests_are_sent_again(pairs, status):
    """A busy hour of the endpoint ends the run."""
    asked, scores = run(pairs, at_first(Reply(status=status, headers={"Retry-After": "0.01"})))
    assert len(asked) == 7 and asked[0].body == asked[1].body and scores == good(pairs)


def test_retry_after_is_honoured(pairs):
    """The endpoint says how long to wait, and is asked before."""
    asked, scores = run(pairs, at_first(Reply(status=429, headers={"Retry-After": "1.5"})))
    assert asked[1].at - asked[0].at >= 1.5 and scores == good(pairs)


def test_a_request_that_hangs_is_given_up_and_sent_again(pairs):
    """One lost reply stops the run for ever."""
    asked, scores = run(pairs, at_first(Reply("Score: 0", hang=True)), "--timeout", 0.5, "--retries", 1)
    assert len(asked) == 7 and scores == good(pairs)


@pytest.mark.parametrize("raw", ["<html>", "{", '{"choices": []}', '{"object": "error"}', "[]"])
@pytest.mark.parametrize("type_", ["application/json", "text/html"])
def test_garbage_is_no_score(pairs, raw, type_):
    """The other answers are lost to it, or it counts as a score; asked again, it is the only one."""
    with pytest.raises(DataError, match=r"1 of 3 rows .*\n  row 0, chosen: "):
        run(pairs, at_first(Reply(raw=raw, headers={"Content-Type": type_})))
    assert len(run.asked) == 6
    asked, scores = run(pairs, judge)
    assert scores == good(pairs)


@pytest.mark.parametrize(
    "reply", ["I cannot judge people.", None, "", "Score: 11", "Score: 6-7", "About a 7, I'd say"]
)
def test_no_score_is_asked_for_once_more(pairs, reply):
    """A reply without one number on the scale is scored silently, or gives up a pair that a reminder saves."""
    asked, scores = run(pairs, at_first(Reply(reply)))
    assert len(asked) == 7 and scores == good(pairs)
    said, reminder = asked[1].body["messages"][1:]
    assert said == {"role": "assistant", "content": reply or "(no reply)"} and "from 0 to 10" in reminder["content"]


def test_no_score_at_all_is_reported(pairs):
    """A judge that refuses twice is asked for ever, or its pair gets a score, or takes others with it."""

    def refuses(asked, number):
        return "No comment." if "number 1?" in asked.text else judge(asked, number)

    with pytest.raises(
        DataError, match="1 of 3 rows .*\n  row 1, chosen: no score from 0 to 10 in the reply 'No comm"
    ):
        run(pairs, refuses)
    assert len(run.asked) == 8
    asked, scores = run(pairs, refuses, "--drop-unscored")
    assert len(asked) == 8 and len(scores) == 2, "another port is another scorer, and row 1 is left out"


@pytest.mark.parametrize(
    ("status", "says"), [(401, "OPENAI_API_KEY"), (403, "OPENAI_API_KEY"), (404, "no model rule.*/v1")]
)
def test_what_will_not_get_better_ends_the_run(pairs, status, says):
    """A wrong key or name is tried for every answer."""
    with pytest.raises(DataError, match=says):
        run(pairs, lambda asked, number: Reply(status=status), "--concurrency", 2)
    assert len(run.asked) <= 4


def test_key_and_settings_are_sent(pairs, monkeypatch):
    """Options have no effect."""
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    fields = '{"max_tokens": 7, "temperature": 0.5}'
    asked, scores = run(pairs, lambda *_: "Score: 4", "--low", 1, "--high", 5, "--request-fields", fields)
    assert {request.key for request in asked} == {"Bearer secret"} and scores == [4.0] * 3
    assert (asked[0].body["max_tokens"], asked[0].body["temperature"], asked[0].body["model"]) == (7, 0.5, "rule")
    assert "from 1 (useless or false) to 5 (could" in asked[0].text


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--kind", "yes-no", "--dtype", "float32"), "--kind, --dtype: not with --endpoint"),
        (("--low", 5, "--high", 5), "--low 5 must be below --high 5"),
        (("--request-fields", "{"), "--request-fields: not valid JSON"),
        (("--request-fields", '{"stream": true}'), "--request-fields: .*without model, messages, stream"),
        (("--rubric", "absent"), "cannot read the rubric absent"),
    ],
)
def test_options_that_do_not_go_together(pairs, arguments, says):
    """Options are ignored silently."""
    with pytest.raises(DataError, match=says):
        run(pairs, judge, *arguments)
    assert not run.asked


def test_requests_are_paced_with_retries_and_threads(pairs):
    """Six answers and a retry at 600 a minute take six tenths of a second, less what the first one was late."""
    busy = at_first(Reply(status=429, headers={"Retry-After": "0.01"}))
    asked, _ = run(pairs, busy, "--requests-per-minute", 600, "--concurrency", 8)
    assert len(asked) == 7 and asked[-1].at - asked[0].at >= 0.3


def test_pacer_by_a_clock_of_its_own():
    """The interval is wrong, time saved up is spent in a burst, or a stopped pacer lets requests through."""
    now, slept = [100.0], []

    def sleep(seconds):
        slept.append(round(seconds, 6))
        now[0] += seconds

    pacer = Pacer(30, lambda: now[0], sleep)
    for _ in range(3):
        pacer.wait()
    assert slept == [2, 2]
    now[0] += 60
    pacer.wait()
    pacer.wait()
    assert slept == [2, 2, 2]
    pacer.stop()
    thread_saw = []
    thread = threading.Thread(target=lambda: thread_saw.append(pytest.raises(Stopped, pacer.wait)))
    thread.start()
    thread.join()
    assert thread_saw and slept == [2, 2, 2]


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ("Score: 7", 7),
        ("It is right.\n**Score:** 7.5", 7.5),
        ("Score: **8**", 8),
        ("Score (0-10): 6", 6),
        ("score = 3/10.", 3),
        ("SCORE: 9 out of 10", 9),
        ('```json\n{"score": 4, "reason": "Score: unclear"}\n```', None),
        ('{"reason": "short", "score": 4}', 4),
        ("Score: 2\nOn reflection:\nFinal score: 5", 5),
        ("<think>Score: 9?</think>\nScore: 1", 1),
        ("<think>Score: 9", None),
        ("7", 7),
        (" **7/10** ", 7),
        ("Score: 7,5", 7.5),
        ("Score: 0", 0),
        ("Score: 7/100", None),
        ("Score: 7-8", None),
        ("Score: 7 or 8", None),
        ("Score: 70%", None),
        ("Score: 12", None),
        ("Score: -1", None),
        ("Score: 1e1", None),
        ("Score: seven", None),
        ("Score: 3\nScore: n/a", None),
        ("I count 7 objects.", None),
        ("", None),
        (None, None),
    ],
)
def test_replies(reply, score):
    assert read_score(reply, 0, 10) == score


def test_wilson_interval():
    """50 of 100: centre 0.5; half width 1.96 / (1 + 0.038415) * sqrt(0.0025 + 0.000096) = 0.0962."""
    assert wilson(50, 100) == pytest.approx([0.4038, 0.5962], abs=1e-4)
    assert wilson(0, 10) == pytest.approx([0, 0.2775], abs=1e-4)
    assert wilson(10, 10) == pytest.approx([0.7225, 1], abs=1e-4)


@pytest.mark.parametrize(
    ("agree", "disagree", "ties", "says"),
    [(80, 20, 0, []), (52, 48, 0, ["coin"]), (20, 80, 0, ["contradict"]), (9, 0, 30, ["ties"]), (0, 0, 5, ["ties"])],
)
def test_hints(agree, disagree, ties, says):
    group = Group()
    for chosen, count in ((2.0, agree), (0.0, disagree), (1.0, ties)):
        for _ in range(count):
            group.add(chosen, 1.0)
    found = hints(group.summary())
    assert len(found) == len(says) and all(word in hint for word, hint in zip(says, found, strict=True))

"""A judge behind an endpoint that is slow, busy, broken or evasive; and the parts that need no endpoint."""

from itertools import pairwise

import pytest
from chat_server import ChatServer, Reply
from data_cli import data
from score_runs import judge, judged, read, score, unscored, write

from pair_data import DataError
from pair_data.score.agreement import Group, hints
from pair_data.score.rubrics import read_score


@pytest.fixture
def pairs(tmp_path):
    return write(tmp_path / "in.jsonl", unscored(tmp_path, 3))


def run(pairs, rule, *arguments):
    """Score pairs, one request at a time, with a judge of this rule; return its requests and the scores."""
    out = pairs.with_name("out.jsonl")
    with ChatServer(rule) as server:
        try:
            given = ("--endpoint", server.url, "--model", "rule", "--concurrency", 1, *arguments)
            score(pairs, "-o", out, *given)
        finally:
            run.asked = server.asked
    return server.asked, [row["score_chosen"] for row in read(out)]


def at_first(*replies):
    """Answer the first requests so, and all others well."""
    return lambda asked, number: replies[number] if number < len(replies) else judge(asked)


def good(pairs):
    return [judged(row["chosen"]) for row in read(pairs)]


def test_failed_requests_are_sent_again_when_the_endpoint_says(pairs):
    """A busy hour of the endpoint ends the run, or it is asked before it said."""
    replies = [Reply(status=status, headers={"Retry-After": "0.01"}) for status in (500, 503, 408)]
    asked, scores = run(pairs, at_first(*replies, Reply(status=429, headers={"Retry-After": "1"})))
    assert len(asked) == 10 and asked[0].body == asked[4].body and scores == good(pairs)
    assert asked[4].at - asked[3].at >= 1 and asked[3].at - asked[0].at < 1


def test_a_request_that_hangs_is_given_up_and_sent_again(pairs):
    """One lost reply stops the run for ever."""
    asked, scores = run(pairs, at_first(Reply("Score: 0", hang=True)), "--timeout", 1, "--retries", 1)
    assert len(asked) == 7 and scores == good(pairs)


def test_garbage_is_no_score(tmp_path):
    """The other answers are lost to it, or it counts as a score; asked again, it is the only one."""
    bodies = ("<html>", "{", '{"choices": []}', '{"object": "error"}', "[]")
    kinds = ("application/json", "text/html")
    garbage = [Reply(raw=raw, headers={"Content-Type": kind}) for raw in bodies for kind in kinds]
    pairs = write(tmp_path / "in.jsonl", unscored(tmp_path, 6))
    with ChatServer(at_first(*garbage)) as server:
        command = (pairs, "-o", tmp_path / "out.jsonl", "--endpoint", server.url, "--model", "rule")
        with pytest.raises(DataError, match=r"5 of 6 rows .*\n  row 0, chosen: "):
            score(*command, "--concurrency", 1)
        assert len(server.asked) == 12
        score(*command)
        assert len(server.asked) == 12 + 10
    assert [row["score_chosen"] for row in read(tmp_path / "out.jsonl")] == good(pairs)


def test_no_score_is_asked_for_once_more(pairs):
    """A reply without one number on the scale is scored silently, or gives up a pair that a reminder saves."""
    evasive = ["I cannot judge people.", None, "", "Score: 11", "Score: 6-7", "About a 7, I'd say"]
    rule = lambda asked, number: judge(asked) if number % 2 else Reply(evasive[number // 2])  # noqa: E731
    asked, scores = run(pairs, rule)
    assert len(asked) == 12 and scores == good(pairs)
    for reply, again in zip(evasive, asked[1::2], strict=True):
        said, reminder = again.body["messages"][1:]
        assert said == {"role": "assistant", "content": reply or "(no reply)"}
        assert "from 0 to 10" in reminder["content"]


def test_no_score_at_all_is_reported(pairs):
    """A judge that refuses twice is asked for ever, or its pair gets a score, or takes others with it."""

    def refuses(asked, number):
        return "No comment." if "number 1?" in asked.text else judge(asked)

    said = "1 of 3 rows .*\n  row 1, chosen: no score from 0 to 10 in the reply 'No comm"
    with pytest.raises(DataError, match=said):
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
    assert len(run.asked) <= 2


def test_key_and_settings_are_sent(pairs, monkeypatch):
    """Options have no effect."""
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    fields = '{"max_tokens": 7, "temperature": 0.5}'
    asked, scores = run(pairs, lambda *_: "Score: 4", "--low", 1, "--high", 5, "--request-fields", fields)
    assert {request.key for request in asked} == {"Bearer secret"} and scores == [4.0] * 3
    assert (asked[0].body["max_tokens"], asked[0].body["temperature"], asked[0].body["model"]) == (7, 0.5, "rule")
    assert "from 1 (useless or false) to 5 (could" in asked[0].text


ENDPOINT = ("--endpoint", "http://127.0.0.1:9/v1")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((*ENDPOINT, "--kind", "yes-no", "--dtype", "float32"), "--kind, --dtype: not with --endpoint"),
        ((*ENDPOINT, "--low", 5, "--high", 5), "--low 5 must be below --high 5"),
        ((*ENDPOINT, "--request-fields", "{"), "--request-fields: not valid JSON"),
        ((*ENDPOINT, "--request-fields", '{"stream": true}'), "JSON object is expected, without model, messages, str"),
        ((*ENDPOINT, "--rubric", "absent"), "cannot read the rubric absent"),
        (("--endpoint", "localhost"), "an address such as"),
        ((), "--kind says what --model is"),
        (("--kind", "judge"), "'classifier', 'value-head', 'yes-no'"),
        (("--kind", "yes-no", "--dtype", "int8"), "'auto', 'float32', 'bfloat16', 'float16'"),
        (("--kind", "yes-no", "--retries", 3), "--retries: only with --endpoint"),
        (("--kind", "value-head", "--rubric", "r"), "--rubric: only a judge"),
        (("--kind", "value-head", "--backend", "vllm"), "cannot read the value head"),
        (("--kind", "yes-no", "--backend", "vllm", "--device", "cpu"), "--device: not with --backend vllm"),
        (("--kind", "yes-no", "--tensor-parallel-size", 2), "--tensor-parallel-size: only with --backend vllm"),
    ],
)
def test_options_that_do_not_go_together(pairs, arguments, says):
    """Options are ignored silently."""
    status, _, said = data("score", pairs, "-o", pairs.with_name("out.jsonl"), "--model", "rule", *arguments)
    assert status == 2 and says in said


def test_requests_are_paced_with_retries_and_all_at_once(pairs):
    """Six answers and a retry at 600 a minute come a tenth of a second apart, give or take a busy machine."""
    busy = at_first(Reply(status=429, headers={"Retry-After": "0.01"}))
    asked, _ = run(pairs, busy, "--requests-per-minute", 600, "--concurrency", 8)
    assert len(asked) == 7 and asked[-1].at - asked[0].at >= 0.5
    assert sum(later.at - earlier.at > 0.05 for earlier, later in pairwise(asked)) >= 5, "in bursts"


REPLIES = {
    7: ["Score: 7", "7", " **7/10** "],
    7.5: ["It is right.\n**Score:** 7.5", "Score: 7,5"],
    8: ["Score: **8**"],
    6: ["Score (0-10): 6"],
    3: ["score = 3/10."],
    9: ["SCORE: 9 out of 10"],
    4: ['{"reason": "short", "score": 4}'],
    5: ["Score: 2\nOn reflection:\nFinal score: 5"],
    1: ["<think>Score: 9?</think>\nScore: 1"],
    0: ["Score: 0"],
    None: [
        *("Score: 7/100", "Score: 7-8", "Score: 7–8", "Score: 7 to 8", "Score: 7 or 8", "Score: 70%", "Score: 12"),
        *("Score: -1", "Score: 1e1", "Score: seven", "Score: 3\nScore: n/a", "I count 7 objects.", "<think>Score: 9"),
        *(None, '```json\n{"score": 4, "reason": "Score: unclear"}\n```'),
    ],
}


@pytest.mark.parametrize(("score", "reply"), [(score, reply) for score in REPLIES for reply in REPLIES[score]])
def test_replies(score, reply):
    assert read_score(reply, 0, 10) == score


@pytest.mark.parametrize(
    ("agree", "disagree", "ties", "interval", "says"),
    [
        (80, 20, 0, (0.7112, 0.8666), []),
        (52, 48, 0, (0.4231, 0.6154), ["coin"]),
        (20, 80, 0, (0.1334, 0.2888), ["contradict"]),
        (9, 0, 30, (0.7009, 1), ["ties"]),
        (0, 0, 5, None, ["ties"]),
    ],
)
def test_agreement_and_hints(agree, disagree, ties, interval, says):
    """80 of 100: centre 0.7889; half width 1.96 / (1 + 0.038415) * sqrt(0.0016 + 0.000096) = 0.0777 (Wilson)."""
    group = Group()
    for chosen, count in ((2.0, agree), (0.0, disagree), (1.0, ties)):
        for _ in range(count):
            group.add(chosen, 1.0)
    summary = group.summary()
    assert summary["agreement_95"] == (pytest.approx(interval, abs=1e-4) if interval else None)
    found = hints(summary)
    assert len(found) == len(says) and all(word in hint for word, hint in zip(says, found, strict=True))

"""`data.py score --rule`: a function of the user's in processes of its own, and ready ones."""

import json
import os
import textwrap

import pytest
from data_cli import data
from eval_tree import vlmevalkit
from PIL import Image
from score_runs import read, write

from pair_data.kept import Kept
from pair_data.score import ready_rules


def rule(folder, body):
    """Write a rule called `points`, and return what goes behind --rule."""
    path = folder / "rules.py"
    path.write_text(textwrap.dedent(body))
    return f"{path}:points"


def answers(folder, *texts, **columns):
    """Write a question with answers for each group of texts, and return the file."""
    rows = [
        {"instruction": f"Question {number}?", "reference": ["right"], "images": []}
        | {"answers": [{"text": text} for text in group]}
        | columns
        for number, group in enumerate(texts)
    ]
    return write(folder / "answers.jsonl", rows)


def score(*arguments):
    status, said, wrong = data("score", *arguments, "--workers", 2)
    return status, said + wrong


def scores(path):
    return [[answer["score"] for answer in row["answers"]] for row in read(path)]


# Each is what a rule does with the answer "bad", and how that is told.
BAD = {
    "hangs": ("time.sleep(60)", "the rule took more than 1 s (--time-limit), and was stopped"),
    "hangs in a loop": ("while True: pass", "the rule took more than 1 s (--time-limit), and was stopped"),
    "raises": ("raise ValueError('no such thing')", "the rule raised ValueError: no such thing (line 7)"),
    "leaves": ("sys.exit(3)", "the rule raised SystemExit: 3 (line 7)"),
    "dies": ("os._exit(1)", "the rule ended its process"),
    "NaN": ("return float('nan')", "the rule returned nan, which is not finite in float32"),
    "too large": ("return 1e39", "the rule returned 1e+39, which is not finite in float32"),
    "far too large": ("return 10 ** 400", "the rule returned 100000"),
    "text": ("return 'good'", "the rule returned 'good' instead of a number"),
    "nothing": ("return None", "the rule returned None instead of a number"),
}


@pytest.fixture
def spoilt(tmp_path, request):
    does, told = BAD[request.param]
    body = f"""
        import os
        import sys
        import time
        def points(answer):
            if answer == "bad":
                {does}
            return len(answer)
    """
    return rule(tmp_path, body), told


@pytest.mark.parametrize("spoilt", BAD, indirect=True)
def test_one_that_goes_wrong_is_named_and_the_rest_goes_on(tmp_path, spoilt):
    """One answer costs the others their scores, gets one that is none, or nobody knows which it was."""
    name, told = spoilt
    file, out = answers(tmp_path, ["a", "bb"], ["ccc", "bad", "dddd"], ["e"]), tmp_path / "out.json"
    given = (file, "-o", out, "--rule", name, "--time-limit", 1)
    status, said = score(*given)
    assert status == 2 and f"row 1, answer 1: {told}" in said and "1 answers or whole rows" in said, said
    assert not out.exists()
    status, said = score(*given, "--on-error", "skip")
    assert status == 0 and "3 rows with scores, 1 answers or rows left out" in said, said
    assert scores(out) == [[1, 2], [3, 4], [1]]
    assert "6 different answers, 0 scored now" in said  # the others had theirs


def test_of_a_pair_both_answers_are_needed(tmp_path):
    pair = {"instruction": "Which?", "chosen": "red", "rejected": "bad", "images": []}
    name = rule(tmp_path, "def points(answer):\n    return len(answer) if answer != 'bad' else None\n")
    file, out = write(tmp_path / "pairs.jsonl", [pair, pair | {"rejected": "blue"}]), tmp_path / "out.json"
    status, said = score(file, "-o", out, "--rule", name, "--on-error", "skip")
    assert status == 0 and "1 rows with scores, 1 left out" in said
    assert read(out) == [pair | {"rejected": "blue", "score_chosen": 3.0, "score_rejected": 4.0}]


def test_stop_ends_at_the_first(tmp_path):
    """--on-error stop goes on for hours with a rule that does not work."""
    name = rule(
        tmp_path,
        f"""
        import time
        def points(answer):
            with open({str(tmp_path / "calls")!r}, "a") as file:
                file.write(answer + "\\n")
            if answer == "0":
                raise KeyError("x")
            time.sleep(0.02)
            return 1
        """,
    )
    file = answers(tmp_path, [str(number) for number in range(300)])
    status, said = score(file, "-o", tmp_path / "out.json", "--rule", name, "--on-error", "stop")
    assert status == 2 and "row 0, answer 0: the rule raised KeyError: 'x'" in said and "same command" not in said
    assert len((tmp_path / "calls").read_text().split()) < 300


def test_a_hanging_process_is_ended_and_no_other(tmp_path):
    """A hang takes its neighbours along, or its process is left behind."""
    name = rule(
        tmp_path,
        f"""
        import os, time
        def points(answer):
            with open({str(tmp_path)!r} + "/" + answer, "w") as file:
                file.write(str(os.getpid()))
            time.sleep(60 if answer == "hangs" else 0.05)
            return 1
        """,
    )
    file = answers(tmp_path, ["hangs", *map(str, range(30))])
    assert score(file, "-o", tmp_path / "o.json", "--rule", name, "--time-limit", 1, "--on-error", "skip")[0] == 0
    hung = int((tmp_path / "hangs").read_text())
    others = {int((tmp_path / str(number)).read_text()) for number in range(30)}
    assert hung not in others and len(others) <= 2
    for pid in (hung, *others):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_rule_gets_what_it_names(tmp_path):
    """Texts with placeholders in them, images of another size than training's, or another row's column."""
    Image.new("RGB", (1600, 900), "red").save(tmp_path / "wide.png")
    row = {
        "instruction": "Look: <image> Which?",
        "history": [["Hm?", "Yes."]],
        "system": "Be brief.",
        "kind": "colour",
    }
    row |= {"images": ["wide.png"], "right": ["red", "Red"], "answers": [{"text": "red"}, {"text": "blue"}]}
    name = rule(
        tmp_path,
        f"""
        import json
        def points(row, history, images, question, *, system="", references=(), reference=None, answer, weight=2):
            told = [question, answer, reference, references, system, history, row["kind"], sorted(row), weight]
            with open({str(tmp_path / "told_")!r} + answer, "w") as file:  # two processes, an answer each
                json.dump(told + [images[0].size, images[0].mode], file)
            return True
        """,
    )
    file = write(tmp_path / "a.jsonl", [row])
    status, said = score(file, "-o", tmp_path / "out.json", "--rule", name, "--reference", "right")
    assert status == 0, said
    for answer in ("red", "blue"):
        told = json.loads((tmp_path / f"told_{answer}").read_text())
        assert told[:4] == ["Look:  Which?", answer, "red", ["red", "Red"]]
        assert told[4:7] == ["Be brief.", [["user", "Hm?"], ["assistant", "Yes."]], "colour"]
        assert "answers" not in told[7] and told[8] == 2
        assert told[9][0] * told[9][1] <= 768 * 768 and told[10] == "RGB"
    assert scores(tmp_path / "out.json") == [[1, 1]]


def test_a_score_is_kept_until_something_changes(tmp_path):
    """Rules run again for nothing, or an old score stays when the rule or the right answer is another."""
    file, out = answers(tmp_path, ["a", "bb"], ["ccc"]), tmp_path / "out.json"

    def now(body, *more):
        status, said = score(file, "-o", out, "--rule", rule(tmp_path, body), *more)
        assert status == 0, said
        return int(said.split(" scored now")[0].split()[-1])

    plain, comparing = "def points(answer):\n    return 1\n", "def points(answer, reference):\n    return 2\n"
    assert [now(plain), now(plain), now(plain + "\n"), now(comparing)] == [3, 0, 3, 3]
    answers(tmp_path, ["a", "bb"], ["ccc"], reference="left")
    assert now(plain) == 0 and now(comparing) == 3
    assert "already" in score(out, "-o", tmp_path / "again.json", "--rule", rule(tmp_path, plain))[1]
    assert score(out, "-o", tmp_path / "again.json", "--rule", rule(tmp_path, plain), "--overwrite")[0] == 0
    assert scores(tmp_path / "again.json") == [[1, 1], [1]]


def test_thousands_of_scores_are_kept_together(tmp_path, monkeypatch):
    """Each is put on the disk by itself, which takes longer than most rules."""
    puts, put = [], Kept.put
    monkeypatch.setattr(Kept, "put", lambda self, values: put(self, puts.append(None) or values))
    file = answers(tmp_path, [str(number) for number in range(5000)])
    assert score(file, "-o", tmp_path / "out.json", "--rule", "exact-match")[0] == 0
    assert 5000 / 256 < len(puts) < 1000 and len(scores(tmp_path / "out.json")[0]) == 5000


MISTAKES = {
    "no function": ("{folder}/rules.py:other", "rules.py defines no function other; it has points"),
    "no file": ("{folder}/gone.py:points", "cannot read"),
    "no such name": ("exact", "a rule is FILE.py:FUNCTION, or one of exact-match, numeric-match"),
    "no Python": ("{folder}/broken.py:points", "broken.py is no Python"),
    "an unknown parameter": ("{folder}/odd.py:points", "has the parameter truth; what a rule can get is"),
    "fails on loading": ("{folder}/late.py:points", "cannot be loaded: ModuleNotFoundError: No module"),
}  # fmt: skip


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_are_one_message(tmp_path, case):
    name, told = MISTAKES[case]
    (tmp_path / "rules.py").write_text("def points(answer): return 1")
    (tmp_path / "broken.py").write_text("def points(answer:")
    (tmp_path / "odd.py").write_text("def points(answer, truth): return 1")
    (tmp_path / "late.py").write_text("import nowhere\ndef points(answer): return 1")
    file = answers(tmp_path, ["a"])
    status, said = score(file, "-o", tmp_path / "out.json", "--rule", name.format(folder=tmp_path))
    assert status == 2 and told in said and "Traceback" not in said, said


@pytest.mark.parametrize(
    "options, told",
    [
        ((), "say what gives the scores: --model (a folder, or a name at --endpoint), or --rule"),
        (("--rule", "exact-match", "--model", "m"), "say what gives the scores"),
        (("--rule", "exact-match", "--dtype", "float32"), "--dtype: not with --rule"),
        (("--model", "m", "--kind", "yes-no", "--time-limit", "3"), "--time-limit: only with --rule"),
    ],
)
def test_options_that_mean_nothing_together(tmp_path, options, told):
    status, _, wrong = data("score", answers(tmp_path, ["a"]), "-o", tmp_path / "out.json", *options)
    assert status == 2 and told in wrong


def test_a_row_without_a_right_answer_is_named(tmp_path):
    file = write(tmp_path / "a.jsonl", [{"instruction": "Q?", "answers": [{"text": "a"}]}])
    status, said = score(file, "-o", tmp_path / "out.json", "--rule", "exact-match")
    assert status == 2 and "row 0, answer 0: the row has no right answer (--reference names the column)" in said


COLOURS = "Which colour is it? A. red B. dark red C. blue"
READY = [
    ("exact-match", "", " Red. ", ["red"], 1),
    ("exact-match", "", "red dot", ["red"], 0),
    ("exact-match", "", "grey", ["gray", "Grey"], 1),
    ("numeric-match", "", "Of 100 it is 1,234.50.", ["1234.5"], 1),
    ("numeric-match", "", "-3", ["3"], 0),
    ("numeric-match", "", "about 3e2 %", ["300%"], 1),
    ("numeric-match", "", ".5", ["0.5"], 1),
    ("numeric-match", "", "none", ["0"], 0),
    ("numeric-match", "", "4", ["four"], "no number in the right answer 'four'"),
    ("multiple-choice", COLOURS, "B", ["B"], 1),
    ("multiple-choice", COLOURS, "(b) dark red", ["B"], 1),
    ("multiple-choice", COLOURS, "**B.** dark red", ["dark red"], 1),
    ("multiple-choice", COLOURS, "The answer is C.", ["C"], 1),
    ("multiple-choice", COLOURS, "It is dark red.", ["B"], 1),
    ("multiple-choice", COLOURS, "It is red or blue.", ["A"], 0),
    ("multiple-choice", COLOURS, "A red thing", ["C"], 0),
    ("multiple-choice", COLOURS, "red", ["B"], 0),
    ("multiple-choice", "(A) 1\n(B) 2", "2", ["B"], 1),
    ("multiple-choice", COLOURS, "I can rule out option A, so the answer is B.", ["B"], 1),
    ("multiple-choice", COLOURS, "I can rule out option A, so the answer is B.", ["A"], 0),
    ("multiple-choice", COLOURS, "Option A or option B", ["A"], 0),
    ("multiple-choice", COLOURS, "A. red looks right, but the answer is B", ["A"], 0),
    ("multiple-choice", COLOURS, "The answer is I think dark red", ["B"], 1),
    ("exact-match", "", "5", [".5"], 0),
    ("exact-match", "", "It is ...", ["it is"], 1),
    ("multiple-choice", COLOURS, "B", ["green"], "neither a letter nor an option"),
    ("yes-or-no", "", "Yes, there is no doubt.", ["yes"], 1),
    ("yes-or-no", "", "I see none: No", ["Yes"], 0),
    ("yes-or-no", "", "Nothing", ["No"], 0),
    ("yes-or-no", "", "No", ["red"], "neither yes nor no"),
]


@pytest.mark.parametrize("name, question, answer, references, wanted", READY)
def test_ready_rules(name, question, answer, references, wanted):
    function = ready_rules.prepared(name)
    given = {"answer": answer, "references": references} | ({"question": question} if "choice" in name else {})
    if isinstance(wanted, str):
        with pytest.raises(ValueError, match=wanted):
            function(**given)
    else:
        assert float(function(**given)) == wanted


def test_vlmevalkit_judges_itself(tmp_path):
    """Its scores are others here than in a benchmark, or a right answer is run as Python."""
    boom = f"__import__('pathlib').Path({str(tmp_path / 'run')!r}).touch()"
    cases = [
        ["vlmeval-vqa", ["a cat", "the cat", "dog", "cow", "pig"], "Cat.", 8 / 15],
        ["vlmeval-vqa", ["two"], "2", 1],
        ["vlmeval-vqa", [boom], boom, 1],
        ["vlmeval-relaxed", ["100"], "104", 1],
        ["vlmeval-relaxed", ["100"], "106", 0],
        ["vlmeval-anls", ["abcd"], "abcx", 0.75],
        ["vlmeval-anls", ["abcd"], "wxyz", 0],
    ]
    found = vlmevalkit("installed").ask("judged", cases=[case[:3] for case in cases])
    assert found == pytest.approx([wanted for *_, wanted in cases]) and not (tmp_path / "run").exists()


def test_vlmevalkit_is_imported_outside_of_the_time_limit(tmp_path):
    """Its import takes longer than any answer may, and each answer in turn would be stopped."""
    file, out = answers(tmp_path, ["Right", "wrong"]), tmp_path / "out.json"
    status, said, wrong = data("score", file, "-o", out, "--rule", "vlmeval-vqa", "--workers", 1, "--time-limit", 1)
    assert status == 0 and scores(out) == [[1, 0]], wrong


def test_without_vlmevalkit_the_rule_says_so(tmp_path, monkeypatch):
    def absent(name):
        raise ready_rules.PackageNotFoundError(name)

    monkeypatch.setattr(ready_rules, "version_of", absent)
    status, said = score(answers(tmp_path, ["a"]), "-o", tmp_path / "out.json", "--rule", "vlmeval-vqa")
    assert status == 2 and "judges by VLMEvalKit, which is not installed for this Python" in said

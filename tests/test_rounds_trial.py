"""`scripts/rounds_trial.py`: what it reads from the tables of rounds, and what it says of them."""

import pytest
import rounds_trial


def rounds_with(*means):
    return [{"validation": {"mean": mean}} for mean in means]


def test_the_first_of_three_rounds_is_the_one_round():
    """Worked by hand: two seeds, differences of 10 and 20 points, Student's t of 12.706."""
    tables = {(0, "rounds"): rounds_with(0.5, 0.6, 0.65, 0.7), (0, "more"): rounds_with(0.5, 0.55)}
    tables |= {(1, "rounds"): rounds_with(0.5, 0.7, 0.6, 0.9), (1, "more"): rounds_with(0.5, 0.7)}
    found = rounds_trial.scores(tables, 2)
    assert found["one round"] == pytest.approx({0: 60, 1: 70}) and found["three rounds"] == pytest.approx(
        {0: 70, 1: 90}
    )
    assert found["one round, three times the questions"] == pytest.approx({0: 55, 1: 70})
    lines = rounds_trial.table(found).splitlines()
    assert lines[2] == "| start | 50.0 [50.0, 50.0] |  |"
    assert lines[5] == "| three rounds | 80.0 [-47.1, 207.1] | 15.0 [-48.5, 78.5] |"


def test_questions_are_written_once(tmp_path):
    """With a picture each, the same for the same seed, and others for another one."""
    names = [rounds_trial.questions(tmp_path / str(seed), "q", "train", 3, seed) for seed in (0, 0, 1)]
    texts = [open(name, encoding="utf-8").read() for name in names]
    assert texts[0] == texts[1] != texts[2] and len(list(tmp_path.rglob("*.png"))) == 6

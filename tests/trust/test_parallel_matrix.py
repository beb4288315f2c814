"""The same steps on one process and on 2 and 4 ranks, by every strategy: equal losses, pairs and weights.

Each step takes eight pairs: four batches of two, by one process or dealt to ranks. What is odd about the data: batches
without a picture beside others with one or two, so that a rank without pictures has to do the same collective work as
the others; answers of very different lengths; and a number of pairs that fills no last batch. There accelerate repeats
the first pairs until every rank has a full batch. A single process does not, so it is given data in which just these
repeats are written out. One process without caches, by upstream's forward, is what all others are compared with.
"""

import itertools
from pathlib import Path

import pytest
from figures import LONG, times
from pairs import command_line, make_rows, mixed, options, write_dataset
from ranks import BY_UPSTREAM, TWO_RANKS, ZERO, Course, course, job, said, sharing, statuses, train_jobs


STEPS = times(4, 20)
BATCH, AT_ONCE, COUNT = 2, 8, 27
STRATEGIES = ("ddp", "fsdp1", "fsdp2", "zero1", "zero2", "zero3")
SHARDED = ("fsdp1", "fsdp2", "zero3")
FORWARDS = ("shared_prefix", "upstream")
# With full fine-tuning the tower trains too: its gradients are averaged over ranks with and without pictures.
TUNINGS = {
    "full": {"learning_rate": 1e-4, "freeze_vision_tower": False, "freeze_multi_modal_projector": False},
    "lora": {"learning_rate": 1e-3, "finetuning_type": "lora", "lora_rank": 4},
}
# Biases of keys have no gradient but rounding errors, by which Adam would go full steps without an epsilon.
FIXED = {"dataset": "uneven", "disable_shuffling": True, "adam_epsilon": 1e-5, "pref_beta": 0.5, "max_steps": STEPS}

# Strategy, ranks, tuning, forward, and whether the reference's log-probs are cached.
ALL = list(itertools.product(STRATEGIES, (2, 4), TUNINGS, FORWARDS, (False, True)))
SOME = [
    ("ddp", 2, "lora", "shared_prefix", False),
    ("fsdp2", 2, "full", "shared_prefix", True),
    ("zero2", 2, "lora", "upstream", True),
    ("zero3", 2, "full", "shared_prefix", False),
]
CASES = ALL if LONG else SOME
# On one process over the pairs of as many ranks: what to compare with, and what fills caches or is worth comparing.
SAME = CASES if LONG else [("ddp", 2, "full", "shared_prefix", True)]
ALONE = sorted({("alone", *case[1:3], "upstream", False) for case in CASES} | {("alone", *case[1:]) for case in SAME})
LOSS_BOUND = 2e-4  # of a step's mean loss and of its gradient norm, relative
WEIGHT_BOUND = 0.1  # of the learning rate, by which Adam moves a weight in one step


def uneven_rows(folder: Path) -> list[dict]:
    """Batches with and without pictures in turn, then as they come; every fifth answer is long."""
    rows = mixed(make_rows(folder, COUNT))
    rows = [row | {"chosen": row["chosen"] + " Indeed." * 25} if i % 5 == 0 else row for i, row in enumerate(rows)]
    none, one, two = (rows[kind::3] for kind in range(3))
    return [*none[:2], *one[:2], *none[2:4], *two[:2], *none[4:6], *two[2:4], *none[6:], *one[2:], *two[4:]]


def name_of(strategy: str, ranks: int, tuning: str, forward: str, cached: bool) -> str:
    return f"{strategy}-{ranks}-{tuning}-{forward}{'-cached' * cached}"


def alone(case: tuple, *differences) -> tuple:
    """The run on one process over the pairs of the same number of ranks; by default the one to compare with."""
    return "alone", *case[1:3], *(differences or ("upstream", False))


def prepared(place: Path, model: Path, case: tuple) -> dict:
    """Describe one run, for `train_jobs`."""
    strategy, ranks, tuning, forward, cached = case
    folder, fsdp_lora = place / name_of(*case), strategy.startswith("fsdp") and tuning == "lora"
    run = FIXED | TUNINGS[tuning] | {"pref_forward": forward, "uni_dpo_log_pairs": True}
    if cached:
        # FSDP uses what is stored of an adapter's reference, but does not fill it (a clear error says so).
        filled_by = place / name_of(*alone(case, forward, True)) if fsdp_lora else folder
        run |= {"uni_dpo_reference_cache": str(filled_by / "reference")}
    if strategy == "alone":
        run |= {"dataset": f"as-{ranks}-ranks", "gradient_accumulation_steps": AT_ONCE // BATCH}
    else:
        run |= {"gradient_accumulation_steps": AT_ONCE // (ranks * BATCH)}
    processes = 0 if strategy == "alone" else ranks
    return job(folder, strategy, processes, options(model, place / "data", folder, **run))


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_model) -> Path:
    """Where all runs are, after they have ended."""
    place = tmp_path_factory.mktemp("matrix")
    rows = uneven_rows(place / "data")
    write_dataset(place / "data", rows, name="uneven")
    for ranks in (2, 4):
        filled = -(-COUNT // (ranks * BATCH)) * ranks * BATCH
        write_dataset(place / "data", [*rows, *rows[: filled - COUNT]], name=f"as-{ranks}-ranks")
    train_jobs([prepared(place, tiny_model, case) for case in [*ALONE, *CASES]])
    return place


def outcome(place: Path, case: tuple) -> Course:
    folder = place / name_of(*case)
    assert set(statuses(folder)) == {0}, said(folder)[-3000:]
    return course(folder / "out", COUNT)


TRIED = [strategy for strategy in STRATEGIES if any(case[0] == strategy for case in CASES)]


@pytest.mark.parametrize("strategy", ["alone", *TRIED])
def test_equals_one_process(place, figure, strategy):
    """Losses, pairs and weights of every run are those of one process without a cache, by upstream's forward."""
    worst, cases = (0.0, 0.0), [case for case in (*ALONE, *CASES) if case[0] == strategy]
    for case in cases:
        loss, weight = outcome(place, case).off(outcome(place, alone(case)))
        weight /= TUNINGS[case[2]]["learning_rate"]
        assert loss < LOSS_BOUND and weight < WEIGHT_BOUND, (name_of(*case), loss, weight)
        worst = max(worst[0], loss), max(worst[1], weight)
    seen = f"loss and gradient norm within {worst[0]:.1e}, weights within {worst[1]:.1e} of the learning rate"
    tried = f"{STEPS} steps by {strategy if strategy != 'alone' else 'one process'}, as by one without cache or engine"
    figure("1 parallel", tried, len(cases), seen)


@pytest.mark.parametrize("strategy", TRIED)
def test_is_the_strategy_it_says(place, strategy):
    """Options of upstream are not ignored: each rank holds its share of the weights, or all of them."""
    for case in CASES:
        if case[0] != strategy:
            continue
        folder, ranks = place / name_of(*case), case[1]
        found = sharing(folder)
        whole = sharing(place / name_of(*alone(case)))[0]["held"]
        assert len(found) == ranks
        kinds = {"ddp": "MULTI_CPU", "fsdp1": "FSDP", "fsdp2": "FSDP"}
        assert {each["type"] for each in found} == {kinds.get(strategy, "DEEPSPEED")}
        if strategy in ZERO:
            assert {each["stage"] for each in found} == {ZERO[strategy]["stage"]}
        for each in found:
            assert (each["held"] < 1.1 * whole / ranks) if strategy in SHARDED else (each["held"] == whole), found
        assert f"pref_forward: {case[3]}." in said(folder) or case[3] == "upstream"


def test_some_ranks_have_no_picture_while_others_have(tmp_path):
    """What the data is made for."""
    rows = uneven_rows(tmp_path)
    batches = [sum(len(row["images"]) for row in rows[i : i + BATCH]) for i in range(0, COUNT, BATCH)]
    for ranks in (2, 4):
        at_once = [batches[i : i + ranks] for i in range(0, len(batches), ranks)]
        assert any(0 in batch and any(batch) for batch in at_once)
    assert COUNT % BATCH and len(batches) % 4 and len({len(row["chosen"]) for row in rows}) > 3


@pytest.mark.long
@BY_UPSTREAM
def test_two_ranks_by_llamafactorys_own_command(tiny_model, pair_data, tmp_path):
    """Two pairs on each of two ranks, or on one with twice the accumulation: the same pairs in every step."""
    courses = []
    for name, environment, accumulation in (("one", {}, 2), ("two", TWO_RANKS, 1)):
        changes = {"gradient_accumulation_steps": accumulation, "uni_dpo_log_pairs": True, "max_steps": 5}
        run = options(tiny_model, pair_data, tmp_path / name, **changes)
        done = command_line(run, tmp_path / f"{name}.yaml", **environment)
        assert done.returncode == 0, done.stderr[-3000:]
        courses.append(course(tmp_path / name, COUNT))
    loss, weight = courses[1].off(courses[0])
    assert loss < LOSS_BOUND and weight < 1e-5 and len(courses[0].losses) == 20

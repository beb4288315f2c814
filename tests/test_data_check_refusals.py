"""What `check` refuses, and when: before any row is read, in one message, with what is there left alone."""

import json

import pytest
from pairs import make_rows, write_dataset
from test_data_check import here


@pytest.fixture
def pairs(tmp_path):
    """A file of pairs whose second row is no row, so that a check of it would say so."""
    rows = make_rows(tmp_path, 3)
    (tmp_path / "pairs.jsonl").write_text("\n".join([json.dumps(rows[0]), "[1, 2]", json.dumps(rows[2])]))
    return tmp_path / "pairs.jsonl"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--findings", "thesis.tex"], "must end in .jsonl"),
        (["--findings", "pairs.jsonl"], "also read, or written twice"),
        (["--findings", "x.jsonl", "--fix", "./x.jsonl"], "also read, or written twice"),
        (["--findings", "folder.jsonl"], "a folder of that name"),
        (["--findings", "thesis.tex/x.jsonl"], "not a folder"),
        (["--fix", "pairs.jsonl"], "also read, or written twice"),
        (["--fix", "folder.jsonl"], "a folder of that name"),
        (["--fix", "clean.txt"], "must end in .json or .jsonl or .parquet"),
        (["--fix", "thesis.tex/x.json"], "not a folder"),
        (["--fix", "x.json", "--fix-images", "thesis.tex"], "not a folder"),
    ],
)
def test_outputs_that_cannot_be_are_refused_before_any_work(pairs, tmp_path, monkeypatch, options, reason):
    """Otherwise somebody's file is lost, or hours of checking are."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "thesis.tex").write_text("years of work")
    (tmp_path / "folder.jsonl").mkdir()
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    status, said = here("pairs.jsonl", *options)
    assert status == 2 and reason in said and "row-not-object" not in said
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


@pytest.fixture
def recipe(pairs, tmp_path):
    """A training run over `pairs` with a model that is nowhere."""
    rows = make_rows(tmp_path, 3)
    write_dataset(tmp_path, rows)
    given = {"model_name_or_path": str(tmp_path / "nowhere"), "stage": "dpo", "do_train": True, "pref_loss": "uni_dpo"}
    given |= {"dataset": "pairs", "dataset_dir": str(tmp_path), "template": "qwen2_vl", "output_dir": "out"}
    (tmp_path / "run.yaml").write_text(json.dumps(given))
    return tmp_path / "run.yaml"


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("cutof_len=10", 'training knows no option "cutof_len". Did you mean cutoff_len?'),
        ("cutoff_len=many", "cutoff_len must be a number, not 'many'"),
        ("uni_dpo_qual_eta=1", "cannot load the tokenizer"),  # our options are known, and the model comes first
    ],
)
def test_a_recipe_is_read_as_training_would(recipe, override, reason):
    """A slip in an option would check another run than the one that is started."""
    status, said = here("--config", recipe, override)
    assert status == 2 and reason in said, said
    assert "pairs: " not in said, "rows and images were read before"


def test_swapped_scores_are_called_by_their_name(tmp_path):
    """Half a page of reversed rows does not say what happened."""
    rows = [row | {"score_chosen": 1.0, "score_rejected": 2.0 + i} for i, row in enumerate(make_rows(tmp_path, 5))]
    (tmp_path / "swapped.json").write_text(json.dumps(rows))
    status, said = here(tmp_path / "swapped.json")
    assert status == 0 and "look swapped" in said


def test_a_copy_elsewhere_says_where_its_images_are(tmp_path):
    rows = [row | {"score_chosen": 2.0, "score_rejected": 1.0} for row in make_rows(tmp_path, 3)]
    (tmp_path / "pairs.json").write_text(json.dumps(rows))
    _, said = here(tmp_path / "pairs.json", "--fix", tmp_path / "beside.json")
    assert "training needs media_dir" not in said
    _, said = here(tmp_path / "pairs.json", "--fix", tmp_path / "elsewhere" / "copy.json")
    assert f"training needs media_dir: {tmp_path}" in said

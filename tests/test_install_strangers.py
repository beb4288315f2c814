"""A LlamaFactory that is something else already: stand-ins for the published overlay and for forks, made here.

What is known of the published overlay: upstream's own files edited, options of the same names, log-probs that are
divided by length for every loss. With ours on top they would be divided twice.
"""

import json
import shutil
import subprocess
from pathlib import Path

import other_tree
import pytest
from installing import SEAM, git_commit, lay_over, pip_install, run, small_checkout, snapshot
from pairs import ROOT, options, train
from recorded import messages
from upstream import wheel_tree

from llamafactory.train.trainer_utils import get_batch_logps
from llamafactory.train.uni_dpo.errors import UniDPOError
from llamafactory.train.uni_dpo.upstream import underneath


ARGUMENTS, LOGPS, TRAINER = "hparams/finetuning_args.py", "train/trainer_utils.py", "train/dpo/trainer.py"
LOSS = '    pref_loss: Literal["sigmoid", '
SUMS = "    return logps, valid_length\n"

OPTIONS = (ARGUMENTS, LOSS, f"    uni_dpo_qual_eta: float = 0.7\n    dpo_average_log_prob: bool = True\n{LOSS}")
NAME = (ARGUMENTS, LOSS, f'{LOSS}"uni_dpo", ')
METHOD = (TRAINER, "    def simpo_loss(", "    def _upstream_forward(self):\n        pass\n\n    def simpo_loss(")
MEANS = (LOGPS, SUMS, "    return logps / valid_length, valid_length\n")
PUBLISHED = (OPTIONS, NAME, MEANS)
HARMLESS = ((TRAINER, "    def simpo_loss(", "    # ours\n    def simpo_loss("), (LOGPS, SUMS, f"    # mine\n{SUMS}"))


def edit(package: Path, *edits: tuple[str, str, str]) -> None:
    for file, old, new in edits:
        text = (package / file).read_text()
        assert text.count(old) == 1
        (package / file).write_text(text.replace(old, new))


# ---- what is found ----


@pytest.mark.parametrize("version", ["0.9.4", "0.9.5"])
def test_nothing_is_found_in_a_clean_one(version):
    package = wheel_tree(version) / "llamafactory"
    assert underneath.taken(package) == [] and underneath.logps_are_known(package)
    assert underneath.wrong_sums(get_batch_logps) == ""


@pytest.mark.parametrize(
    "edits, found",
    [
        (OPTIONS, "its options `dpo_average_log_prob`, `uni_dpo_qual_eta` have names of ours"),
        (NAME, "it has a `pref_loss: uni_dpo` of its own"),
        (METHOD, "`_upstream_forward` of its CustomDPOTrainer have names of ours"),
    ],
    ids=["options", "loss", "method"],
)
def test_names_that_are_taken(small, edits, found):
    edit(small / "src/llamafactory", edits)
    assert underneath.taken(small / "src/llamafactory") == [found]


def test_log_probs_that_are_no_sums(small):
    """Row one has four scored tokens, row two three: -3.691 and -4.957 nats, counted by hand in float64."""

    def means(**kwargs):
        sums, lengths = get_batch_logps(**kwargs)
        return sums / lengths, lengths

    found = underneath.wrong_sums(means)
    assert found.endswith("gives -0.9228, -1.652, 4, 3 for two rows whose sums and counts are -3.691, -4.957, 4, 3")
    edit(small / "src/llamafactory", MEANS)
    assert not underneath.logps_are_known(small / "src/llamafactory")


def test_options_of_ours_are_read_without_importing_them():
    from dataclasses import fields

    from llamafactory.train.uni_dpo.options.arguments import UniDPOArguments

    assert underneath.option_names() == {option.name for option in fields(UniDPOArguments)}


def test_a_forward_that_divides_is_refused(tiny_model, pair_data, tmp_path, monkeypatch):
    """A fork may do it in its trainer, behind a function that is upstream's word for word."""
    from llamafactory.train.dpo.trainer import CustomDPOTrainer

    forward = CustomDPOTrainer.concatenated_forward

    def dividing(self, *args, **kwargs):
        output = forward(self, *args, **kwargs)
        return output | {"chosen_logps": output["chosen_logps_avg"], "rejected_logps": output["rejected_logps"] / 3}

    monkeypatch.setattr(CustomDPOTrainer, "concatenated_forward", dividing)
    for loss, changes in (("uni_dpo", {}), ("sigmoid", {"pref_forward": "upstream"})):
        with pytest.raises(UniDPOError, match="concatenated_forward gives -0.9228, -1.652 for two rows whose sums"):
            train(options(tiny_model, pair_data, tmp_path / "out", pref_loss=loss, **changes))
    assert not list((tmp_path / "out").glob("*.safetensors"))


def test_a_forward_that_cannot_be_tried_is_told(tiny_model, pair_data, tmp_path, monkeypatch):
    from llamafactory.train.dpo.trainer import CustomDPOTrainer

    forward = CustomDPOTrainer.concatenated_forward

    def images_only(self, model, batch, *args, **kwargs):
        return forward(self, model, batch | {"pixel_values": batch["pixel_values"]}, *args, **kwargs)

    monkeypatch.setattr(CustomDPOTrainer, "concatenated_forward", images_only)
    with messages() as said:
        train(options(tiny_model, pair_data, tmp_path / "out", max_steps=1))
    assert any("Nothing says that this LlamaFactory's log-probs are sums" in line for line in said)
    with pytest.raises(underneath.Untried, match="get_batch_logps cannot be called"):
        underneath.wrong_sums(lambda: None)


# ---- the installer ----


@pytest.mark.parametrize("laid", [False, True])
def test_installer_and_status_refuse_the_published_overlay(tmp_path, capsys, laid):
    """Before ours is laid on it and after, which `cp -r` does without asking anybody."""
    small = small_checkout(tmp_path / "small")
    edit(small / "src/llamafactory", *PUBLISHED)
    if laid:
        lay_over(ROOT / "LlamaFactory", small)
    before = snapshot(small)
    for command in ("install", "--force"), ("install", "--link", "--force"), ("install", "--dry-run"), ("install",):
        assert run(*command, "--checkout", small) == 2
        message = capsys.readouterr().err
        assert "`uni_dpo_qual_eta`" in message and f"git -C {small} checkout" in message
    assert run("status", "--checkout", small) == 1
    told = capsys.readouterr().out
    assert "but nothing trains" in told and "pref_loss: uni_dpo" in told and f"git -C {small} checkout" in told
    assert snapshot(small) == before


def test_the_way_out_of_a_git_checkout(small, capsys):
    """What the message says: afterwards ours can be installed, and the edits are gone."""
    git_commit(small)
    edit(small / "src/llamafactory", *PUBLISHED)
    lay_over(ROOT / "LlamaFactory", small)
    assert run("install", "--checkout", small) == 2
    (said,) = [part for part in capsys.readouterr().err.split(": ") if part.startswith("git -C")]
    subprocess.run(said.partition("   (")[0], shell=True, check=True)
    assert run("install", "--checkout", small) == 0
    assert run("status", "--checkout", small) == 0


def test_what_only_running_it_would_tell_is_said(python_with_wheel, capsys):
    """Training tries it at its start. Edits that pip knows of are named, until it brings upstream's files back."""
    python = python_with_wheel("0.9.5")
    (package,) = python.parent.parent.glob("lib/python*/site-packages/llamafactory")
    edit(package, *HARMLESS)
    assert run("install", "--python", python) == 0
    assert run("status", "--python", python) == 0
    told = capsys.readouterr().out
    assert "untried  its get_batch_logps is not upstream's; training tries it" in told
    assert f"edited   llamafactory/{TRAINER}, llamafactory/{LOGPS}; training goes on" in told
    pip_install(python, "0.9.5", "--force-reinstall")
    assert run("install", "--python", python) == 0
    capsys.readouterr()
    assert run("status", "--python", python) == 0
    assert "edited" not in (told := capsys.readouterr().out) and "untried" not in told


def test_edits_in_a_git_checkout_are_one_line(small, capsys):
    git_commit(small)
    edit(small / "src/llamafactory", HARMLESS[0])
    assert run("install", "--checkout", small) == 0
    assert run("status", "--checkout", small) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "edited" in line]
    assert lines == [f"  edited   src/llamafactory/{TRAINER}; training goes on"] and SEAM not in lines[0]


# ---- the start of training ----


def laid_over(folder: Path, *edits: tuple[str, str, str]) -> Path:
    """Edit a LlamaFactory and copy the overlay over it by hand."""
    shutil.copytree(wheel_tree("0.9.5") / "llamafactory", folder / "llamafactory")
    edit(folder / "llamafactory", *edits)
    shutil.copytree(ROOT / "LlamaFactory" / "src" / "llamafactory", folder / "llamafactory", dirs_exist_ok=True)
    return folder


def run_all(host, tree: Path, runs: dict[str, dict], folder: Path) -> dict[str, str]:
    """Train several runs in one process with the LlamaFactory of `tree`; return for each how it ended."""
    (folder / "runs.json").write_text(json.dumps(runs))
    done = other_tree.run(host, [tree], "other_tree:train_all", folder / "runs.json", folder / "ends.json")
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "ends.json").read_text())


def test_nothing_trains_on_the_published_overlay(host, tiny_model, pair_data, tmp_path):
    """Neither our loss nor another one, whose log-probs would be means there; with no option of ours at all, too."""
    tree = laid_over(tmp_path / "tree", *PUBLISHED)
    run = options(tiny_model, pair_data, tmp_path / "out", max_steps=1, uni_dpo_qual_eta=0.7)
    (tmp_path / "run.yaml").write_text(json.dumps(run))
    stock = {"pref_loss": "sigmoid", "pref_beta": 0.1, "uni_dpo_qual_eta": None}
    runs = {
        "stock": options(tiny_model, pair_data, tmp_path / "out", max_steps=1, **stock),
        "simpo": options(tiny_model, pair_data, tmp_path / "out", max_steps=1, **stock | {"pref_loss": "simpo"}),
    }
    ends = run_all(host, tree, runs, tmp_path)
    assert all(end.startswith("UniDPOError: The LlamaFactory in") for end in ends.values()), ends
    done = other_tree.run(host, [tree], "llamafactory.cli:main", "train", tmp_path / "run.yaml")
    last = [line for line in done.stderr.splitlines() if line.startswith("Error: ")][-1]
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert last.startswith(f"Error: The LlamaFactory in {tree / 'llamafactory'} is not one")
    assert "pip install --force-reinstall" in last and "get_batch_logps gives -0.9228, -1.652" in last
    assert not (tmp_path / "out").exists()


def test_a_harmless_edit_trains(host, tiny_model, pair_data, tmp_path):
    """And is no reason to refuse."""
    run = options(tiny_model, pair_data, tmp_path / "out", max_steps=1)
    ends = run_all(host, laid_over(tmp_path / "tree", *HARMLESS), {"ours": run}, tmp_path)
    assert ends == {"ours": "trained"} and (tmp_path / "out" / "model.safetensors").is_file()

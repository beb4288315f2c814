"""`data.py download` against a hub on this machine."""

import io
import json
import os
import shutil
import zipfile

import pytest
from data_cli import DATA, call, data
from hub_server import Hub
from huggingface_hub import constants
from pairs import ROOT

from pair_data import DataError
from pair_data.commands.download import DATASET, USUAL
from pair_data.download.hub import PAIRS, Remote, require_disk
from pair_data.download.unpack import SPARE
from pair_data.register import describe


COLUMNS = {name: name for name in ("chosen", "rejected", "images", "score_chosen", "score_rejected")}
COLUMNS = {"prompt": "instruction"} | COLUMNS
FILES = ("--files", "long.zip", "--files", "dpo_pairs.jsonl")


@pytest.fixture
def hub(monkeypatch):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name in ("long/a.png", "long/b.png"):
            archive.writestr(name, os.urandom(40_000))
    server = Hub({"long.zip": packed.getvalue(), "dpo_pairs.jsonl": b'{"id": 1}\n' * 50_000})
    for name in ("HF_ENDPOINT", "MODELSCOPE_ENDPOINT"):
        monkeypatch.setenv(name, server.address)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield server
    server.shutdown()
    server.server_close()


def download(folder, *arguments):
    """Run the command and return its exit status and what it said."""
    status, out, err = data("download", "--to", folder, *arguments)
    return status, out + err


def images(folder):
    return sorted(path.name for path in (folder / "MM-RLHF" / "long").glob("*"))


def published(name="a"):
    """A file like the published one, with paths of another machine."""
    row = {"instruction": "<image>What?", "chosen": "yes", "rejected": "no"}
    row |= {"score_chosen": 4.0, "score_rejected": 1.5}
    return json.dumps([row | {"images": [f"/home/them/MM-RLHF/long/{name}.png"]}]).encode()


def test_files_are_fetched_and_unpacked_and_a_second_run_fetches_nothing(hub, tmp_path):
    """The first run is a process of its own, by the settings of the environment."""
    status, out, err = call(*DATA, "download", "--to", tmp_path, *FILES)
    assert status == 0, out + err
    assert (tmp_path / "MM-RLHF" / "dpo_pairs.jsonl").read_bytes() == hub.files["dpo_pairs.jsonl"]
    assert images(tmp_path) == ["a.png", "b.png"]
    requests = len(hub.ranges)
    assert download(tmp_path, *FILES)[0] == 0 and len(hub.ranges) == requests
    status, said = download(tmp_path, "--files", "nope.zip")
    assert status == 2 and "has no file nope.zip; it has long.zip, dpo_pairs.jsonl" in said


def test_a_broken_connection_is_taken_up_where_it_broke(hub, tmp_path):
    """21 GB from the start again is what people fear. The hub's library keeps whole blocks of 10 MiB."""
    hub.files["dpo_pairs.jsonl"] = os.urandom(25 << 20)
    hub.cut["dpo_pairs.jsonl"] = 12 << 20
    status, said = download(tmp_path, "--files", "dpo_pairs.jsonl")
    assert status == 0, said
    assert (tmp_path / "MM-RLHF" / "dpo_pairs.jsonl").read_bytes() == hub.files["dpo_pairs.jsonl"]
    assert hub.ranges == [None, f"bytes={10 << 20}-", f"bytes={20 << 20}-"]


def test_a_file_that_was_changed_on_the_way_is_refused(hub, tmp_path):
    """Nothing of it may be unpacked or stay under its name; from either hub."""
    hub.files[PAIRS], hub.down = published(), {"/api/datasets/psp-dada"}
    hub.wrong |= {"long.zip", PAIRS}
    for name in ("long.zip", PAIRS):
        status, said = download(tmp_path, "--files", name)
        assert status == 2 and "is not what the hub announced" in said
    assert not images(tmp_path) and not list(tmp_path.rglob("uni_dpo*")) and not list(tmp_path.rglob("long.zip"))
    hub.wrong.clear()
    assert download(tmp_path, *FILES)[0] == 0


def test_archives_can_go_and_are_fetched_again_only_without_their_images(hub, tmp_path):
    """The mark of an archive that was unpacked does not outlive its images."""
    assert download(tmp_path, "--files", "long.zip", "--remove-archives")[0] == 0
    assert not (tmp_path / "MM-RLHF" / "long.zip").exists()
    requests = len(hub.ranges)
    assert download(tmp_path, "--files", "long.zip")[0] == 0 and len(hub.ranges) == requests
    shutil.rmtree(tmp_path / "MM-RLHF" / "long")
    assert download(tmp_path, "--files", "long.zip")[0] == 0 and images(tmp_path) == ["a.png", "b.png"]


def test_without_a_network_it_says_what_to_put_where(hub, tmp_path, monkeypatch):
    """At once, in one message, and what it says works."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    status, said = download(tmp_path)
    assert status == 2 and said.startswith("Error: the hub cannot be reached from here (OfflineModeIsEnabled)")
    assert f"hf download psp-dada/Uni-DPO {PAIRS} --repo-type dataset --local-dir Uni-DPO" in said
    assert hub.asked == []
    (tmp_path / "Uni-DPO").mkdir()
    (tmp_path / "Uni-DPO" / PAIRS).write_bytes(published())
    status, said = download(tmp_path)
    assert status == 2 and "is ready in" in said  # the pairs; of the images it says:
    assert "hf download yifanzhang114/MM-RLHF data.jsonl dpo_pairs.jsonl mcq.zip short.zip long.zip" in said
    archive = tmp_path / "MM-RLHF" / "long.zip"
    assert f"--archive '{archive}'" in said and not archive.exists()
    archive.parent.mkdir(exist_ok=True)
    archive.write_bytes(hub.files["long.zip"])
    assert download(tmp_path, "--archive", archive)[0] == 0 and images(tmp_path) == ["a.png", "b.png"]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub.down |= {"/api/"}  # neither hub answers
    status, said = download(tmp_path / "other", "--files", PAIRS)
    assert status == 2 and "hf download psp-dada/Uni-DPO" in said


def test_room_is_needed_for_what_is_missing_only(tmp_path, monkeypatch):
    """Not again for what an earlier run has fetched, half fetched or unpacked."""
    big = [Remote("long.zip", 9 << 20, "")]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(0, 0, SPARE + (1 << 20)))
    part = tmp_path / ".cache" / "huggingface" / "download" / "long.zip.abc.incomplete"
    for path, size in {part: 8 << 20, tmp_path / "long" / "sub" / "a.png": 9 << 20}.items():
        with pytest.raises(DataError, match="are needed"):
            require_disk(big, tmp_path, True)
        path.parent.mkdir(parents=True)
        path.write_bytes(bytes(size))
    require_disk(big, tmp_path, True)
    part.unlink()
    with pytest.raises(DataError):
        require_disk(big, tmp_path, True)
    (tmp_path / "long.zip").write_bytes(b"")
    require_disk(big, tmp_path, True)


@pytest.mark.parametrize("kind", ["huggingface", "modelscope", "modelscope first"])
def test_the_published_pairs_end_as_a_data_set(hub, tmp_path, monkeypatch, kind):
    """From either hub; then again, which fetches nothing and keeps what somebody has corrected."""
    hub.files[PAIRS] = published()
    hub.down |= {"/api/datasets/psp-dada"} if kind == "modelscope" else set()
    options = ("--files", "long.zip", "--files", PAIRS)
    if kind != "huggingface":  # whose library is tested above
        hub.cut[PAIRS] = 100  # the connection breaks, again and again
    monkeypatch.setenv("USE_MODELSCOPE_HUB", "1" if "first" in kind else "0")
    status, said = download(tmp_path, *options)
    assert status == 0, said
    fetched = [path.startswith("/api/v1/") for path in hub.asked if PAIRS in path]
    assert fetched == ([False] if kind == "huggingface" else [True] * 2)
    image = str(tmp_path / "MM-RLHF" / "long" / "a.png")
    assert [row["images"] for row in json.loads((tmp_path / PAIRS).read_text())] == [[image]]
    entry = {"file_name": PAIRS, "formatting": "alpaca", "ranking": True, "columns": COLUMNS}
    assert json.loads((tmp_path / "dataset_info.json").read_text()) == {DATASET: entry}
    assert f"DATASET_DIR='{tmp_path}' bash examples/uni_dpo/Qwen2_VL_2B_uni_dpo.sh" in said

    (tmp_path / PAIRS).write_bytes(published("b"))
    asked = len(hub.asked)
    status, said = download(tmp_path, *options)
    assert status == 0 and len(hub.asked) == asked, said
    assert json.loads((tmp_path / PAIRS).read_text())[0]["images"] == [image.replace("a.png", "b.png")]
    assert (tmp_path / PAIRS.replace(".json", ".original.json")).read_bytes() == published("b")


def test_the_recipe_of_the_repository_takes_the_pairs_as_they_are(tmp_path):
    """The entry that is shipped is the one that would be made, so `download` does not change it."""
    (tmp_path / PAIRS).write_bytes(published())
    shipped = json.loads((USUAL / "dataset_info.json").read_text())[DATASET]
    assert USUAL == (ROOT / "data" / "uni_dpo").resolve() and describe(tmp_path / PAIRS, tmp_path)[0] == shipped

"""Image paths of another machine become those of this one, and nothing else in the data changes."""

import json
import os
import shutil
import sys

import pytest
from data_cli import call, data
from installing import run as install
from pairs import ROOT

from pair_data.rows import read_rows
from pair_data.writing import write_rows


PUBLISHED = [sys.executable, ROOT / "scripts" / "change_data_image_path.py"]
THERE = ("long/1.png", "short/a b/2.png", "mcq/ü.png")
WRITTEN = {
    "/home/them/MM-RLHF/long/1.png": "long/1.png",
    "MM-RLHF/long/1.png": "long/1.png",
    "./x/MM-RLHF//long/1.png": "long/1.png",
    "/a/MM-RLHF/b/MM-RLHF/short/a b/2.png": "short/a b/2.png",
    "C:\\Users\\them\\MM-RLHF\\mcq\\ü.png": "mcq/ü.png",
    "D:/data/MM-RLHF/long\\1.png": "long/1.png",
    "\\\\server\\share\\MM-RLHF\\long\\1.png": "long/1.png",
    "long/1.png": "long/1.png",  # as MM-RLHF's own pairs have it
    "MM-RLHF/mcq/gone.png": "mcq/gone.png",
}
LEFT = ["/a/MM-RLHF-old/1.png", "/a/b.png", "MM-RLHF", "/x/MM-RLHF/", "/a/MM-RLHF/../secret.png", "nowhere.png", ""]


def row(*images, **columns):
    return {"instruction": "q", "chosen": "a", "rejected": "b", "score_chosen": 3.5, "images": list(images)} | columns


def first(path):
    return next(read_rows(path))


def changed(folder, rows, *options, name="in.json", out="out.json", image_dir="here"):
    """Write rows, run `paths` on them, and return the images of its output, its status and its messages."""
    write_rows(folder / name, rows)
    given = (folder / name).read_bytes()
    command = ["paths", folder / name, "-o", folder / out, "--image-dir", folder / image_dir]
    status, told, messages = data(*command, *options)
    assert (folder / name).read_bytes() == given, "the input stays as it was"
    images = [row["images"] for row in read_rows(folder / out)] if (folder / out).exists() else None
    return images, status, told + messages


@pytest.fixture
def folder(tmp_path):
    """A folder `here` with images below `MM-RLHF`."""
    for name in THERE:
        path = tmp_path / "here" / "MM-RLHF" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"image")
    return tmp_path


@pytest.mark.parametrize("image_dir", ["here", "here/MM-RLHF", "here/x/../MM-RLHF/"])
def test_paths_of_any_system(folder, image_dir):
    """From the last MM-RLHF/ on, below the folder that holds MM-RLHF or MM-RLHF itself; again changes nothing."""
    images, status, told = changed(folder, [row(*WRITTEN), row(*LEFT)], image_dir=image_dir)
    assert status == 0
    assert images == [[str(folder / "here" / "MM-RLHF" / name) for name in WRITTEN.values()], LEFT]
    assert f"2 rows; images: {len(WRITTEN)} rewritten, 0 already right, {len(LEFT)} left as they are" in told
    again, _, told = changed(folder, map(lambda images: row(*images), images), name="b.json", image_dir=image_dir)
    assert again == images and f"0 rewritten, {len(WRITTEN)} already right" in told


def test_a_renamed_folder_is_recognised_by_its_images(folder):
    """MM-RLHF unpacked under another name: only the files tell that --image-dir is the prefix itself."""
    (folder / "here" / "MM-RLHF").rename(folder / "here" / "images")
    rows = [row("/x/MM-RLHF/gone.png")] * 5 + [row("/x/MM-RLHF/long/1.png")]
    images, _, told = changed(folder, rows, image_dir="here/images")
    assert images[-1] == [str(folder / "here/images/long/1.png")]
    assert f"They lie in {folder}/here/images" in told


def test_other_columns_and_other_shapes_stay(folder):
    """A single path, null, no images, a dictionary with a path, and an image held in the row."""
    here, there = str(folder / "here/MM-RLHF/long/1.png"), "/x/MM-RLHF/long/1.png"
    held = [{"path": there, "bytes": b"x"}]
    shapes = {
        "a.jsonl": ([there, None, [], [{"path": there}]], [here, None, [], [{"path": here}]]),
        "b.parquet": ([held, [{"path": there, "bytes": None}]], [held, [{"path": here, "bytes": None}]]),
    }
    for name, (given, expected) in shapes.items():
        rows = [row(extra={"n": i}) | {"images": images} for i, images in enumerate(given)]
        assert changed(folder, rows, name=name, out=f"out-{name}")[:2] == (expected, 0)
        back = zip(rows, read_rows(folder / f"out-{name}"), strict=True)
        assert [new | {"images": old["images"]} for old, new in back] == rows


def test_what_is_missing_is_listed(folder):
    """Ten on the terminal, all in the file, with the row; the output is written and the status is 0."""
    rows = [row("/x/MM-RLHF/long/1.png", f"/x/MM-RLHF/long/gone{i}.png") for i in range(12)] + [row("/no.png")]
    images, status, told = changed(folder, rows, "--missing", folder / "missing.jsonl")
    assert status == 0 and len(images) == 13
    assert "13 images are not there" in told and "gone9.png" in told and "gone10.png" not in told
    listed = list(read_rows(folder / "missing.jsonl"))
    assert [entry["row"] for entry in listed] == list(range(13))
    assert listed[3]["image"] == str(folder / "here/MM-RLHF/long/gone3.png")
    assert listed[3]["was"] == "/x/MM-RLHF/long/gone3.png" and listed[12]["image"] == "/no.png"


@pytest.mark.parametrize("rows", [[row("/x/mm-rlhf/1.png")], [row()], []])
def test_nothing_to_rewrite_is_an_error(folder, rows):
    """A wrong prefix must not pass as success; neither output is written."""
    images, status, told = changed(folder, rows, "--missing", folder / "missing.jsonl")
    assert status == 2 and images is None and "Nothing was written" in told
    assert sorted(os.listdir(folder)) == ["here", "in.json"]


def test_another_prefix(folder):
    (folder / "here/my/pics").mkdir(parents=True)
    images, _, told = changed(folder, [row("/x/my/pics/1.png", "/x/MM-RLHF/long/1.png")], "--prefix", "/my/pics/")
    assert images == [[str(folder / "here/my/pics/1.png"), "/x/MM-RLHF/long/1.png"]]
    _, status, told = changed(folder, [row("/x/MM-RLHF/1.png")], "--prefix", "/", out="none.json")
    assert status == 2 and "--prefix must name a folder" in told


def test_in_place_only_when_asked(folder):
    """And the list of what is missing must not replace the data, nor any file that is no such list."""
    given = row("/x/MM-RLHF/long/1.png")
    write_rows(folder / "in.json", [given])
    command = ["paths", folder / "in.json", "--image-dir", folder / "here"]
    for options, message in {
        ("-o", folder / "in.json"): "is also read",
        (): "either --output FILE or --in-place",
        ("--in-place", "--missing", folder / "in.json"): "is also read",
        ("--in-place", "--missing", folder / "dataset_info.json"): "must end in .jsonl",
    }.items():
        status, _, messages = data(*command, *options)
        assert status == 2 and message in messages and first(folder / "in.json") == given
    assert data(*command, "--in-place")[0] == 0
    assert first(folder / "in.json") == row(str(folder / "here/MM-RLHF/long/1.png"))


def test_a_data_set_by_its_name(folder):
    """The column of images is the one that dataset_info.json names."""
    write_rows(folder / "pairs.jsonl", [row("/x/MM-RLHF/short/9.png", pictures=["/x/MM-RLHF/long/1.png"])])
    entry = {"file_name": "pairs.jsonl", "ranking": True, "columns": {"images": "pictures"}}
    (folder / "dataset_info.json").write_text(json.dumps({"mine": entry, "text": entry | {"columns": {}}}))
    command = ["paths", "--image-dir", folder / "here", "--dataset-dir", folder]
    assert data(*command, "mine", "-o", folder / "out.jsonl")[0] == 0
    out = first(folder / "out.jsonl")
    assert out["pictures"] == [str(folder / "here/MM-RLHF/long/1.png")] and out["images"] == ["/x/MM-RLHF/short/9.png"]
    status, _, messages = data(*command, "text", "-o", folder / "no.jsonl")
    assert status == 2 and "no column for images" in messages


def test_the_published_command(folder):
    """Through the link in scripts/, from another folder, with the names that users of the method know.

    Without an output, which is the guide's habit, the input is replaced and kept. A second run must not take the file
    of the first for the original.
    """
    write_rows(folder / "in.json", [row("/x/MM-RLHF/long/1.png", "/x/MM-RLHF/gone.png")])
    given = (folder / "in.json").read_bytes()
    new = ["--output-file", folder / "new" / "out.json"]
    command = [*PUBLISHED, "--input_file", folder / "in.json", "--image_dir", folder / "here"]
    status, told, messages = call(*command, *new, cwd=folder)
    assert status == 0 and "2 rewritten" in told and "gone.png" in messages
    assert first(folder / "new/out.json")["images"][0] == str(folder / "here/MM-RLHF/long/1.png")
    assert call(*command, "--output_file", folder / "in.json")[0] == 2
    assert (folder / "in.json").read_bytes() == given

    elsewhere = [*PUBLISHED, "--input-file", folder / "in.json", "--image-dir", folder / "nowhere" / "MM-RLHF"]
    status, told, messages = call(*elsewhere, cwd=folder)
    assert status == 0 and f"As it was: {folder / 'in.original.json'}" in told, messages
    assert first(folder / "in.json")["images"][0] == str(folder / "nowhere/MM-RLHF/long/1.png")
    assert call(*command)[0] == 0
    assert first(folder / "in.json")["images"][0] == str(folder / "here/MM-RLHF/long/1.png")
    assert (folder / "in.original.json").read_bytes() == given

    write_rows(folder / "other.json", [row("/x.png")])
    status, _, messages = call(*PUBLISHED, "--input_file", folder / "other.json", "--image_dir", folder / "here")
    assert status == 2 and "Nothing was written" in messages
    assert first(folder / "other.json") == row("/x.png")
    assert sorted(os.listdir(folder)) == ["here", "in.json", "in.original.json", "new", "other.json"]


@pytest.mark.parametrize("kind", ["--copy", "--link"])
def test_runs_in_a_checkout_that_has_the_overlay(small, folder, kind):
    """The commands are installed and removed with the rest of the overlay, and stand alone there."""
    assert install("install", "--checkout", small, kind) == 0
    scripts = small / "scripts" / "uni_dpo"
    published = small / "scripts" / "change_data_image_path.py"
    write_rows(folder / "in.json", [row("/x/MM-RLHF/long/1.png")])
    options = ["--input_file", folder / "in.json", "--image_dir", folder / "here", "--output_file", folder / "a.json"]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"PYTHONDONTWRITEBYTECODE": "1"}
    for command in ([published, *options], [scripts / "data.py", "paths", "--help"]):
        status, told, messages = call(sys.executable, *command, cwd=small, env=environment)
        assert status == 0, messages
    assert first(folder / "a.json")["images"] == [str(folder / "here/MM-RLHF/long/1.png")]
    assert (small / "data" / "uni_dpo" / "dataset_info.json").exists()
    assert install("uninstall", "--checkout", small) == 0
    assert not os.path.lexists(scripts) and not os.path.lexists(published)
    assert (ROOT / "scripts/uni_dpo/data.py").is_file()


def test_runs_where_it_was_copied_by_hand(tmp_path):
    """`cp -r LlamaFactory/. CHECKOUT/`: nothing outside the overlay is needed."""
    shutil.copytree(ROOT / "LlamaFactory" / "scripts", tmp_path / "checkout" / "scripts")
    for script, word in {"uni_dpo/data.py": "register", "change_data_image_path.py": "--image_dir"}.items():
        status, told, messages = call(sys.executable, tmp_path / "checkout/scripts" / script, "--help", cwd="/")
        assert status == 0 and word in told, messages

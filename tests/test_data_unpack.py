"""Archives that somebody else made: refused whole when one entry could do harm."""

import os
import shutil
import stat
import zipfile
from pathlib import Path

import pytest

from pair_data import DataError
from pair_data.download.unpack import SPARE, unpack


GOOD = os.urandom(50_000)


def archive(folder: Path, entries=(), name="long.zip", method=zipfile.ZIP_DEFLATED, good=True) -> Path:
    """Write a zip of (name or ZipInfo, content) entries, after a good one."""
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / name, "w", method) as opened:
        for entry, content in [*([("long/good.png", GOOD)] if good else []), *entries]:
            opened.writestr(entry, content)
    return folder / name


def special(name: str, kind: int) -> zipfile.ZipInfo:
    """An entry that claims to be something else than a file."""
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, (kind | 0o777) << 16
    return info


def everything(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


HARMFUL = {
    "leads out of its folder": ["../outside.png", "long/../../outside.png"],
    "is not a relative path": ["/outside.png", "C:/outside.png", "..\\outside.png"],
    "has an empty part": ["long//a.png", "long/./a.png"],
    "has a name that cannot be written": ["long/a\nb.png", f"long/{'a' * 300}.png", f"long/{'a/' * 600}b.png"],
    "is a link": [special("long/link", stat.S_IFLNK)],
    "is not a file": [special("long/pipe", stat.S_IFIFO)],
    "is there twice": ["long/good.png"],
    "is a file and a folder": ["long/good.png/inside.png"],
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(("reason", "entry"), [(reason, entry) for reason in HARMFUL for entry in HARMFUL[reason]])
def test_a_harmful_entry_refuses_the_whole_archive(tmp_path, reason, entry):
    """Not even its good entries are written, and nothing appears outside the folder."""
    path = archive(tmp_path / "in", [(entry, "/etc/passwd")])
    before = everything(tmp_path)
    with pytest.raises(DataError, match=reason):
        unpack(path, tmp_path / "MM-RLHF")
    assert everything(tmp_path) == before


def test_bombs(tmp_path):
    """One entry of zeros, many of them, one that lies about its size, and methods without bounds.

    Python reads the latter whole: 352 bytes that promise 10,000 took 600 MB of memory.
    """
    liar = archive(tmp_path / "liar", [("long/small.png", b"s" * 5000)])
    liar.write_bytes(liar.read_bytes().replace((5000).to_bytes(4, "little"), (10).to_bytes(4, "little")))
    for path, reason in {
        archive(tmp_path / "one", [("long/zeros.png", bytes(30 << 20))]): "would become 31,457,280 bytes",
        archive(tmp_path / "many", [(f"long/{i}.png", bytes(900_000)) for i in range(30)]): "as no images do",
        archive(tmp_path / "bz", method=zipfile.ZIP_BZIP2): "is compressed by method 12",
        archive(tmp_path / "xz", method=zipfile.ZIP_LZMA): "is compressed by method 14",
        liar: "is damaged",
    }.items():
        with pytest.raises(DataError, match=reason):
            unpack(path, tmp_path / "out")
        assert path == liar or not (tmp_path / "out").exists()
    assert not (tmp_path / "out" / "long" / "small.png").exists()


def test_links_in_the_folder_are_not_followed(tmp_path):
    """One in the place of a folder is refused, one in the place of a file replaced."""
    path, victim = archive(tmp_path / "in"), tmp_path / "victim.png"
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "long").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="leads out of"):
        unpack(path, tmp_path / "first")
    assert everything(tmp_path / "elsewhere") == []
    victim.write_bytes(b"mine")
    (tmp_path / "second" / "long").mkdir(parents=True)
    for name in ("good.png", ".good.png.part"):
        (tmp_path / "second" / "long" / name).symlink_to(victim)
    unpack(path, tmp_path / "second")
    assert victim.read_bytes() == b"mine" and not (tmp_path / "second" / "long" / "good.png").is_symlink()


@pytest.mark.parametrize("top", ["", "MM-RLHF/", "long/", "MM-RLHF/long/", "home/them/MM-RLHF/long/", "copy/long/"])
def test_images_lie_where_the_pairs_look_for_them(tmp_path, top):
    """The pairs say MM-RLHF/long/x.png, whatever the archive's own folders and, if they tell, its name are."""
    entries = {f"{top}a.png": GOOD, f"{top}b/c.png": GOOD, "__MACOSX/long/._a.png": b"", ".DS_Store": b""}
    for name in ("long", "long (1)"):
        path = archive(tmp_path / "in", entries.items(), f"{name}.zip", good=False)
        assert unpack(path, tmp_path / name) == 2
        long = "long" if "long" in top else name
        assert everything(tmp_path / name) == [long, f"{long}/a.png", f"{long}/b", f"{long}/b/c.png"]
    if "long" not in top:  # one archive of several folders
        entries = {f"{top}long/a.png": GOOD, f"{top}mcq/b.png": GOOD}
        unpack(archive(tmp_path / "in", entries.items(), "all.zip", good=False), tmp_path / "all")
        assert everything(tmp_path / "all") == ["long", "long/a.png", "mcq", "mcq/b.png"]


def test_the_disk_must_have_room_for_what_is_missing_only(tmp_path, monkeypatch):
    """An interrupted run that has filled most of the disk can be finished, and a full disk is told."""
    path = archive(tmp_path / "in", [(f"long/{i}.png", os.urandom(1_000_000)) for i in range(5)])
    unpack(path, tmp_path / "MM-RLHF")
    (tmp_path / "MM-RLHF" / "long" / "3.png").unlink()
    full = shutil._ntuple_diskusage(10 << 30, 9 << 30, SPARE + 2_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    assert unpack(path, tmp_path / "MM-RLHF") == 1
    with pytest.raises(DataError, match="GB free"):
        unpack(path, tmp_path / "other")
    assert everything(tmp_path / "other") == []


def test_an_interrupted_run_goes_on_and_damage_is_mended(tmp_path):
    """Only what is missing or different is written again; half-written files of a killed run disappear."""
    path = archive(tmp_path / "in", [(f"long/{i}.png", os.urandom(1000)) for i in range(5)])
    folder = tmp_path / "MM-RLHF"
    assert unpack(path, folder) == 6
    (folder / "long" / "1.png").unlink()
    (folder / "long" / ".1.png.part").write_bytes(b"half")
    (folder / "long" / "good.png").write_bytes(bytes(50_000))
    assert unpack(path, folder) == 2
    assert (folder / "long" / "good.png").read_bytes() == GOOD
    assert not list(folder.rglob("*.part"))


@pytest.mark.parametrize("keep", [0.5, 0.99])
def test_what_cannot_be_read_or_written_is_told(tmp_path, keep):
    """A truncated archive, of which nothing is written; a file where a folder has to be."""
    path = archive(tmp_path / "in")
    (tmp_path / "file").mkdir()
    (tmp_path / "file" / "long").write_text("a file")
    with pytest.raises(DataError, match="cannot unpack .*long.zip into .*file"):
        unpack(path, tmp_path / "file")
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    with pytest.raises(DataError, match="is damaged"):
        unpack(path, tmp_path / "MM-RLHF")
    assert not list((tmp_path / "MM-RLHF").rglob("*.png"))

"""Archives that somebody else made: refused whole when one entry could do harm."""

import os
import shutil
import stat
import zipfile
from pathlib import Path

import pytest

from pair_data import DataError
from pair_data.download.unpack import unpack


GOOD = os.urandom(50_000)


def archive(folder: Path, entries, name="long.zip") -> Path:
    """Write a zip of (name or ZipInfo, content) entries, after a good one."""
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / name, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr("long/good.png", GOOD)
        for entry, content in entries:
            opened.writestr(entry, content)
    return folder / name


def special(name: str, kind: int) -> zipfile.ZipInfo:
    """An entry that claims to be something else than a file."""
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, (kind | 0o777) << 16
    return info


def everything(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ("../outside.png", "leads out of its folder"),
        ("long/../../outside.png", "leads out of its folder"),
        ("/outside.png", "is not a relative path"),
        ("C:/outside.png", "is not a relative path"),
        ("..\\outside.png", "is not a relative path"),
        ("long//a.png", "has an empty part"),
        ("long/./a.png", "has an empty part"),
        ("long/a\nb.png", "has a name that cannot be written"),
        ("long/" + "a" * 300 + ".png", "has a name that cannot be written"),
        ("long/" + "a/" * 600 + "b.png", "has a name that cannot be written"),
        (special("long/link", stat.S_IFLNK), "is a link"),
        (special("long/pipe", stat.S_IFIFO), "is not a file"),
        ("long/good.png", "is there twice"),
        ("long/good.png/inside.png", "is a file and a folder"),
    ],
)
def test_a_harmful_entry_refuses_the_whole_archive(tmp_path, entry, reason):
    """Not even its good entries are written, and nothing appears outside the folder."""
    path = archive(tmp_path / "in", [(entry, "/etc/passwd")])
    before = everything(tmp_path)
    with pytest.raises(DataError, match=reason):
        unpack(path, tmp_path / "MM-RLHF")
    assert everything(tmp_path) == before


def test_bombs(tmp_path):
    """One entry of zeros, many of them, and one that lies about its size."""
    one = archive(tmp_path / "one", [("long/zeros.png", bytes(30 << 20))])
    with pytest.raises(DataError, match=r"would become 31,457,280 bytes"):
        unpack(one, tmp_path / "out")
    many = archive(tmp_path / "many", [(f"long/{i}.png", bytes(900_000)) for i in range(30)])
    with pytest.raises(DataError, match="as no images do"):
        unpack(many, tmp_path / "out")
    liar = archive(tmp_path / "liar", [("long/small.png", b"s" * 5000)])
    data = liar.read_bytes()
    liar.write_bytes(data.replace((5000).to_bytes(4, "little"), (10).to_bytes(4, "little")))
    with pytest.raises(DataError, match="is damaged"):
        unpack(liar, tmp_path / "out")
    assert not (tmp_path / "out" / "long" / "small.png").exists()


def test_a_folder_that_leads_elsewhere_is_not_followed(tmp_path):
    path = archive(tmp_path / "in", [])
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "MM-RLHF").mkdir()
    (tmp_path / "MM-RLHF" / "long").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="leads out of"):
        unpack(path, tmp_path / "MM-RLHF")
    assert everything(tmp_path / "elsewhere") == []


def test_a_link_in_a_files_place_is_replaced_not_followed(tmp_path):
    path = archive(tmp_path / "in", [])
    victim = tmp_path / "victim.png"
    victim.write_bytes(b"mine")
    for name in ("good.png", ".good.png.part"):
        (tmp_path / "MM-RLHF" / "long").mkdir(parents=True, exist_ok=True)
        (tmp_path / "MM-RLHF" / "long" / name).symlink_to(victim)
    unpack(path, tmp_path / "MM-RLHF")
    assert victim.read_bytes() == b"mine"
    assert not (tmp_path / "MM-RLHF" / "long" / "good.png").is_symlink()


@pytest.mark.parametrize("name", ["long.zip", "long (1).zip"])
@pytest.mark.parametrize("top", ["", "MM-RLHF/", "long/", "MM-RLHF/long/", "home/them/MM-RLHF/long/", "copy/long/"])
def test_images_lie_where_the_pairs_look_for_them(tmp_path, top, name):
    """The pairs say MM-RLHF/long/x.png, whatever the archive's own folders and, if they tell, its name are."""
    with zipfile.ZipFile(tmp_path / name, "w") as opened:
        opened.writestr(f"{top}a.png", GOOD)
        opened.writestr(f"{top}b/c.png", GOOD)
        opened.writestr("__MACOSX/long/._a.png", b"")
        opened.writestr(".DS_Store", b"")
    assert unpack(tmp_path / name, tmp_path / "MM-RLHF") == 2
    long = "long" if "long" in top else name.removesuffix(".zip")
    assert everything(tmp_path / "MM-RLHF") == [long, f"{long}/a.png", f"{long}/b", f"{long}/b/c.png"]


@pytest.mark.parametrize("top", ["", "MM-RLHF/"])
def test_one_archive_of_several_folders(tmp_path, top):
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as opened:
        for name in ("long/a.png", "mcq/b.png"):
            opened.writestr(top + name, GOOD)
    assert unpack(tmp_path / "all.zip", tmp_path / "to") == 2
    assert everything(tmp_path / "to") == ["long", "long/a.png", "mcq", "mcq/b.png"]


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_methods_without_bounds_are_refused(tmp_path, method):
    """Python reads these whole: 352 bytes that promise 10,000 took 600 MB of memory."""
    with zipfile.ZipFile(tmp_path / "long.zip", "w", method) as opened:
        opened.writestr("long/a.png", bytes(1000))
    with pytest.raises(DataError, match=f"is compressed by method {method}"):
        unpack(tmp_path / "long.zip", tmp_path / "MM-RLHF")
    assert not (tmp_path / "MM-RLHF").exists()


def test_the_disk_must_have_room_for_what_is_missing_only(tmp_path, monkeypatch):
    """An interrupted run that has filled most of the disk can be finished, and a full disk is told."""
    path = archive(tmp_path / "in", [(f"long/{i}.png", os.urandom(1_000_000)) for i in range(5)])
    unpack(path, tmp_path / "MM-RLHF")
    (tmp_path / "MM-RLHF" / "long" / "3.png").unlink()
    full = shutil._ntuple_diskusage(10 << 30, 9 << 30, (1 << 28) + 2_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    assert unpack(path, tmp_path / "MM-RLHF") == 1
    with pytest.raises(DataError, match="GB free"):
        unpack(path, tmp_path / "other")
    assert everything(tmp_path / "other") == []


def test_a_place_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "MM-RLHF").mkdir()
    (tmp_path / "MM-RLHF" / "long").write_text("a file")
    with pytest.raises(DataError, match="cannot unpack .*long.zip into .*MM-RLHF"):
        unpack(archive(tmp_path / "in", []), tmp_path / "MM-RLHF")


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
def test_a_truncated_archive_is_told_and_writes_nothing(tmp_path, keep):
    path = archive(tmp_path / "in", [])
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    with pytest.raises(DataError, match="is damaged"):
        unpack(path, tmp_path / "MM-RLHF")
    assert not list((tmp_path / "MM-RLHF").rglob("*.png"))

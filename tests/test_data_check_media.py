"""Rows are told apart by everything that training sees, and videos and sounds are looked at like images."""

import json
import wave

import pytest
from checking import check, kinds_found, write
from pairs import as_openai, as_sharegpt
from PIL import Image

from pair_data.rows import read_rows


PAIR = {"chosen": "It gets dark.", "rejected": "Nothing.", "score_chosen": 3.0, "score_rejected": 1.0}
ROW = {"instruction": "<video>What happens?", **PAIR}
HEARD = {"instruction": "<audio>Who is it?", **PAIR}


@pytest.fixture
def folder(tmp_path, video):
    """A folder with two videos, two sounds, the frames of a video, and files that are damaged."""
    data = video.read_bytes()
    (tmp_path / "a.mp4").write_bytes(data)
    (tmp_path / "same.mp4").write_bytes(data)
    (tmp_path / "b.mp4").write_bytes(data + b"\0")  # another file, that still plays
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) // 2])
    (tmp_path / "empty.mp4").write_bytes(b"")
    for name, level in {"a": 1, "b": 2}.items():
        with wave.open(str(tmp_path / f"{name}.wav"), "wb") as sound:
            sound.setparams((1, 2, 16000, 0, "NONE", ""))
            sound.writeframes(bytes([level, 0]) * 1600)
    for number in range(3):
        Image.new("RGB", (56, 56), (number, 0, 0)).save(tmp_path / f"{number}.png")
    return tmp_path


def run(folder, rows, name="pairs"):
    """Check and fix rows; return what was said, the kinds of findings of every row, and the rows that are kept."""
    findings, clean = folder / f"{name}.findings.jsonl", folder / f"{name}.clean.json"
    options = ("--findings", findings, "--workers", 1, "--fix", clean)
    status, said = check(write(folder / f"{name}.json", rows), *options)
    assert status == 0, said
    return said, kinds_found(findings), list(read_rows(clean))


def test_rows_with_other_media_stay_and_those_with_bad_media_go(folder):
    """The same words over different videos are different pairs; faults are found without --config."""
    videos = [ROW | {"videos": [video], "audios": []} for video in ("a.mp4", "b.mp4")]
    said, found, kept = run(folder, [*videos, videos[0] | {"videos": ["same.mp4"]}])
    assert (found, kept) == ({2: {"duplicate"}}, videos), said
    assert "0 images, 3 videos" in said
    framed = [ROW | {"videos": [[f"{a}.png", f"{b}.png"]]} for a, b in ((0, 1), (1, 0), (0, 2))]
    assert run(folder, [*framed, framed[1]], "frames")[1:] == ({3: {"duplicate"}}, framed)
    bad = {"gone.mp4": "media-missing", "cut.mp4": "media-unreadable", "empty.mp4": "media-empty"}
    bad |= {"a.wav": "media-unreadable", ".": "media-not-a-file"}
    fine = [ROW | {"videos": ["0.png"]}, ROW | {"videos": ["a.mp4"], "audios": None}]  # a picture plays as one frame
    said, found, kept = run(folder, [*(ROW | {"videos": [name]} for name in bad), *fine], "bad")
    assert found == {number: {kind} for number, kind in enumerate(bad.values())}, said
    assert [row["videos"] for row in kept] == [["0.png"], ["a.mp4"]] and '"videos"' in said
    sounds = [HEARD | {"audios": [name]} for name in ("a.wav", "b.wav", "cut.mp4", "gone.wav")]
    said, found, kept = run(folder, sounds, "sounds")
    assert found == {2: {"media-unreadable"}, 3: {"media-missing"}}, said
    assert kept == sounds[:2]


TOOLS = json.dumps([{"name": "look", "description": "looks", "parameters": {}}])
TALK = {"messages": "conversations", "chosen": "chosen", "rejected": "rejected"}
OPENAI = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
OPENAI |= {"observation_tag": "tool", "function_tag": "call", "system_tag": "system"}


def variants(form):
    """Return rows that ask the same in one format, each with something else beside the words."""
    row = {"instruction": "<image><image>Which?", **PAIR, "system": "", "tools": "", "images": ["0.png", "1.png"]}
    rows = [row, row | {"images": ["1.png", "0.png"]}, row | {"system": "Look."}, row | {"tools": TOOLS}]
    for use in ("video", "audio"):
        rows += [row | {"instruction": f"<{use}>Which?", "images": [], f"{use}s": [name]} for name in "xy"]
    if form == "alpaca":
        return [*rows, row | {"history": [["<image>", "a"]], "instruction": "<image>Which?"}]
    rows = [{"sharegpt": as_sharegpt, "openai": as_openai}[form](row) for row in rows]
    said = rows[0]["conversations" if form == "sharegpt" else "messages"][0]
    role, text, user, called = (*said, "human", "function_call") if form == "sharegpt" else (*said, "user", "call")
    answer = rows[0]["chosen"][role]
    start = [said, {role: answer, text: "f()"}, {role: user, text: "2"}, {role: answer, text: "Good."}]
    start += [{role: user, text: "And?"}]
    for place, other in ((None, None), (1, called), (2, "observation" if form == "sharegpt" else "tool")):
        turns = [turn | ({role: other} if number == place else {}) for number, turn in enumerate(start)]
        rows.append(rows[0] | {"conversations" if form == "sharegpt" else "messages": turns})
    return [*rows, rows[0] | {"chosen": {role: called, text: PAIR["chosen"]}}]


@pytest.mark.parametrize("form", ["alpaca", "sharegpt", "openai"])
def test_rows_differ_by_all_that_training_sees(tmp_path, form):
    """Order of images, system, tools, media, roles: none of it makes a duplicate; the same row again does."""
    rows = variants(form)
    swapped = rows[3] | {"chosen": rows[3]["rejected"], "rejected": rows[3]["chosen"]}
    columns = {"alpaca": {"prompt": "instruction", "history": "history", "chosen": "chosen", "rejected": "rejected"}}
    columns = columns.get(form, TALK | {"messages": {"sharegpt": "conversations"}.get(form, "messages")})
    columns |= {name: name for name in ("images", "videos", "audios", "system", "tools")}
    entry = {"ranking": True, "formatting": form, "columns": columns} | ({"tags": OPENAI} if form == "openai" else {})
    described = {}
    for name, some in {"train": [*rows, rows[3], swapped], "test": rows[2:4]}.items():
        write(tmp_path / f"{name}.json", some)
        described[name] = entry | {"file_name": f"{name}.json"}
    write(tmp_path / "dataset_info.json", described)
    findings = tmp_path / "findings.jsonl"
    options = ("--dataset-dir", tmp_path, "--held-out", "test", "--findings", findings, "--no-images", "--no-scores")
    said = check("train", *options)[1]
    found = {}
    for finding in map(json.loads, findings.read_text().splitlines()):
        if finding["data_set"] == "train":
            found.setdefault(finding["kind"], set()).add(finding["row"])
    count = len(rows)
    assert found.pop("duplicate") == {count}, said
    assert found.pop("contradiction") == {3, count, count + 1}
    assert found.pop("leak-pair") == {2, 3, count, count + 1}
    assert set(found) == {"leak-image"}


def test_columns_that_training_does_not_read_are_told(tmp_path):
    """A video or other images for the rejected answer would be there, and never be seen."""
    row = {"instruction": "Which?", **PAIR, "videos": ["a.mp4"], "system": "Look.", "history": [], "tools": TOOLS}
    write(tmp_path / "pairs.json", [row | {"rejected_images": ["b.png"]}])
    columns = {"prompt": "instruction", "chosen": "chosen", "rejected": "rejected"}
    entry = {"file_name": "pairs.json", "ranking": True, "columns": columns}
    write(tmp_path / "dataset_info.json", {"pairs": entry})
    findings = tmp_path / "findings.jsonl"
    assert check("pairs", "--dataset-dir", tmp_path, "--findings", findings, "--no-images")[0] == 0
    found = [json.loads(line) for line in findings.read_text().splitlines()]
    unused = {finding["column"] for finding in found if finding["kind"] == "column-unused"}
    assert unused == {"videos", "system", "tools", "rejected_images"}
    said = check(tmp_path / "pairs.json", "--no-images")[1]
    assert "column-unused: 1 x" in said and "rejected_images" in said

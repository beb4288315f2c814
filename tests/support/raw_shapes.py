"""The same question with the same two answers, written in each shape that `data.py convert` knows."""

import json
from pathlib import Path
from typing import Any

from data_cli import data
from PIL import Image

from pair_data.rows import read_rows
from pair_data.writing import write_rows


ASKED, CHOSEN, REJECTED = "What colour is it?", "It is red, all over.", "A cat."


def convert(*arguments: Any, fails: bool = False) -> str:
    """Run `data.py convert` in this process, and return what it prints, or its error."""
    status, out, error = data("convert", *arguments)
    assert status == (2 if fails else 0), out + error
    return error if fails else out


def convert_rows(folder: Path, rows: list[Any], *options: Any, fails: bool = False) -> Any:
    """Convert rows; return the report and the pairs, or the error, after which nothing is there."""
    output = folder / "out.json"
    output.unlink(missing_ok=True)
    write_rows(folder / "in.jsonl", rows)
    said = convert(folder / "in.jsonl", "-o", output, *options, fails=fails)
    assert output.exists() is not fails
    return said if fails else (said, list(read_rows(output)))


def draw(path: Path, colour: str = "red") -> str:
    """Draw a small picture and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (56, 56), colour).save(path)
    return str(path)


def say(role: str, text: str) -> dict[str, str]:
    """Return a message as trl and ms-swift write it."""
    return {"role": role, "content": text}


def tell(role: str, text: str) -> dict[str, str]:
    """Return a message as sharegpt writes it."""
    return {"from": role, "value": text}


def parts(*content: Any) -> dict[str, Any]:
    """Return a user message of parts: None is a picture, all else text."""
    return {
        "role": "user",
        "content": [{"type": "image"} if part is None else {"type": "text", "text": part} for part in content],
    }


def rated(*ratings: str) -> dict[str, dict[str, str]]:
    """Return VLFeedback's annotations of an answer."""
    return {f"aspect {n}": {"Rating": rating, "Rationale": "5 words of it"} for n, rating in enumerate(ratings)}


def preferences(image: str) -> dict[str, dict[str, Any]]:
    """Return a row of each shape that says which answer is preferred; its name starts with the name of the shape."""
    asked, marked = say("user", ASKED), "<image>" + ASKED
    both = {"chosen": CHOSEN, "rejected": REJECTED}
    answers = {"chosen": [say("assistant", CHOSEN)], "rejected": [say("assistant", REJECTED)]}
    whole = {side: [asked, *answer] for side, answer in answers.items()}
    in_parts = {side: [parts(None, ASKED), parts(text) | {"role": "assistant"}] for side, text in both.items()}
    told = {side: tell("gpt", text) for side, text in both.items()}
    said = {side: say("assistant", text) for side, text in both.items()}
    data = {"bytes": Path(image).read_bytes(), "path": None}
    swift = [asked | {"content": marked}, say("assistant", CHOSEN)]
    return {
        "alpaca": {"instruction": marked, **both, "images": [image]},
        "alpaca with input": {"instruction": "<image>What colour", "input": "is it?", **both, "images": [image]},
        "sharegpt": {"conversations": [tell("human", marked)], **told, "images": [image]},
        "sharegpt openai": {"messages": [asked], **said, "images": [image]},
        "trl text": {"prompt": ASKED, **both, "images": [image]},
        "trl messages": {"prompt": [asked], **answers, "image": image},
        "trl parts": {"prompt": [parts(None, ASKED)], **answers, "images": [image]},
        "trl implicit": whole | {"images": [image]},
        "trl implicit parts": in_parts | {"images": [data]},
        "trl both": {"prompt": ASKED, **whole, "images": [image]},
        "ms-swift": {"messages": swift, "rejected_response": REJECTED, "images": [image]},
        "ms-swift messages": {"messages": swift, "rejected_messages": [swift[0], answers["rejected"][0]]}
        | {"images": [data]},
        "ms-swift old": {"query": ASKED, "response": CHOSEN, "rejected_response": REJECTED, "image": image},
        "rlaif-v": {"question": ASKED, **both, "image": data, "ds_name": "RLAIF-V", "idx": "7"},
        "rlhf-v": {"text": json.dumps({"question": ASKED, **both}), "image": data, "idx": 7},
        "rlhf-v object": {"text": {"question": ASKED, **both}, "image": data, "idx": 7},
        "battles": {"prompt": ASKED, "response_a": REJECTED, "response_b": CHOSEN, "winner": "model_b"}
        | {"image": image},
        "battles of dialogues": {"conversation_1": whole["chosen"], "conversation_2": whole["rejected"]}
        | {"vote": "Response 1", "images": [data]},
        "battles nested": {"conversation_a": [[turn] for turn in whole["chosen"]], "winner": "model_a"}
        | {"conversation_b": [[turn] for turn in whole["rejected"]], "images": [image]},
        "mm-rlhf-pairs": {"id": "a", "image": image, "prompt": ASKED, **both, "chosen_reason": "", "is_tie": False},
    }


def several(image: str) -> dict[str, dict[str, Any]]:
    """Return a row of each way to write several answers: score 3 and rank 1 for the chosen, 1 and 2 for the other."""
    objects = [{"text": REJECTED, "score": 1, "rank": 2}, {"text": CHOSEN, "score": 3, "rank": 1}]
    feedback = [
        {"model": "a", "response": REJECTED, "annotations": rated("1", "N/A", "1")},
        {"model": "b", "response": CHOSEN, "annotations": rated("3", "4", "2")},
    ]
    asked = {"question": ASKED, "image": image}
    return {
        "objects": asked | {"responses": objects, "answer": "red"},
        "unknown name": asked | {"human_annotation": objects},
        "by model": asked | {"model_outputs": {"a": objects[0], "b": objects[1]}},
        "texts and lists": asked | {"answers": [REJECTED, CHOSEN], "scores": ["1", "3.0"], "ranks": [2, 1]},
        "texts and dictionaries": asked
        | {"answers": {"a": REJECTED, "b": CHOSEN}, "scores": {"b": 3, "a": 1}, "ranks": {"a": 2, "b": 1}},
        "texts and objects": asked
        | {"responses": [REJECTED, CHOSEN], "annotations": [{"score": 1, "rank": 2}, {"score": 3, "rank": 1}]},
        "conversation": {"conversations": [tell("human", "<image>" + ASKED), tell("gpt", "Red.")], "image": image}
        | {"candidates": [{"value": REJECTED, "rating": 1}, {"value": CHOSEN, "rating": 3}]},
        "messages": {"prompt": [say("user", ASKED)], "images": [image]}
        | {
            "completions": [
                {"content": [say("assistant", text)], "reward": 5 - len(text) / 10} for text in ("No", "x")
            ]
        },
        "vlfeedback": {"id": 3, "prompt": ASKED, "models": ["a", "b"], "img_path": image, "completions": feedback},
        "vlfeedback from the hub": {"id": 3, "prompt": ASKED, "img_path": image, "completions": as_lists(feedback)},
    }


def as_lists(objects: list[dict[str, Any]]) -> dict[str, Any]:
    """Turn a list of objects into an object of lists, at every depth, as `datasets` once stored them."""
    first = objects[0]
    return {
        name: as_lists([one[name] for one in objects])
        if isinstance(first[name], dict)
        else [one[name] for one in objects]
        for name in first
    }

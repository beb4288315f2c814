"""What the data in a `tokenized_path` were made from, and refusing them where the run asks for something else.

LlamaFactory takes whatever is in such a folder, and ignores data sets and options. Here a note is kept beside it.
"""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ....data.parser import get_dataset_list
from ....extras.misc import has_tokenized_data
from ..errors import UniDPOError
from ..files.changeable import changed_options
from ..files.disk import read_json, replacing
from ..files.run_record import learning_options
from .fingerprints import FileHashes, hash_text
from .keys import PIXEL_OPTIONS, VIDEO_OPTIONS


NOTE = "uni_dpo_source.json"
WAY_OUT = "Give another `tokenized_path`, or delete this one, and the data are tokenised anew."


def checked_against_source(get_dataset: Callable) -> Callable:
    """Wrap upstream's function that tokenises data sets, or takes what was tokenised before."""

    def got(template: Any, model_args: Any, data_args: Any, training_args: Any, *args: Any, **kwargs: Any) -> Any:
        folder = data_args.tokenized_path
        tokenizer = kwargs.get("tokenizer") or next((it for it in args if hasattr(it, "get_vocab")), None)
        source = _source_of(model_args, data_args, tokenizer) if folder else {}
        is_there = folder and has_tokenized_data(folder)
        if is_there:
            refuse_other_source(Path(folder), source, data_args)
        dataset_module = get_dataset(template, model_args, data_args, training_args, *args, **kwargs)
        if folder and not is_there and training_args.should_save:
            with replacing(Path(folder) / NOTE) as scratch:
                scratch.write_text(json.dumps(source, indent=1, sort_keys=True), encoding="utf-8")
        return dataset_module

    return got


def refuse_other_source(folder: Path, source: dict[str, Any], data_args: Any) -> None:
    """Refuse data that were tokenised from other files, or with other options, than this run names.

    Without a note of ours, files must at least be no newer. What is not here cannot be compared.

    Raises:
        UniDPOError: they were.
    """
    note = read_json(folder / NOTE)
    if note is None:
        made = max(file.stat().st_mtime for file in folder.rglob("*.json"))
        newer = [file for _, file in _files(data_args) if os.path.getmtime(file) > made]
        if newer:
            raise UniDPOError(f"`tokenized_path: {folder}` is older than {newer[0]}. {WAY_OUT}")
        return
    changed = changed_options(note["options"], source["options"])
    if changed:
        raise UniDPOError(f"`tokenized_path: {folder}` was made with other options: {'; '.join(changed)}. {WAY_OUT}")
    if None not in (known := (note.get("tokenizer"), source["tokenizer"])) and known[0] != known[1]:
        raise UniDPOError(f"`tokenized_path: {folder}` was made with another tokenizer than this model's. {WAY_OUT}")
    for name, digest in source["files"].items():
        if note["files"].get(name, digest) != digest:
            raise UniDPOError(f'Data set "{name}" has changed since `tokenized_path: {folder}` was made. {WAY_OUT}')


def _source_of(model_args: Any, data_args: Any, tokenizer: Any = None) -> dict[str, Any]:
    hashes, files = FileHashes(), {}
    for name, file in _files(data_args):
        files.setdefault(name, []).append(hashes.of(file))
    hashes.save()
    sizes = {name: getattr(model_args, name, None) for name in (*PIXEL_OPTIONS, *VIDEO_OPTIONS)}
    options = learning_options(data_args) | {"eval_dataset": data_args.eval_dataset, **sizes}
    known = {"options": options, "files": {name: hash_text(digests) for name, digests in files.items()}}
    return known | {"tokenizer": hash_text(tokenizer.get_vocab()) if tokenizer else None}


def _files(data_args: Any) -> Iterator[tuple[str, str]]:
    """List the files of all data sets that are here, each with the name of its data set."""
    for names in (data_args.dataset or [], data_args.eval_dataset or []):
        try:
            attrs = get_dataset_list(names, data_args.dataset_dir)
        except (OSError, ValueError):
            continue  # tokenised elsewhere, and only the result is here
        for name, attr in zip(names, attrs, strict=True):
            path = os.path.join(str(data_args.dataset_dir), attr.dataset_name)
            if attr.load_from == "file" and os.path.exists(path):
                inside = sorted(os.listdir(path)) if os.path.isdir(path) else [""]
                yield from ((name, os.path.join(path, file) if file else path) for file in inside)

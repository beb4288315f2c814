"""The JSON files of a checkpoint, in the words of transformers 4 and 5, so that each loads what the other saved.

What differs, seen with 4.57.6, 5.0.0 and 5.5.4:

- tied embeddings: 4 states them in `text_config`, 5 beside it. Neither looks in the other place, and fills the output
  layer with random numbers instead;
- rotary embeddings: 4 has `rope_theta` and `rope_scaling`, 5 has both in `rope_parameters`;
- special tokens: 4 lists them as `additional_special_tokens`, 5 as `extra_special_tokens`, in 4 another thing, an
  object. Without it both read the first;
- image processors: 4 has a file for each, 5 has all of them in `processor_config.json`.

The same file lies in both overlays, as each has to work alone.
"""

import atexit
import functools
import json
import os
import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any


CONFIG, TOKENIZER, PROCESSOR = "config.json", "tokenizer_config.json", "processor_config.json"
IMAGES, VIDEOS = "preprocessor_config.json", "video_preprocessor_config.json"
ROWS_AT_ONCE = 4096


def make_portable(folder: str | os.PathLike) -> None:
    """Rewrite the files of a checkpoint that has just been saved, so that transformers 4 and 5 load it alike.

    Args:
        folder: where it is; nobody reads it yet. It may hold an adapter, or nothing but weights.
    """
    for name, content in _rewritten(Path(folder)).items():
        (Path(folder) / name).write_text(_text(content), encoding="utf-8")


def readable(path: str | os.PathLike) -> str:
    """Return a folder that the transformers in use loads right.

    Args:
        path: a checkpoint: a folder, or a name on a hub, which is returned as it is.

    Returns:
        `path` itself, or, if another major version of transformers saved it and says some things elsewhere, a
        temporary folder with links to its files and those few files rewritten. It goes when the process ends.
    """
    folder = Path(path)
    if not folder.is_dir() or _is_of_this_version(folder):
        return str(path)
    return _view(str(folder.resolve()), _state(folder)) or str(path)


def written_by(path: str | os.PathLike) -> str:
    """Return the version of transformers that a checkpoint says it was saved by; empty if it does not say."""
    return str(_read(Path(path) / CONFIG).get("transformers_version", ""))


def has_own_head(path: str | os.PathLike) -> bool:
    """Tell whether a checkpoint's files hold an output layer that differs from the embeddings beside it.

    Beside `tie_word_embeddings: true` such a layer is dropped by transformers and vLLM: exports of LoRA with
    `additional_target: embed_tokens,lm_head` are made so.

    Raises:
        SafetensorError: a file is not whole.
    """
    import torch
    from safetensors import safe_open

    with ExitStack() as stack:
        files = [stack.enter_context(safe_open(file, framework="pt")) for file in Path(path).glob("*.safetensors")]
        names = {name: file for file in files for name in file.keys()}  # noqa: SIM118
        ends = ("lm_head.weight", "embed_tokens.weight")
        found = [next((names[name].get_slice(name) for name in names if name.endswith(end)), None) for end in ends]
        if None in found:
            return False
        rows = range(0, found[0].get_shape()[0], ROWS_AT_ONCE)
        return any(not torch.equal(*(matrix[i : i + ROWS_AT_ONCE] for matrix in found)) for i in rows)


@functools.lru_cache(maxsize=32)
def _view(folder: str, state: tuple) -> str | None:
    """Make the temporary folder, once for each state of the files that matter."""
    rewritten = _rewritten(Path(folder))
    if not rewritten:
        return None
    view = Path(tempfile.mkdtemp(prefix="uni-dpo-readable-"))
    atexit.register(shutil.rmtree, view, ignore_errors=True)
    for path in Path(folder).iterdir():
        if path.is_file() and path.name not in rewritten:
            (view / path.name).symlink_to(path)
    for name, content in rewritten.items():
        (view / name).write_text(_text(content), encoding="utf-8")
    return str(view)


def _is_of_this_version(folder: Path) -> bool:
    """Tell whether this major version of transformers saved it, as far as the folder says so itself."""
    import transformers

    written = written_by(folder)
    new = written.startswith("5.") if written else (folder / PROCESSOR).is_file()
    return new == (not str(transformers.__version__).startswith("4."))


def _state(folder: Path) -> tuple:
    files = [folder / name for name in (CONFIG, TOKENIZER, PROCESSOR)]
    return tuple((file.name, file.stat().st_mtime_ns) for file in files if file.is_file())


def _rewritten(folder: Path) -> dict[str, Any]:
    """Return the contents of the files that have to change, and of those that have to be added, by name."""
    config, tokenizer, processor = (_read(folder / name) for name in (CONFIG, TOKENIZER, PROCESSOR))
    changed: dict[str, Any] = {}
    if (both := _with_both_words(config)) != config:
        changed[CONFIG] = both
    if isinstance(extra := tokenizer.get("extra_special_tokens"), list) or extra == {}:
        rest = {name: value for name, value in tokenizer.items() if name != "extra_special_tokens"}
        changed[TOKENIZER] = ({"additional_special_tokens": extra} if extra else {}) | rest
    kind = {"processor_class": processor["processor_class"]} if "processor_class" in processor else {}
    for name, part in ((IMAGES, "image_processor"), (VIDEOS, "video_processor")):
        if isinstance(processor.get(part), dict) and not (folder / name).is_file():
            changed[name] = processor[part] | kind
    return changed


def _with_both_words(config: dict[str, Any]) -> dict[str, Any]:
    config = _with_rope(config)
    text = config.get("text_config")
    if not isinstance(text, dict):
        return config
    text, tied = _with_rope(text), "tie_word_embeddings"
    if tied in text and tied not in config:
        config = config | {tied: text[tied]}
    if tied in config and tied not in text:
        text = text | {tied: config[tied]}
    return config | {"text_config": text}


def _with_rope(config: dict[str, Any]) -> dict[str, Any]:
    rope = config.get("rope_parameters")
    if not isinstance(rope, dict) or "rope_theta" not in rope:  # one for each kind of layer: 4 has other models' words
        return config
    scaling = {name: value for name, value in rope.items() if name != "rope_theta"}
    return {"rope_theta": rope["rope_theta"], "rope_scaling": scaling} | config


def _read(path: Path) -> dict[str, Any]:
    """Read a file; what is wrong with it, whoever loads it says."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _text(content: Any) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"

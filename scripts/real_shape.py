r"""Write a random model of a real one's shape, to try a training script on this machine without the real weights.

    python scripts/real_shape.py /tmp/random_2b
    MODEL=/tmp/random_2b DATASET_DIR=/tmp/random_2b/data DATA=pair GLOBAL_BATCH=1 \
        bash examples/uni_dpo/Qwen2_VL_2B_uni_dpo.sh max_steps=1

    python scripts/real_shape.py /tmp/small --shape Qwen3-VL-4B --small      # and Qwen3_VL_4B_lora_uni_dpo.sh

The folder loads as the real one does and has its layers, widths and vocabulary in bfloat16: 4.4 GB for Qwen2-VL-2B.
Its tokenizer is the demo's, with the special tokens that the processor asks for; its other tokens are few, so a text
is several times as many tokens as the real tokenizer makes of it, and its chat template is Qwen2-VL's. Its answers
mean nothing. In data/ is one scored pair with an image of 336 x 336.
"""

import argparse
import json
import random
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tokenizers import AddedToken, Tokenizer

from common import ROOT
from demo.model import write_weights
from shapes import FAMILIES, SHAPES, Family, config_values


DEMO = ROOT / "data" / "demo" / "checkpoint"
PAIR = {
    "instruction": "<image>Describe the picture.",
    "chosen": "The picture shows a blue square on the left and a green triangle on the right, and nothing else that "
    "could be counted or named by anyone who looks at it.",
    "rejected": "There are three red circles in the picture, one below the other, and a yellow line between the "
    "second and the third of them, which is all there is to see.",
    "score_chosen": 4.0,
    "score_rejected": 1.5,
    "images": ["a.png"],
}


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the checkpoint goes; must not be there yet")
    parser.add_argument("--shape", choices=SHAPES, default="Qwen2-VL-2B", help="whose shape (default: %(default)s)")
    parser.add_argument("--small", action="store_true", help="of the same kind, but a few million weights")
    parser.add_argument("--seed", type=int, default=0, help="seed of the weights (default: %(default)s)")
    arguments = parser.parse_args(argv)
    if arguments.folder.exists():
        parser.error(f"{arguments.folder} is there already: name a new folder")
    count = write(arguments.folder, arguments.shape, arguments.small, arguments.seed)
    write_pair(arguments.folder / "data")
    kind = "a small one of the kind of" if arguments.small else "the shape of"
    print(f"{arguments.folder}: {count:,} random weights in bfloat16, {kind} {arguments.shape}")
    return 0


def write(
    folder: Path,
    name: str = "Qwen2-VL-2B",
    small: bool = False,
    seed: int = 0,
    vocabulary: int = 0,
    dtype: torch.dtype = torch.bfloat16,
) -> int:
    """Write the checkpoint and return how many weights it has; takes memory for the weights and little more.

    Args:
        folder: where it goes.
        name: of the shape.
        small: a small model of the same kind, ...
        seed: of the weights.
        vocabulary: ... with so many tokens, if not those of the tokenizer.
        dtype: of the weights.
    """
    family = FAMILIES[SHAPES[name].family]
    shutil.copytree(DEMO, folder, ignore=shutil.ignore_patterns("*.safetensors", "README*"))
    tokenizer = write_tokenizer(folder, family)
    for file, changes in ({"preprocessor_config": {}} | family.files).items():
        _change(folder / f"{file}.json", {"processor_class": family.processor} | changes)
    values = config_values(name, (vocabulary or tokenizer.get_vocab_size()) if small else 0)
    known = json.loads((DEMO / "config.json").read_text(encoding="utf-8"))
    ids = {name: known[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    values |= {name: tokenizer.token_to_id(token) for name, token in family.ids.items()}
    values.get("text_config", values).update(ids)
    values["torch_dtype"] = str(dtype).removeprefix("torch.")
    (folder / "config.json").write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    return write_weights(folder, seed, dtype)


def write_tokenizer(folder: Path, family: Family) -> Tokenizer:
    """Add the special tokens of a family to the tokenizer in a folder, and return it."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in family.tokens.values()])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = folder / "tokenizer_config.json"
    added = json.loads(config.read_text(encoding="utf-8"))["added_tokens_decoder"]
    flags = next(iter(added.values()))
    added |= {str(tokenizer.token_to_id(token)): flags | {"content": token} for token in family.tokens.values()}
    _change(config, {"added_tokens_decoder": added, "extra_special_tokens": family.tokens} if family.tokens else {})
    return tokenizer


def _change(file: Path, values: dict[str, Any]) -> None:
    """Lay values over those of a JSON file, which need not exist."""
    known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    file.write_text(json.dumps(known | values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_pair(folder: Path) -> None:
    """Write the data set `pair`: a picture of noise, one row, and its description."""
    folder.mkdir()
    rng = random.Random(0)
    image = Image.new("RGB", (336, 336))
    image.putdata([(rng.randrange(256), rng.randrange(256), rng.randrange(256)) for _ in range(336 * 336)])
    image.save(folder / "a.png")
    (folder / "pair.json").write_text(json.dumps([PAIR]), encoding="utf-8")
    columns = {"prompt": "instruction"} | {name: name for name in PAIR if name != "instruction"}
    entry = {"file_name": "pair.json", "ranking": True, "columns": columns}
    (folder / "dataset_info.json").write_text(json.dumps({"pair": entry}), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())

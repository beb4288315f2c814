r"""Write a random Qwen2-VL of a real one's shape, to try a training script on this machine without the real weights.

    python scripts/real_shape.py /tmp/random_2b
    MODEL=/tmp/random_2b DATASET_DIR=/tmp/random_2b/data DATA=pair GLOBAL_BATCH=1 \
        bash examples/uni_dpo/Qwen2_VL_2B_uni_dpo.sh max_steps=1

The folder loads as the real one does and has its layers, widths and vocabulary in bfloat16: 4.4 GB for the 2B. Its
tokenizer is the demo's, whose special tokens and image processing are Qwen2-VL's and whose other tokens are few, so a
text is several times as many tokens as the real tokenizer makes of it. Its answers mean nothing. In data/ is one
scored pair with an image of 336 x 336.
"""

import argparse
import json
import random
import shutil
import sys
from pathlib import Path

import torch
from PIL import Image
from tokenizers import Tokenizer

from bench_train_step.models import PROCESSOR, config_values
from bench_train_step.variants import SIZES
from demo.model import write_weights


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
    parser.add_argument("--size", choices=sorted(SIZES), default="2b", help="which shape (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the weights (default: %(default)s)")
    arguments = parser.parse_args(argv)
    if arguments.folder.exists():
        parser.error(f"{arguments.folder} is there already: name a new folder")
    count = write(arguments.folder, arguments.size, arguments.seed)
    write_pair(arguments.folder / "data")
    print(f"{arguments.folder}: {count:,} random weights in bfloat16, shape {arguments.size}")
    return 0


def write(folder: Path, size: str = "2b", seed: int = 0) -> int:
    """Write the checkpoint and return how many weights it has; takes memory for the weights and little more."""
    shutil.copytree(PROCESSOR, folder, ignore=shutil.ignore_patterns("*.safetensors", "README*"))
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    values = config_values(tokenizer, SIZES[size]) | {"torch_dtype": "bfloat16"}
    (folder / "config.json").write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    return write_weights(folder, seed, torch.bfloat16)


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

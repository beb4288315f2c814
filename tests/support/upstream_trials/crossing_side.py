"""One side of the table of checkpoints, run by any Python that has the overlays: it writes them, or reads them.

`crossing_side.py write WORLD FOLDER` trains a checkpoint of each kind and notes what the trained model itself says.
`crossing_side.py read WORLD FOLDER` loads those as we load checkpoints anywhere and prints the differences.
`crossing_side.py vllm WORLD FOLDER` asks vLLM the same. Further arguments name the kinds, if not all.
"""

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch


ROOT = Path(__file__).resolve().parents[3]
LORA = {"finetuning_type": "lora", "lora_rank": 4, "lora_target": "q_proj,v_proj,up_proj", "learning_rate": 0.05}
KINDS = {
    "full tied": {"learning_rate": 0.01},
    "full untied": {"learning_rate": 0.01},
    "LoRA": LORA,
    "LoRA with embeddings": LORA | {"additional_target": "embed_tokens,lm_head"},
}
STEP, WORDS = 1, 6  # the checkpoint to go on from, and the tokens that are said
GRID = (1, 4, 6)  # an image, in patches: 24 of them, 6 placeholders


def questions(config: Any) -> dict[str, torch.Tensor]:
    """Return what every model is asked: ids with one image, its pixels, and positions that need no code to find."""
    text = 20 + torch.arange(24) % 90
    image = torch.full((GRID[1] * GRID[2] // 4,), config.image_token_id)
    ids = torch.cat([text[:8], image, text[8:]])[None]
    generator = torch.Generator().manual_seed(5)
    pixels = torch.randn(GRID[1] * GRID[2], 3 * 2 * 14 * 14, generator=generator)
    positions = torch.arange(ids.shape[1]).expand(3, 1, -1)
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": pixels,
        "image_grid_thw": torch.tensor([GRID]),
        "position_ids": positions,
    }


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    """Return a model's logits over the fixed question, shape (tokens, vocabulary), float32."""
    training = model.training
    model.eval()
    seen = model(**questions(model.config)).logits[0].float().cpu().clone()
    model.train(training)
    return seen


@torch.no_grad()
def said(model: Any) -> dict[str, list]:
    """Return the likeliest next tokens to a text, one after the other, and the log-prob of each."""
    training, ids = model.training, prompt().clone()
    model.eval()
    tokens, logps = [], []
    for _ in range(WORDS):
        found = model(input_ids=ids[None]).logits[0, -1].float().log_softmax(-1).max(-1)
        tokens.append(int(found.indices))
        logps.append(float(found.values))
        ids = torch.cat([ids, found.indices[None].cpu()])
    model.train(training)
    return {"tokens": tokens, "logps": logps}


def prompt() -> torch.Tensor:
    """Return the ids of a text without an image."""
    return 20 + torch.arange(16) % 90


def train(options: dict[str, Any], **notes: Callable[[Any], None]) -> None:
    """Run LlamaFactory with our overlay, and show the model to each note at the trainer's event of that name."""
    from transformers import TrainerCallback

    from llamafactory.train.tuner import run_exp

    def shown_to(note: Callable[[Any], None]) -> Callable:
        return lambda self, args, state, control, model=None, **kwargs: note(model)

    events = {name: shown_to(note) for name, note in notes.items()}
    run_exp(options, callbacks=[type("Show", (TrainerCallback,), events)()])


def options(world: Path, kind: str, output: Path, **changes: Any) -> dict[str, Any]:
    """Return the options of a short run on the world's model of this kind."""
    sys.path.insert(0, str(ROOT / "tests" / "support"))
    import pairs

    model = world / ("untied" if kind == "full untied" else "tied")
    run = KINDS[kind] | {"max_steps": 2, "save_strategy": "steps", "save_steps": STEP, "use_cpu": True}
    return pairs.options(model, world / "pairs", output, **run | changes)


def write(world: Path, folder: Path, kinds: list[str]) -> None:
    """Train one checkpoint of each kind."""
    for kind in kinds:
        output, seen = folder / kind.replace(" ", "-"), {}

        def at_save(model: Any, seen: dict = seen) -> None:
            seen.setdefault("checkpoint", logits(model))

        def at_end(model: Any, seen: dict = seen) -> None:
            seen |= {"logits": logits(model), "said": said(model)}

        train(options(world, kind, output), on_save=at_save, on_train_end=at_end)
        torch.save(seen, output / "seen.pt")


def read(world: Path, folder: Path, kinds: list[str]) -> dict[str, dict[str, Any]]:
    """Load every kind; the largest difference of a logit from the trained model's own, or the message."""
    return {kind: _read(world, kind, folder / kind.replace(" ", "-")) for kind in kinds}


def _read(world: Path, kind: str, output: Path) -> dict[str, Any]:
    seen = torch.load(output / "seen.pt", weights_only=True)
    found: dict[str, Any] = {}

    def note(name: str, of: str = "logits") -> Callable[[Any], None]:
        return lambda model: found.update({name: float((logits(model) - seen[of]).abs().max())})

    scratch = output.parent / f"{output.name}-scratch"
    again = {"output_dir": str(scratch), "max_steps": 1, "save_strategy": "no"}
    start = {"adapter_name_or_path": str(output)} if kind.startswith("LoRA") else {"model_name_or_path": str(output)}
    if kind.startswith("LoRA"):  # the policy starts from the adapter, so the reference has to be told to
        start |= {"ref_model": str(world / "tied"), "ref_model_adapters": str(output)}
    readers = {
        "training": lambda: train(options(world, kind, scratch, **again | start), on_train_begin=note("training")),
        "resuming": lambda: _resumed(world, kind, output, scratch, note("resuming", "checkpoint")),
        "evaluation": lambda: note("evaluation")(_evaluated(output)),
    }
    if not kind.startswith("LoRA"):
        readers["scoring"] = lambda: note("scoring")(_scorer(output))
    for name, reader in readers.items():
        with _noted(found, name):
            reader()
        shutil.rmtree(scratch, ignore_errors=True)
    return found


def _resumed(world: Path, kind: str, output: Path, scratch: Path, note: Callable[[Any], None]) -> None:
    shutil.copytree(output / f"checkpoint-{STEP}", scratch / f"checkpoint-{STEP}")
    run = options(world, kind, scratch, resume_from_checkpoint=str(scratch / f"checkpoint-{STEP}"))
    train(run, on_train_begin=note)


def _evaluated(output: Path) -> Any:
    from vlmeval.vlm.qwen2_vl.uni_dpo.checkpoint import open_checkpoint
    from vlmeval.vlm.qwen2_vl.uni_dpo.transformers_backend import load_model

    torch.set_grad_enabled(True)  # importing vlmeval switches it off
    return load_model(open_checkpoint(str(output)), "cpu", torch.float32, "sdpa")


def _scorer(output: Path) -> Any:
    sys.path.insert(0, str(ROOT / "scripts" / "uni_dpo"))
    from pair_data.score.checkpoints import Checkpoint
    from pair_data.score.kinds import YesNo

    scorer = object.__new__(YesNo)  # its model alone: how it reads answers has nothing to do with this
    scorer.checkpoint, scorer.dtype, scorer.device = Checkpoint(str(output)), "float32", "cpu"
    return scorer.model


def vllm(world: Path, folder: Path, kinds: list[str]) -> dict[str, dict[str, Any]]:
    """Ask vLLM: equal tokens, and the largest difference of their log-probs; or the message."""
    from vllm import SamplingParams
    from vlmeval.vlm.qwen2_vl.uni_dpo.checkpoint import open_checkpoint
    from vlmeval.vlm.qwen2_vl.uni_dpo.vllm_backend import VLLMBackend

    results = {}
    generation = {"do_sample": False, "max_new_tokens": WORDS, "repetition_penalty": 1.0}
    for kind in kinds:
        output, found = folder / kind.replace(" ", "-"), {}
        expected = torch.load(output / "seen.pt", weights_only=True)["said"]
        with _noted(found, "vLLM"):
            backend = VLLMBackend(open_checkpoint(str(output)), "float32", generation, max_model_len=512)
            sampling = SamplingParams(max_tokens=WORDS, temperature=0.0, logprobs=1, ignore_eos=True)
            answer = backend.llm.generate([{"prompt_token_ids": prompt().tolist()}], sampling, use_tqdm=False)
            one = answer[0].outputs[0]
            logps = [step[token].logprob for token, step in zip(one.token_ids, one.logprobs, strict=True)]
            if list(one.token_ids) != expected["tokens"]:
                raise AssertionError(f"vLLM says {list(one.token_ids)}, the trained model {expected['tokens']}")
            found["vLLM"] = max(abs(a - b) for a, b in zip(logps, expected["logps"], strict=True))
            del backend
        results[kind] = found
    return results


@contextmanager
def _noted(found: dict[str, Any], name: str) -> Iterator[None]:
    try:
        yield
    except (Exception, SystemExit) as error:
        found[name] = f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"


def main(side: str, world: str, folder: str, *kinds: str) -> None:
    """Do one side, and print what `read` and `vllm` found as the last line."""
    found = {"write": write, "read": read, "vllm": vllm}[side](Path(world), Path(folder), list(kinds or KINDS))
    if found is not None:
        print(json.dumps(found))


if __name__ == "__main__":  # vLLM's processes import this file again
    main(*sys.argv[1:])

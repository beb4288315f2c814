"""Answers of both backends, asked in a process of its own.

`python tests/support/vllm_probe.py REQUEST.json ANSWER.json`, with
{checkpoint: {"options": arguments of the adapter, "rounds": {name: {"messages": [...], "changes": arguments}}}} in,
where changes are such as belong to the question, and {checkpoint: {name: {"vllm": [...], "transformers": [...],
"prompts": {"vllm": [...], "transformers": [...]}}}} out. Prompts are token ids.
"""

import json
import sys
from pathlib import Path


def answers(options, rounds):
    """Answer all rounds with one backend, loaded once; return answers and prompts of each."""
    from vlmeval.vlm import UniDPOVLM

    model = UniDPOVLM(**options)
    found = {}
    for name, wish in rounds.items():
        asking = UniDPOVLM(**options | wish.get("changes", {}))
        questions = [asking.question(it) for it in wish["messages"]]
        found[name] = model.answer(questions), prompts(model.backend, questions)
    return found


def prompts(backend, questions):
    """The token ids that a model reads, with a placeholder for each part of an image."""
    if hasattr(backend, "outputs"):
        return [list(output.prompt_token_ids) for output in backend.outputs(questions)]
    return [backend.inputs([question])["input_ids"][0].tolist() for question in questions]


def both(options, rounds):
    """Answer all rounds with both backends."""
    found = {name: answers(options | {"use_vllm": name == "vllm"}, rounds) for name in ("transformers", "vllm")}
    return {
        name: {backend: its[name][0] for backend, its in found.items()}
        | {"prompts": {backend: its[name][1] for backend, its in found.items()}}
        for name in rounds
    }


if __name__ == "__main__":  # vLLM's processes import this file again
    request = json.loads(Path(sys.argv[1]).read_text())
    Path(sys.argv[2]).write_text(json.dumps({name: both(**wish) for name, wish in request.items()}))

"""Answers of both backends, asked in a process of its own.

`python tests/support/vllm_probe.py REQUEST.json ANSWER.json`, with
{checkpoint: {"options": arguments of the adapter, "rounds": {name: {"messages": [...], "changes": arguments}}}} in,
where changes are such as belong to the question, and
{checkpoint: {name: {backend: {"answers": [...], "prompts": [...], "first": [...]}}}} out: texts, token ids, and
log-probs of tokens that an answer may begin with.
"""

import json
import sys
from pathlib import Path

import torch


LIKELIEST = 5


def asked(options, rounds):
    """Ask all rounds of one backend, loaded once."""
    from vlmeval.vlm import UniDPOVLM

    model = UniDPOVLM(**options)
    found = {}
    for name, wish in rounds.items():
        asking = UniDPOVLM(**options | wish.get("changes", {}))
        questions = [asking.question(it) for it in wish["messages"]]
        answers = model.answer(questions)
        look = seen_by_vllm if options["use_vllm"] else seen_by_transformers
        prompts, first = zip(*look(model.backend, questions), strict=True)
        found[name] = {"answers": answers, "prompts": prompts, "first": first}
    return found


def seen_by_vllm(backend, questions):
    """The token ids that the model reads, with one for each part of an image, and what may come first."""
    from vllm import SamplingParams

    chosen, backend.sampling = backend.sampling, SamplingParams(max_tokens=1, temperature=0.0, logprobs=LIKELIEST)
    for output in backend.outputs(questions):
        likely = output.outputs[0].logprobs[0]
        yield list(output.prompt_token_ids), {str(token): found.logprob for token, found in likely.items()}
    backend.sampling = chosen


def seen_by_transformers(backend, questions):
    """The same; of every token how likely it is to come first."""
    for question in questions:
        inputs = backend.inputs([question])
        with torch.no_grad():
            logits = backend.model(**inputs).logits[0, -1]
        yield inputs["input_ids"][0].tolist(), logits.float().log_softmax(-1).tolist()


def both(options, rounds):
    """Ask all rounds of both backends."""
    found = {name: asked(options | {"use_vllm": name == "vllm"}, rounds) for name in ("transformers", "vllm")}
    return {name: {backend: its[name] for backend, its in found.items()} for name in rounds}


if __name__ == "__main__":  # vLLM's processes import this file again
    request = json.loads(Path(sys.argv[1]).read_text())
    Path(sys.argv[2]).write_text(json.dumps({name: both(**wish) for name, wish in request.items()}))

"""One way to answer, in a process of its own: `python worker.py SPEC`, with a JSON text.

It says when it is ready, answers the rows that each line of its input names, and says what was answered, in lines of
JSON. It ends with its input. Everything that others print goes to the standard error.
"""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from counts import parts_of


SERVER_WAIT = 1800  # seconds until a server must be ready


def main() -> None:
    """Answer until the input ends."""
    spec = json.loads(sys.argv[1])
    told = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    server = serving(spec) if spec["way"] == "api" else nullcontext("")
    with server as url:
        answer = api(spec, url) if url else ours(spec)
        print(json.dumps("ready"), file=told)
        for line in sys.stdin:
            print(json.dumps(answer(**json.loads(line))), file=told)


def dataset_of(spec: dict[str, Any], rows: tuple[int, int]) -> Any:
    """Return some rows of the data set, as VLMEvalKit reads them."""
    from vlmeval.uni_dpo.runner import build_dataset

    dataset = build_dataset(spec["data"], spec["entry"])
    if len(dataset.data) < rows[1]:
        raise SystemExit(f"{spec['data']} has {len(dataset.data)} rows; every turn needs others: ask for fewer")
    dataset.data = dataset.data.iloc[slice(*rows)].reset_index(drop=True)
    return dataset


def timed(answer: Callable[..., list[str]], spec: dict[str, Any]) -> Callable[..., dict[str, Any]]:
    """Return what answers rows, and notes the seconds from the data set to answers on the disk."""

    def turn(rows: tuple[int, int], folder: str, **more: Any) -> dict[str, Any]:
        dataset, folder = dataset_of(spec, rows), Path(folder)
        folder.mkdir(parents=True)
        began = time.perf_counter()
        answers = answer(dataset, folder, **more)
        return {"seconds": time.perf_counter() - began, "answers": answers}

    return turn


def by_loop(model: Any, dataset: Any, folder: Path, at_once: int = 1) -> list[str]:
    """Answer as VLMEvalKit's run.py does, which asks an API for several answers at once."""
    from vlmeval.inference import infer_data
    from vlmeval.smp import load

    infer_data(model, "bench", str(folder), dataset, str(folder / "answers.pkl"), api_nproc=at_once)
    found = load(str(folder / "answers.pkl"))
    return [found[index] for index in dataset.data["index"]]


def by_runner(model: Any, dataset: Any, folder: Path, batch_size: int | None) -> list[str]:
    """Answer as `python -m vlmeval.uni_dpo` does."""
    from vlmeval.uni_dpo.batches import BatchSize, answer_all, build_questions, default_batch_size, key_of
    from vlmeval.uni_dpo.journal import Journal
    from vlmeval.uni_dpo.ranks import Ranks

    questions = build_questions(model, dataset, quiet=True)
    named = zip(dataset.data["index"], questions, strict=True)
    rows = [(str(index), key_of("", question)) for index, question in named]
    journal = Journal(folder, "bench")
    size = BatchSize(batch_size) if batch_size else default_batch_size(model)
    answer_all(model, questions, rows, journal, Ranks(0, 1), size)
    known = journal.read()
    return [known[row] for row in rows]


def ours(spec: dict[str, Any]) -> Callable[..., dict[str, Any]]:
    """Load our adapter, for either loop."""
    from vlmeval.vlm import UniDPOVLM

    model = UniDPOVLM(spec["model"], **spec["options"])
    model.answer([model.question([{"type": "text", "value": "Ready?"}])])

    def answer(dataset: Any, folder: Path) -> list[str]:
        if spec["way"] == "loop":
            return by_loop(model, dataset, folder)
        return by_runner(model, dataset, folder, spec["batch_size"])

    turn = timed(answer, spec)

    def either(rows: tuple[int, int], folder: str, count: bool = False) -> dict[str, Any]:
        if not count:
            return turn(rows, folder)
        return parts_of(model, lambda again: turn(rows, f"{folder}-{again}"))

    return either


def api(spec: dict[str, Any], url: str) -> Callable[..., dict[str, Any]]:
    """Make VLMEvalKit's class for servers that speak OpenAI's language, as its documents have it."""
    from vlmeval.api import GPT4V

    chosen = {"temperature": 0, "max_tokens": spec["options"]["max_new_tokens"], "retry": 2}
    model = GPT4V(model="bench", key="none", api_base=f"{url}/v1/chat/completions", **chosen)
    model.generate([{"type": "text", "value": "Ready?"}])
    return timed(partial(by_loop, model), spec)


@contextmanager
def serving(spec: dict[str, Any]) -> Iterator[str]:
    """Start a server of vLLM with what our backend tells its engine, and give its address once it is ready."""
    import torch
    from vlmeval.vlm.qwen2_vl.uni_dpo.vllm_backend import DEFAULTS

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["--port", port, "--host", "127.0.0.1", "--served-model-name", "bench", "--seed", 0]
    words += ["--dtype", spec["options"]["dtype"]] if "dtype" in spec["options"] else []
    words += [] if torch.cuda.is_available() else ["--enforce-eager", "--skip-mm-profiling"]
    limit = spec["options"].get("gpu_memory_utilization")
    words += ["--gpu-memory-utilization", limit] if limit else []
    # As `vllm serve`, which the build for CPUs cannot run: it looks up its version by a name that this has not.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", spec["model"], *words]
    unbound = {"VLLM_CPU_OMP_THREADS_BIND": "nobind"} if "OMP_NUM_THREADS" in os.environ else {}
    environment = DEFAULTS | unbound | dict(os.environ)
    server = subprocess.Popen(list(map(str, command)), env=environment, stdin=subprocess.DEVNULL)
    try:
        _wait_for(f"http://127.0.0.1:{port}", server)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


def _wait_for(url: str, server: subprocess.Popen) -> None:
    ends = time.monotonic() + SERVER_WAIT
    while time.monotonic() < ends and server.poll() is None:
        try:
            urllib.request.urlopen(f"{url}/health", timeout=5).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise SystemExit(f"vLLM's server did not start (exit status {server.poll()})")


if __name__ == "__main__":  # vLLM's processes import this file again
    main()

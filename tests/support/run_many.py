"""Train several runs, one after the other, with whatever LlamaFactory is first on the path.

`python run_many.py RUNS.json RESULTS.json`: RUNS.json maps names to options; RESULTS.json gets, for each, what the
trainer logged and a hash of the trained weights.
"""

import hashlib
import json
import sys
from pathlib import Path

from safetensors.torch import load_file

from llamafactory.train.tuner import run_exp


TIMINGS = ("runtime", "per_second")


def result(output: Path) -> dict:
    """Gather the outcome of one run without its timings."""
    state = output / "trainer_state.json"
    history = json.loads(state.read_text())["log_history"]
    logged = [{key: v for key, v in entry.items() if not key.endswith(TIMINGS)} for entry in history]
    digest = hashlib.sha256()
    for name, tensor in sorted(load_file(output / "model.safetensors").items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    return {"log": logged, "weights": digest.hexdigest()}


if __name__ == "__main__":
    import llamafactory

    results = {"llamafactory": str(Path(llamafactory.__file__).parent)}
    for name, run in json.loads(Path(sys.argv[1]).read_text()).items():
        run_exp(run)
        results[name] = result(Path(run["output_dir"]))
    Path(sys.argv[2]).write_text(json.dumps(results))

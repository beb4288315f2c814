"""Several runs of the batched runner in one process, since importing VLMEvalKit takes most of a short run.

`python tests/support/eval_runs.py REQUEST.json ANSWER.json`, with {name: [argument, ...]} in and {name: {"exit",
"text"}} out. `{"prepare": "code"}` in place of arguments runs that code; `{"loop": [argument, ...]}` runs VLMEvalKit's
own run.py.
"""

import contextlib
import io
import json
import runpy
import sys
import traceback
from pathlib import Path

import vlmeval
from vlmeval.uni_dpo.cli import main


def outcome(request):
    """Run one request; what it prints to both streams is the text."""
    if "prepare" in request:
        exec(request["prepare"], {})
        return None
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        try:
            code = their_loop(request["loop"]) if "loop" in request else main(request)
        except SystemExit as end:
            code = end.code
            if isinstance(code, str):  # what Python does of it
                print(code)
                code = 1
        except Exception:
            traceback.print_exc()
            code = 1
    return {"exit": code, "text": text.getvalue()}


def their_loop(arguments):
    """Run VLMEvalKit's own loop as its command does."""
    script = Path(vlmeval.__file__).parent.parent / "run.py"
    sys.argv = [str(script), *arguments]
    if script.is_file():
        runpy.run_path(str(script), run_name="__main__")
    else:
        runpy.run_module("vlmeval.run", run_name="__main__", alter_sys=True)
    return 0


if __name__ == "__main__":
    requests = json.loads(Path(sys.argv[1]).read_text())
    Path(sys.argv[2]).write_text(json.dumps({name: outcome(request) for name, request in requests.items()}))

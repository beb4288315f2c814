"""Several runs of the batched runner in one process, since importing VLMEvalKit takes most of a short run.

`python tests/eval_runs.py REQUEST.json ANSWER.json`, with {name: [argument, ...]} in and {name: {"exit", "text"}} out.
`{"prepare": "code"}` in place of arguments runs that code.
"""

import contextlib
import io
import json
import sys
from pathlib import Path

from vlmeval.uni_dpo.cli import main


def outcome(request):
    """Run one request; what it prints to both streams is the text."""
    if isinstance(request, dict):
        exec(request["prepare"])
        return None
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        try:
            code = main(request)
        except SystemExit as end:
            code = end.code
    return {"exit": code, "text": text.getvalue()}


if __name__ == "__main__":
    requests = json.loads(Path(sys.argv[1]).read_text())
    Path(sys.argv[2]).write_text(json.dumps({name: outcome(request) for name, request in requests.items()}))

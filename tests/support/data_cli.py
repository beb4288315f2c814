"""Running the data commands: in this process, which is quick, or as a user does."""

import contextlib
import io
import subprocess
import sys
from unittest import mock

from pairs import ROOT

from pair_data.cli import main


DATA = [sys.executable, ROOT / "scripts" / "uni_dpo" / "data.py"]


def data(*arguments: object) -> tuple[int, str, str]:
    """Run `data.py ARGUMENTS` in this process and return its status, output and messages."""
    out, err = io.StringIO(), io.StringIO()
    command = ["data.py", *map(str, arguments)]
    with mock.patch.object(sys, "argv", command), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
            status = 0
        except SystemExit as left:
            status = left.code
    return status, out.getvalue(), err.getvalue()


def call(*command: object, **options: object) -> tuple[int, str, str]:
    """Run a command line and return its status, output and messages."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=120, **options)
    return done.returncode, done.stdout, done.stderr

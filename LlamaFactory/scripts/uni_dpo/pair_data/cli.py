"""The command line: one program, one command for each step, in the order in which they are used."""

import inspect
import sys
from collections.abc import Callable

import typer

from . import paths, register
from .commands import check, convert, download, pairs, sample, score, stats
from .errors import DataError


HELP = """Prepare scored preference pairs for Uni-DPO, from downloads to a data set that has been looked at.

Files are .json, .jsonl or .parquet, by their names; .csv is read and not written. Nothing is changed in place unless
asked for, and a file that is written appears when it is complete. Each command explains itself:
data.py COMMAND --help.

Exit status: 0 done, 1 check found errors, 2 bad input or options, 130 interrupted.
"""


def help_of(function: Callable[..., None]) -> str:
    r"""Return a docstring in which a line of `\b` keeps the line breaks up to the next empty line."""
    return (inspect.getdoc(function) or "").replace("\\b", "\b")


app = typer.Typer(
    help=HELP, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None
)
for command in (download, convert, paths, sample, score, pairs, check, stats, register):  # in the order of their use
    # `download` alone does something useful without a word more.
    app.command(command.NAME, help=help_of(command.run), no_args_is_help=command is not download)(command.run)


def main(program: typer.Typer = app) -> None:
    """Run a command line and leave with its exit status; an error is one message."""
    try:
        program()
    except DataError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(2)
    except PermissionError as error:
        print(f"Error: {error.filename}: {error.strerror}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # `data.py stats ... | head`
        sys.stderr.close()
        sys.exit(1)

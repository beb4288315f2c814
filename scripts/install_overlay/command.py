"""Lay the Uni-DPO overlay over a LlamaFactory or a VLMEvalKit, take it off again, or say what is there.

The overlay replaces one file (LlamaFactory's train/dpo/__init__.py, VLMEvalKit's vlm/qwen2_vl/__init__.py), which is
kept, and adds folders named uni_dpo. This script needs Python 3.11 and nothing else, and never imports either.
"""

import argparse
import sys
from collections import Counter
from pathlib import Path

from common import ToolError
from install_overlay.changes import install, uninstall
from install_overlay.kinds import KINDS, LLAMAFACTORY
from install_overlay.ours import Overlay
from install_overlay.status import report
from install_overlay.target import from_checkout, from_python


OVERLAY = LLAMAFACTORY.overlay

EPILOG = """\
examples:
  python scripts/install_overlay.py status
      which LlamaFactory do llamafactory-cli and this Python use, and is it patched?
  python scripts/install_overlay.py install
      patch the llamafactory package of the Python that runs this
  python scripts/install_overlay.py install --python .venv/bin/python
      patch that of another Python
  python scripts/install_overlay.py install --checkout ~/LLaMA-Factory
      patch a checkout, with its examples and data; the same as: cp -r LlamaFactory/. ~/LLaMA-Factory/
  python scripts/install_overlay.py install --link
      for developing: link instead of copying, so that edits in LlamaFactory/ count at once
  python scripts/install_overlay.py uninstall
      give upstream its file back and remove everything else

  python scripts/install_overlay.py install --for vlmeval --python .venv/bin/python
      the evaluation's part, over the vlmeval package of a Python; a checkout of VLMEvalKit with --checkout

Remember that `llamafactory-cli` uses the installed package and `python src/train.py` the checkout it lies in.
`pip install` over the overlay brings upstream's file back: run install again after it.

A LlamaFactory that has a Uni-DPO of its own, the published one or a fork's, is refused, with --force too.

exit codes: 0 done, and for status: patched; 1 status: not patched, only half, or laid over one where nothing trains; 2
error, nothing was changed unless the message says so.
"""


def main(arguments: list[str] | None = None) -> int:
    """Run one command line (None: the real one) and return its exit code."""
    options = parser().parse_args(arguments)
    kind = KINDS[options.upstream]
    try:
        overlay = Overlay.read(OVERLAY if kind is LLAMAFACTORY else kind.overlay, kind)
        if options.command == "status":
            lines, finding = report(overlay, options.python, options.checkout)
            print("\n".join(lines))
            return 2 if finding is None else int(not finding.patched)
        change(options, overlay)
    except ToolError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: stopped half way: {error}", file=sys.stderr)
        print("  repair that and run the same command again: it goes on where it stopped", file=sys.stderr)
        return 2
    return 0


def change(options: argparse.Namespace, overlay: Overlay) -> None:
    """Install or uninstall, and say what was done."""
    kind = overlay.kind
    target = from_checkout(options.checkout, kind) if options.checkout else from_python(options.python, kind)
    how = {"force": options.force, "dry_run": options.dry_run}
    if options.command == "install":
        changes = install(target, overlay, link=options.link, **how)
        done, nothing = f"overlay {overlay.version} installed", "installed already, nothing to do"
    else:
        changes = uninstall(target, overlay, **how)
        done, nothing = "overlay removed", "nothing of the overlay there, nothing to do"
    print(f"{kind.package} {target.version or '(incomplete)'} in {target.package} ({target.found})")
    for verb, path in changes:
        if verb == "leave":
            print(f"leave {path} (not this overlay's)")
        elif options.dry_run:
            print(f"{verb} {path}")
    counts = Counter(verb for verb, _ in changes)
    if not counts.keys() - {"leave"}:
        print(nothing)
    elif options.dry_run:
        print("dry run: nothing was changed")
    else:
        print(f"{done}: {', '.join(f'{verb} {count}' for verb, count in counts.items())}")


def parser() -> argparse.ArgumentParser:
    """Return the command line of this script."""
    wide = argparse.RawDescriptionHelpFormatter
    whole = argparse.ArgumentParser(description=__doc__, epilog=EPILOG, formatter_class=wide)
    commands = whole.add_subparsers(dest="command", required=True, metavar="{install,status,uninstall}")
    helps = {
        "install": "patch a LlamaFactory or a VLMEvalKit, or repair and update an installation",
        "status": "say which one each command uses and whether it is patched; changes nothing",
        "uninstall": "undo it: upstream's files are byte-identical afterwards",
    }
    where_help = "the Python whose installed package is meant (default: the one running this, %(default)s)"
    for name, text in helps.items():
        add = commands.add_parser(name, help=text, description=text).add_argument
        where = commands.choices[name] if name == "status" else commands.choices[name].add_mutually_exclusive_group()
        where.add_argument("--checkout", metavar="DIR", type=Path, help="a checkout or unpacked tree")
        where.add_argument("--python", metavar="PATH", default=sys.executable, help=where_help)
        which = "which overlay: the training's or the evaluation's (default: %(default)s)"
        add("--for", dest="upstream", choices=KINDS, default=LLAMAFACTORY.package, help=which)
        if name != "status":
            add("--dry-run", action="store_true", help="say what would be done and change nothing")
            add("--force", action="store_true", help="go on over files that are unknown or were edited")
    kind = commands.choices["install"].add_mutually_exclusive_group()
    kind.add_argument("--link", action="store_true", default=None, help="link to this repository instead of copying")
    copy = "copy (the default, unless what is installed is linked)"
    kind.add_argument("--copy", dest="link", action="store_false", help=copy)
    return whole

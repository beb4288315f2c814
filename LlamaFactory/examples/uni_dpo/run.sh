#!/usr/bin/env bash
# Runs one of the YAML files of this folder; the script beside each calls it.
#   bash examples/uni_dpo/run.sh CONFIG.yaml [key=value ...] [--dry-run | --help]
# It only picks the Python ($PYTHON, else the .venv beside examples/, else the active one); launch.py does the rest.
set -euo pipefail

here="$(cd -P "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
source "$here/python.sh"
exec "$python" "$here/launch.py" "$@"

#!/usr/bin/env bash
# Runs one of the YAML files of this folder; the Qwen2_VL_2B_*.sh scripts call it.
#   bash examples/uni_dpo/run.sh CONFIG.yaml [key=value ...] [--dry-run | --help]
# It only picks the Python ($PYTHON, else the .venv beside examples/, else the active one); launch.py does the rest.
set -euo pipefail

here="$(cd -P "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(dirname "$(dirname "$here")")"
# Inside a LlamaFactory checkout examples/ lies at its root; in the overlay's own repository one level further down.
[[ -e "$root/src/llamafactory/cli.py" ]] || root="$(dirname "$root")"

if [[ -n "${PYTHON:-}" ]]; then
  python="$PYTHON"
elif [[ -x "$root/.venv/bin/python" ]]; then
  python="$root/.venv/bin/python"
else
  python="$(command -v python || command -v python3 || true)"
fi
if ! command -v "${python:-none}" >/dev/null; then
  echo "run.sh: no Python found (PYTHON='${PYTHON:-}'). Activate an environment that has LlamaFactory, or set" \
    "PYTHON=/path/to/python." >&2
  exit 2
fi
exec "$python" "$here/launch.py" "$@"

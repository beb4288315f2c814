# Sourced by the scripts of this folder, which set `here`: finds the repository ($root) and the Python to use ($python).
# shellcheck shell=bash disable=SC2034,SC2154
set -euo pipefail
root="$(dirname "$(dirname "$here")")"
# Inside a LlamaFactory checkout examples/ lies at its root; in the overlay's own repository one level further down.
[[ -e "$root/src/llamafactory/cli.py" ]] || root="$(dirname "$root")"

if [[ -n "${PYTHON:-}" ]]; then
  python="$PYTHON"
elif [[ -n "${VENV:-}" ]]; then # where scripts/setup.sh was told to make it
  python="$VENV/bin/python"
elif [[ -x "$root/.venv/bin/python" ]]; then
  python="$root/.venv/bin/python"
else
  python="$(command -v python || command -v python3 || true)"
fi
if ! command -v "${python:-none}" >/dev/null; then
  echo "${0##*/}: no Python found (PYTHON='${PYTHON:-}' VENV='${VENV:-}'). Activate an environment that has LlamaFactory, or set" \
    "PYTHON=/path/to/python." >&2
  exit 2
fi

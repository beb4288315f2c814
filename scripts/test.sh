#!/usr/bin/env bash
# Set up and run every check: format, lint, tests. Arguments go to pytest: bash scripts/test.sh -k loss -x
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
export VENV=${VENV:-$PWD/.venv}
bash scripts/setup.sh

# The tests compare with upstream as published; after this line nothing needs a network.
"$VENV/bin/python" tests/upstream.py
"$VENV/bin/ruff" check .
"$VENV/bin/ruff" format --check .

# Tiny models gain from a second thread and lose from many.
threads=$(nproc)
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((threads < 2 ? threads : 2))}
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
export PATH="$VENV/bin:$PATH"
exec "$VENV/bin/python" -m pytest "$@"

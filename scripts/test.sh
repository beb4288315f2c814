#!/usr/bin/env bash
# Set up and run every check: format, lint, tests. Arguments go to pytest: bash scripts/test.sh -k loss -x
# bash scripts/test.sh long [ARGUMENT ...] runs tests/trust in full, hours of kills, ranks and fuzzing, and the tests of
# tests that are marked `long`: what is slow by nature.
# bash scripts/test.sh vllm [ARGUMENT ...] runs the tests of evaluation with vLLM, in an environment of their own.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
# Some fifty Pythons import torch and LlamaFactory or vLLM here. Where images of machines tell Python to keep nothing of
# what it compiles, each would compile all of it anew, which takes longer than anything else.
unset PYTHONDONTWRITEBYTECODE
if [[ ${1:-} == vllm ]]; then
    shift
    export VENV_VLLM=${VENV_VLLM:-$PWD/.venv-vllm}
    bash scripts/setup.sh --vllm
    export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
    exec "$VENV_VLLM/bin/python" -m pytest tests/test_vllm.py "$@"
fi
export VENV=${VENV:-$PWD/.venv}
bash scripts/setup.sh

# The tests compare with upstream as published; after this line nothing needs a network.
"$VENV/bin/python" tests/support/upstream.py
"$VENV/bin/ruff" check .
"$VENV/bin/ruff" format --check .

# A process for each core, and one thread in each: tiny models gain less from a second thread than the whole does from
# a second file of tests at the same time.
cores=$(nproc)
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
export PATH="$VENV/bin:$PATH"
if [[ ${1:-} == long ]]; then
    shift
    export UNI_DPO_LONG=1
    set -- -m "trust or long" --timeout 7200 "$@"
fi
exec "$VENV/bin/python" -m pytest --numprocesses $((cores < 4 ? cores : 4)) --dist loadfile --no-loadscope-reorder --durations=25 "$@"

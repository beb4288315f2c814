#!/usr/bin/env bash
# Mixed preference optimization on Qwen2-VL-2B: the same pairs and steps as the Uni-DPO run.
# Needs Qwen2-VL-2B and the scored MM-RLHF pairs (it says where to put them); fits itself to the GPUs it finds.
#   bash examples/uni_dpo/Qwen2_VL_2B_mpo.sh [key=value ...] [--dry-run | --help]
set -euo pipefail
exec bash "$(dirname "$0")/run.sh" "${0%.sh}.yaml" "$@"

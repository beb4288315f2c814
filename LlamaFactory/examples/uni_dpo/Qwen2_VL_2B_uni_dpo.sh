#!/usr/bin/env bash
# Uni-DPO on Qwen2-VL-2B, the published run: 50,555 scored pairs, 1 epoch, 395 steps of 128 pairs.
# Needs Qwen2-VL-2B and the scored MM-RLHF pairs (it says where to put them); fits itself to the GPUs it finds.
#   bash examples/uni_dpo/Qwen2_VL_2B_uni_dpo.sh [key=value ...] [--dry-run | --help]
set -euo pipefail
exec bash "$(dirname "$0")/run.sh" "${0%.sh}.yaml" "$@"

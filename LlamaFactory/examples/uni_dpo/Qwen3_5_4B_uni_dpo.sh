#!/usr/bin/env bash
# Uni-DPO on Qwen3.5-4B; it takes [key=value ...] [--dry-run | --help]
set -euo pipefail
exec bash "$(dirname "$0")/run.sh" "${0%.sh}.yaml" "$@"

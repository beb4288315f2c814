#!/usr/bin/env bash
# From nothing to a Uni-DPO-trained vision-language model, with what it was good for: see --help.
set -euo pipefail

usage() {
    cat <<'END'
usage: bash examples/uni_dpo/quickstart.sh [--from-scratch] [--help]

Trains a tiny Qwen2-VL with Uni-DPO and with plain DPO and shows what that changed. Needs Python 3.11, the package index
and, for the last two stages, a C compiler; no GPU and no model or data download. After the packages are there it takes
about 6 minutes on two cores.

  1. setup    .venv with LlamaFactory, VLMEvalKit and the overlays (scripts/setup.sh)
  2. world    a sheet of drawn scenes with their questions, to look at
  3. pairs    answers sampled from the shipped start checkpoint, scored by a rule with noise, paired
  4. before   its answers to questions about held-out scenes
  5. uni_dpo  llamafactory-cli train examples/uni_dpo/demo_uni_dpo.yaml
  6. after    the same questions again
  7. dpo      llamafactory-cli train examples/uni_dpo/demo_dpo.yaml
  8. data     four benchmarks about held-out scenes, in VLMEvalKit's form
  9. eval     VLMEvalKit asks start, DPO and Uni-DPO and scores them: one table

A stage whose inputs have not changed since it last finished is not run again.

  --from-scratch   also remake the start checkpoint with LlamaFactory's sft stage (about 45 minutes)
  OMP_NUM_THREADS  threads to compute with (default: 2, or 1 on a single core; fewer if others use the machine)
END
}

die() {
    printf 'quickstart: error: %s\n' "$1" >&2
    shift
    (($# == 0)) || printf '  %s\n' "$@" >&2
    exit 1
}

from_scratch=false
for argument in "$@"; do
    case $argument in
        --from-scratch) from_scratch=true ;;
        -h | --help)
            usage
            exit 0
            ;;
        *) die "unknown argument '$argument'" "bash examples/uni_dpo/quickstart.sh --help" ;;
    esac
done

here=$(cd -P "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd -P "$here/../../.." && pwd)
[[ -f $root/scripts/demo.py && -f $root/scripts/setup.sh ]] || die \
    "the quickstart needs the whole Uni-DPO repository; this is a LlamaFactory checkout the overlay was copied over" \
    "clone the Uni-DPO repository and run this script there; your own data trains from here as always:" \
    "llamafactory-cli train examples/uni_dpo/Qwen2_VL_2B_uni_dpo.yaml"
cd "$root"

out=outputs/demo
python=${VENV:-.venv}/bin/python
cores=$(nproc 2>/dev/null || echo 1)
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((cores > 1 ? 2 : 1))}
export CUDA_VISIBLE_DEVICES=${CUDA_VISIBLE_DEVICES-0} # one GPU is plenty; several would start a distributed run
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false DISABLE_VERSION_CHECK=${DISABLE_VERSION_CHECK-}

# fingerprint PATH...: one line that changes when any file below the paths does.
fingerprint() {
    find -L "$@" -type f ! -name '*.pyc' -print0 | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum | cut -d' ' -f1
}

# stage NAME "WHAT" INPUT... -- COMMAND...: run the command, unless it finished before on the same inputs.
stage() {
    local name=$1 what=$2 inputs=() key stamp started=$SECONDS
    shift 2
    while [[ $1 != -- ]]; do
        inputs+=("$1")
        shift
    done
    shift
    stamp=$out/.stages/$name
    key="$(fingerprint "${inputs[@]}") $*"
    if [[ -f $stamp && $(<"$stamp") == "$key" ]]; then
        printf '\n== %s: nothing to do, %s is there\n' "$name" "$what"
        return
    fi
    printf '\n== %s: %s\n' "$name" "$what"
    rm -f "$stamp"
    "$@" || die "stage '$name' failed, see above" "the same command continues with this stage"
    mkdir -p "$out/.stages"
    printf '%s' "$key" >"$stamp"
    printf '== %s: done in %d s\n' "$name" $((SECONDS - started))
}

has_vlmeval() { "$python" -c 'import importlib.util as i, sys; sys.exit(i.find_spec("vlmeval") is None)'; }

demo() { "$python" scripts/demo.py "$@"; }

# train NAME: run examples/uni_dpo/demo_NAME.yaml.
train() {
    rm -rf "${out:?}/$1"
    "${python%/*}/llamafactory-cli" train "examples/uni_dpo/demo_$1.yaml" \
        "model_name_or_path=$checkpoint" "output_dir=$out/$1" || return # a stage is called where `set -e` means nothing
    # transformers 4 writes a config.json that 5 misreads; the architecture is unchanged and both read the start's.
    cp "$checkpoint/config.json" "$out/$1/config.json"
}

# Answers are kept in the work folder by checkpoint and prompt, so a run that was cut off goes on there.
evaluate() {
    LMUData=$PWD/$out/benchmarks "$python" -m vlmeval.uni_dpo --config "$out/benchmarks/config.json" \
        --model "start=$checkpoint" "dpo=$out/dpo" "uni_dpo=$out/uni_dpo" --work-dir "$out/eval"
}

printf '== setup: packages and overlay\n'
bash scripts/setup.sh

code=(scripts/demo.py scripts/common.py scripts/demo)
checkpoint=data/demo/checkpoint
if $from_scratch; then
    checkpoint=$out/sft/checkpoint
    stage sft "the start checkpoint, from scratch" "${code[@]}" -- demo sft --out "$out/sft"
fi
stage world "drawn scenes and their questions" "${code[@]}" -- demo world --out "$out/world"
stage pairs "preference pairs sampled from the start checkpoint" "${code[@]}" "$checkpoint" -- \
    demo pairs --model "$checkpoint" --out "$out/pairs"
stage before "answers before training" "${code[@]}" "$checkpoint" "$out/pairs" -- \
    demo eval --model "$checkpoint" --pairs "$out/pairs" --out "$out/before.json"
stage uni_dpo "the Uni-DPO checkpoint" examples/uni_dpo/demo_uni_dpo.yaml "$checkpoint" "$out/pairs" \
    LlamaFactory/src -- train uni_dpo
stage after "answers after training" "${code[@]}" "$out/uni_dpo" "$out/pairs" -- \
    demo eval --model "$out/uni_dpo" --pairs "$out/pairs" --out "$out/after.json"
stage dpo "plain DPO, to compare with" examples/uni_dpo/demo_dpo.yaml "$checkpoint" "$out/pairs" \
    LlamaFactory/src -- train dpo
if has_vlmeval; then
    stage data "benchmarks for VLMEvalKit" "${code[@]}" -- demo benchmarks --out "$out/benchmarks"
    # Not the whole folder: evaluation unpacks the benchmarks' pictures into it.
    stage eval "VLMEvalKit's scores of start, DPO and Uni-DPO" "$out"/benchmarks/*.{json,tsv} "$checkpoint" \
        "$out/dpo" "$out/uni_dpo" VLMEvalKit -- evaluate
fi

printf '\n== summary (%d s in all)\n\n' "$SECONDS"
demo compare "$out/before.json" "$out/after.json" --out "$out/summary.txt"
if has_vlmeval; then
    printf "\nVLMEvalKit's table\n\n"
    "$python" scripts/summarize_eval.py "start=$out/eval/start" "dpo=$out/eval/dpo" "uni_dpo=$out/eval/uni_dpo" \
        --baseline start --out "$out/table"
else
    printf '\nWithout VLMEvalKit, which wants a C compiler (see setup above), its table is left out.\n'
fi
cat <<END

checkpoint   $out/uni_dpo
logs         $out/uni_dpo/trainer_log.jsonl, uni_dpo_pairs.jsonl (one line a pair)
pictures     $out/uni_dpo/*.png, $out/world/sheet.png
answers      $out/before.jsonl, $out/after.jsonl, $out/eval/*/*.xlsx
table        $out/table

What to type next
  a look at the pairs:      $python scripts/uni_dpo/data.py stats demo_pairs --dataset-dir $out/pairs --by kind
  noisier pairs:            $python scripts/demo.py pairs --mislabelled 0.3 --out $out/noisy
  the real model:           bash examples/uni_dpo/Qwen2_VL_2B_uni_dpo.sh --help
END

#!/usr/bin/env bash
# Uni-DPO against DPO and SimPO on Qwen2-VL-2B, with the published and with matched settings: see --help.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: bash examples/uni_dpo/Qwen2_VL_2B_study.sh [--only RUN ...] [--ablations] [--seeds N ...] [--eval FILE | none]
                                                  [--dry-run] [key=value ...]

Trains Qwen2-VL-2B on the scored MM-RLHF pairs in several ways, one after the other, evaluates every checkpoint in
VLMEvalKit and prints one table, with the published numbers beside it. What is needed, and where to put it, is as for
Qwen2_VL_2B_uni_dpo.sh. The same command goes on where it was interrupted and repeats nothing that is finished. A run
that fails does not stop the others; it is named at the end, and the exit status is 1.

runs
  uni_dpo         as published (Qwen2_VL_2B_uni_dpo.yaml)
  dpo, simpo      the baselines as published: a learning rate 12 times lower than Uni-DPO's; DPO also with another
                  beta and label smoothing
  dpo_matched, simpo_matched
                  the baselines with Uni-DPO's learning rate and beta, and without smoothing: the loss alone differs
  no_w_qual       Uni-DPO without the quality weight  (eta 0: every pair weighs one half)        } with --ablations,
  no_w_perf       Uni-DPO without the performance weight  (gamma 0: the weight is 1)             } or named after
  no_nll          Uni-DPO without the calibrated NLL term  (lambda 0)                            } --only

options
  --only RUN ...  these runs instead of the first five
  --ablations     also the last three
  --seeds N ...   each run once for every seed (default: the YAML's, 42)
  --eval FILE     benchmarks, as a config of `python -m vlmeval.uni_dpo` (default: VLMEvalKit/config.json, nine of
                  them); none: train only
  --dry-run       print every command, and the settings of every run as they would be used; needs no GPU, model or data
  key=value       goes to every run: an option of LlamaFactory, or a variable of the runner (MODEL=, DATA=, GPUS=, ...;
                  bash examples/uni_dpo/Qwen2_VL_2B_uni_dpo.sh --help lists them). What tells the runs apart is refused

Everything goes to OUTPUT (default: outputs/Qwen2_VL_2B_study): a folder RUN-SEED for each run, of roughly 30 GB with
the checkpoint that it can be resumed from; reference/, the reference's log-probs, which the first run that needs them
computes for all (uni_dpo_reference_cache= moves it); eval/, the answers; table/, the table.

examples
  GPUS=4 bash examples/uni_dpo/Qwen2_VL_2B_study.sh --dry-run                    # what four GPUs would do
  MODEL=/models/Qwen2-VL-2B bash examples/uni_dpo/Qwen2_VL_2B_study.sh           # published and matched
  bash examples/uni_dpo/Qwen2_VL_2B_study.sh --only uni_dpo dpo_matched --seeds 42 43 44
  bash examples/uni_dpo/Qwen2_VL_2B_study.sh --only no_w_perf uni_dpo_qual_eta=0.35 uni_dpo_tau_good=4
TEXT
}

help="bash examples/uni_dpo/Qwen2_VL_2B_study.sh --help"

die() {
    printf 'Qwen2_VL_2B_study: %s\n' "$1" >&2
    shift
    (($# == 0)) || printf '  %s\n' "$@" >&2
    exit 2
}

here="$(cd -P "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
published=(uni_dpo dpo simpo)
matched=(dpo_matched simpo_matched)
ablations=(no_w_qual no_w_perf no_nll)

# setting NAME: its value in Uni-DPO's YAML, the one place that says what matched settings are.
setting() { sed -n "s/^$1: *\([^ #]*\).*/\1/p" "$here/Qwen2_VL_2B_uni_dpo.yaml"; }

# differences RUN: set `config`, the YAML's name, and `own`, what the run changes in it.
differences() {
    config=$1 own=()
    case $1 in
        uni_dpo | dpo | simpo) ;;
        dpo_matched | simpo_matched)
            local smoothing
            smoothing=$(setting dpo_label_smoothing)
            config=${1%_matched}
            own=("learning_rate=$(setting learning_rate)" "pref_beta=$(setting pref_beta)"
                "dpo_label_smoothing=${smoothing:-0.0}")
            ;;
        no_w_qual) config=uni_dpo own=(uni_dpo_qual_eta=0) ;;
        no_w_perf) config=uni_dpo own=(uni_dpo_perf_gamma=0) ;;
        no_nll) config=uni_dpo own=(uni_dpo_nll_lambda=0) ;;
        *) die "there is no run '$1'" "there are: ${published[*]} ${matched[*]} ${ablations[*]}" ;;
    esac
    [[ $config == simpo ]] || own+=("uni_dpo_reference_cache=$cache") # SimPO has no reference
}

runs=() seeds=() given=() extra=() dry_run=()
out=${OUTPUT:-} cache='' benchmarks='' taking='' empty=''
for argument in "$@"; do
    if [[ $argument == -* || $argument == *=* ]]; then # a list ends here
        [[ -z $empty ]] || break
        taking=''
    fi
    case $argument in
        -h | --help)
            usage
            exit 0
            ;;
        --only | --seeds | --eval) taking=$argument empty=$argument ;;
        --ablations) extra=("${ablations[@]}") ;;
        --dry-run) dry_run=(--dry-run) ;;
        -*) die "unknown option '$argument'" "$help" ;;
        OUTPUT=*) out=${argument#*=} ;;
        uni_dpo_reference_cache=*) cache=${argument#*=} ;;
        learning_rate=* | pref_beta=* | pref_loss=* | dpo_label_smoothing=* | seed=* | output_dir=*)
            die "${argument%%=*} is what tells the runs apart, and '$argument' would be the same for all" \
                "seeds: --seeds N ...; the folder: OUTPUT=...; for the rest run Qwen2_VL_2B_dpo.sh and the like"
            ;;
        *=*)
            given+=("$argument")
            case $argument in MODEL=* | GPUS=*) export "${argument?}" ;; esac # evaluation needs them too
            ;;
        *)
            empty=''
            case $taking in
                --only) runs+=("$argument") ;;
                --seeds) seeds+=("$argument") ;;
                --eval) benchmarks=$argument taking='' ;;
                *) die "'$argument' is neither an option nor key=value" "$help" ;;
            esac
            ;;
    esac
done
[[ -z $empty ]] || die "$empty needs something after it" "$help"
for seed in "${seeds[@]}"; do [[ $seed =~ ^[0-9]{1,9}$ ]] || die "--seeds $seed: a seed is a whole number"; done

source "$here/python.sh"
[[ -n $out ]] || out=$root/outputs/Qwen2_VL_2B_study
[[ $out != '~/'* ]] || out=$HOME/${out:2}
[[ $out == /* ]] || out=$PWD/$out
cache=${cache:-$out/reference}
((${#runs[@]})) || runs=("${published[@]}" "${matched[@]}")
((${#seeds[@]})) || seeds=("$(setting seed)")
runs+=("${extra[@]}")
for run in "${runs[@]}"; do differences "$run"; done # refuses unknown names before anything starts
[[ -z $benchmarks || $benchmarks == none || -f $benchmarks ]] || die "--eval $benchmarks: there is no such file"

# A training or evaluation that is under way ends by the same Ctrl-C; this keeps the next one from starting.
trap 'echo "# stopped; the same command goes on from here" >&2; exit 130' INT TERM

# show_or_run COMMAND...: print it; run it unless this is a dry run.
show_or_run() {
    printf '%q ' "$@"
    echo
    ((${#dry_run[@]})) || "$@"
}

# train NAME SEED LABEL: one run through the runner, which resumes it, or says that it is finished.
train() {
    differences "$1"
    local command=(bash "$here/run.sh" "$here/Qwen2_VL_2B_$config.yaml" "${given[@]}" "${own[@]}" "seed=$2"
        "OUTPUT=$out/$3")
    printf '\n== %s\n' "$3"
    printf '%q ' "${command[@]}"
    echo
    "${command[@]}" "${dry_run[@]}"
}

# evaluate LABEL...: all benchmarks for the start model and these runs, then the table.
evaluate() {
    local models tables=("base=$out/eval/base") status=0 label launch=("$python") sets config
    config=${benchmarks:-$root/VLMEvalKit/config.json}
    read -ra sets < <("$python" -c 'import json, sys; print(*json.load(open(sys.argv[1]))["data"])' "$config")
    models=("base=$(start_model)")
    for label in "$@"; do
        models+=("$label=$out/$label")
        tables+=("$label=$out/eval/$label")
    done
    local gpus=${GPUS:-$("$python" -c 'import torch; print(torch.cuda.device_count())')}
    ((gpus < 2)) || launch+=(-m torch.distributed.run --standalone "--nproc_per_node=$gpus")
    ((gpus > 0)) || export CUDA_VISIBLE_DEVICES=
    printf '\n== evaluation\n'
    show_or_run "${launch[@]}" -m vlmeval.uni_dpo --config "$config" \
        --model "${models[@]}" --work-dir "$out/eval" || status=1
    show_or_run "$python" "$root/scripts/summarize_eval.py" "${tables[@]}" --baseline base --paper --data "${sets[@]}" \
        --out "$out/table" || status=1
    return $status
}

# start_model: the folder or hub id that the runner starts from.
start_model() {
    "$python" - "$here" "${MODEL:-$(setting model_name_or_path)}" <<'CODE'
import sys
sys.path.insert(0, sys.argv[1])
from launcher.settings import find_model, find_root
print(find_model(sys.argv[2], find_root()[0]))
CODE
}

can_evaluate() {
    [[ -f $root/scripts/summarize_eval.py ]] && "$python" -c '
import importlib.util, pathlib, sys
spec = importlib.util.find_spec("vlmeval")
sys.exit(spec is None or not pathlib.Path(spec.submodule_search_locations[0], "uni_dpo").is_dir())'
}

trained=() failed=()
for seed in "${seeds[@]}"; do
    for run in "${runs[@]}"; do
        label=$run-$seed
        [[ " ${trained[*]} ${failed[*]} " != *" $label "* ]] || continue
        if train "$run" "$seed" "$label"; then trained+=("$label"); else failed+=("$label"); fi
    done
done

status=0
if [[ $benchmarks == none || ${#trained[@]} == 0 ]]; then
    :
elif ! can_evaluate; then
    echo
    echo "# evaluation is left out: it needs the Uni-DPO repository, and VLMEvalKit with our adapter in $python"
elif ! evaluate "${trained[@]}"; then
    status=1
    echo "# some benchmarks have no result, see above; the same command tries them again" >&2
fi

((${#dry_run[@]})) || printf '\n# trained, in %s: %s\n' "$out" "${trained[*]:-nothing}"
if ((${#failed[@]})); then
    status=1
    echo "# FAILED: ${failed[*]} (why: above, or in $out/RUN-SEED.train.log); the same command goes on with them" >&2
fi
exit "$status"

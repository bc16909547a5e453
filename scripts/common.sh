# Shared by the scripts here; sourced, never run. Expects `set -euo pipefail`.

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
PYTHON="${PYTHON:-python3}"
readonly ROOT

heading() {
    printf '\n== %s\n' "$1"
}

# One line on stderr, then exit 1: what is wrong and what to do about it.
fail() {
    printf '%s: %s\n' "$(basename "$0")" "$1" >&2
    exit 1
}

# Everything pip can't bring. Checked before any venv exists, so that a bare
# machine gets one line to paste instead of a page of setuptools.
require_build_tools() {
    local packages="apt-get install gcc python3-dev python3-venv libssl-dev zlib1g-dev"
    command -v "$PYTHON" >/dev/null \
        || fail "no $PYTHON on PATH (Debian: $packages, or set PYTHON)"
    "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
        || fail "$("$PYTHON" -V 2>&1) at $(command -v "$PYTHON") is too old: set PYTHON to 3.11 or newer"
    "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null \
        || fail "$PYTHON has no venv module (Debian: $packages)"
    command -v "${CC:-gcc}" >/dev/null \
        || fail "no C compiler ${CC:-gcc} (Debian: $packages)"
    # Compiling is the only sure test: it finds Python.h and libc's headers too.
    printf '#include <Python.h>\n' \
        | "${CC:-gcc}" -fsyntax-only -xc -I"$(python_include)" - 2>/dev/null \
        || fail "${CC:-gcc} can not compile against Python.h of $PYTHON (Debian: $packages)"
    printf '#include <zlib.h>\n' | "${CC:-gcc}" -fsyntax-only -xc - 2>/dev/null \
        || fail "${CC:-gcc} finds no zlib.h (Debian: $packages)"
}

python_include() {
    "$PYTHON" -c 'import sysconfig; print(sysconfig.get_path("include"))'
}

# make_venv DIR: create it, or make it anew when it belongs to another Python.
make_venv() {
    local venv="$1" wanted
    wanted="$("$PYTHON" -c 'import sys; print(sys.version, sys.base_prefix)')"
    if [[ -x "$venv/bin/python" ]] && [[ "$(cat "$venv/.python" 2>/dev/null)" == "$wanted" ]]; then
        return
    fi
    heading "venv $(basename "$venv") with $("$PYTHON" -V) at $(command -v "$PYTHON")"
    "$PYTHON" -m venv --clear "$venv"
    # --group (PEP 735) needs pip 25.1; Debian 12 seeds venvs with 23.0.
    "$venv/bin/python" -m pip install --quiet --upgrade 'pip>=25.1'
    printf '%s\n' "$wanted" >"$venv/.python"
}

# install_group VENV GROUP: a dependency group of pyproject.toml.
install_group() {
    local venv="$1" group="$2" stamp
    stamp="$(cksum <"$ROOT/pyproject.toml")"
    if [[ "$(cat "$venv/.group-$group" 2>/dev/null)" == "$stamp" ]]; then
        return
    fi
    heading "dependencies of $group"
    "$venv/bin/python" -m pip install --quiet --group "$group"
    printf '%s\n' "$stamp" >"$venv/.group-$group"
}

# install_dev VENV: run-time, build and development dependencies, all read from
# pyproject.toml; nothing to do while that file is unchanged.
install_dev() {
    local venv="$1" stamp
    stamp="$(cksum <"$ROOT/pyproject.toml")"
    if [[ "$(cat "$venv/.dev" 2>/dev/null)" == "$stamp" ]]; then
        return
    fi
    heading "development dependencies"
    rm -f "$venv/.dev"
    "$venv/bin/python" -c '
import tomllib
with open("pyproject.toml", "rb") as file:
    tree = tomllib.load(file)
print("\n".join(tree["build-system"]["requires"] + tree["project"]["dependencies"]))
' >"$venv/requirements.txt"
    "$venv/bin/python" -m pip install --quiet --upgrade \
        --requirement "$venv/requirements.txt" --group dev
    printf '%s\n' "$stamp" >"$venv/.dev"
}

# run_pytest COMMAND...: a command that runs pytest and takes more arguments for it.
# Thousands of tests on a shared machine: in CI what failed runs once more. What passes the second
# time was upset by the machine and is named, to be mended; what fails twice is broken.
run_pytest() {
    local rc=0
    "$@" || rc=$?
    if ((rc == 1)) && [[ -n "${CI:-}" ]]; then
        heading "once more, what failed: to be mended even if it passes now"
        rc=0
        "$@" --last-failed --maxfail 5 -v || rc=$?
    fi
    return "$rc"
}

# What tests need of the repository.
TEST_SOURCES=(engine proxy tests benchmarks contrib docs scripts fuzz/README.md README.md
    CHANGELOG.md CONTRIBUTING.md LICENSE setup.py pyproject.toml)

# copy_sources DIR NAME...: for a build of its own. Timestamps are kept and objects stay, so only
# what changed is built again.
copy_sources() {
    local copy="$1" name
    shift
    mkdir -p "$copy"
    for name in "$@"; do
        if [[ -d "$copy/$name" ]]; then
            find "$copy/$name" -type f -not -name '*.so' -delete
        fi
    done
    tar -cf - --exclude='*.so' --exclude=__pycache__ "$@" | tar -C "$copy" -xf -
}

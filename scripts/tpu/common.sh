# shellcheck shell=bash
# What vm.sh and sweep.sh share: the settings of docs/tpu.md, and how a command is run or printed.
# Sourced without arguments, it takes --dry-run off theirs.

DRY_RUN=no
if [ "${1:-}" = --dry-run ]; then
    DRY_RUN=yes
    shift
fi

ZONE=${ZONE:-us-east5-b}
NAME=${NAME:-attention}
ACCELERATOR=${ACCELERATOR:-v6e-1}

die() {
    printf 'error: %s\n' "$*" >&2
    exit 2
}

# The software image that goes with a type of TPU: https://cloud.google.com/tpu/docs/runtimes
runtime_of() {
    case $1 in
        v6e-*) echo v2-alpha-tpuv6e ;;
        v5litepod-*) echo v2-alpha-tpuv5-lite ;;
        v5p-*) echo v2-alpha-tpuv5 ;;
        v2-* | v3-* | v4-*) echo tpu-ubuntu2204-base ;;
        *) die "ACCELERATOR=$1: set RUNTIME too, or choose among v6e-…, v5litepod-…, v5p-…, v4-…" ;;
    esac
}

check_settings() {
    [ -n "${PROJECT:-}" ] || die "PROJECT is not set: export PROJECT=<the id of your project>"
    local name
    for name in PROJECT ZONE NAME ACCELERATOR; do
        [[ ${!name} =~ ^[a-z][-a-z0-9.:]*$ ]] ||
            die "$name=${!name}: give lower-case letters, digits and hyphens"
    done
    [[ ${SPOT:=yes} =~ ^(yes|no)$ ]] || die "SPOT=$SPOT: give yes or no"
    RUNTIME=${RUNTIME:-$(runtime_of "$ACCELERATOR")}
}

# A word as a shell would need it typed.
quoted() {
    if [[ $1 =~ ^[-A-Za-z0-9_./:=,@%+~]+$ ]]; then
        printf '%s' "$1"
    else
        printf "'%s'" "$(printf '%s' "$1" | sed "s/'/'\\\\''/g")"
    fi
}

all_quoted() {
    local word separator=''
    for word in "$@"; do
        printf '%s%s' "$separator" "$(quoted "$word")"
        separator=' '
    done
}

run() {
    if [ "$DRY_RUN" = yes ]; then
        all_quoted "$@"
        echo
    else
        "$@"
    fi
}

# Refuses to begin without this program.
need() {
    [ "$DRY_RUN" = yes ] || command -v "$1" > /dev/null ||
        die "$1 is not installed: docs/tpu.md says how"
}

# This directory, changes that are not committed included, for a VM to unpack.
pack() {
    run mkdir -p dist
    run tar --exclude=./runs --exclude=./dist --exclude='./.venv*' --exclude=__pycache__ \
        --exclude='.*_cache' -czf dist/attention.tar.gz .
}

# So that a command goes on when the connection that started it ends.
detached() {
    echo "cd attention && . .venv/bin/activate && (PYTHONUNBUFFERED=1 nohup $1 > $2 2>&1 < /dev/null &)"
}

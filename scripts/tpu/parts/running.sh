# shellcheck shell=bash
# How a command is run or, in a dry run, printed. Sourced by vm.sh and sweep.sh without arguments,
# so that it takes --dry-run off theirs.

DRY_RUN=no
if [ "${1:-}" = --dry-run ]; then
    DRY_RUN=yes
    shift
fi

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

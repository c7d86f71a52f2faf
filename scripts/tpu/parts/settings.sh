# shellcheck shell=bash
# The settings of docs/tpu.md: their defaults, and what is refused. Sourced by vm.sh and sweep.sh.

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

#!/usr/bin/env bash
# A sweep over many TPU VMs: a Ray cluster with a CPU head. The guide is docs/tpu.md.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source-path=SCRIPTDIR
. scripts/tpu/common.sh
export RAY_USAGE_STATS_ENABLED=0

USAGE="usage: scripts/tpu/sweep.sh [--dry-run] COMMAND

  up              start the head; writes the cluster file dist/cluster.yaml
  run FLAG …      scripts/sweep.py with these flags, on the head, in the background
  logs            follow what it prints
  status          the VMs, and what waits for one
  fetch           copy its results to runs/
  down            delete the VMs and the head, and the runs on it

settings: PROJECT ZONE NAME ACCELERATOR RUNTIME SPOT=yes|no WORKERS"

CLUSTER=dist/cluster.yaml

# How many chips a VM of this type has.
chips() {
    case $ACCELERATOR in
        v6e-[148] | v5litepod-[148]) echo "${ACCELERATOR##*-}" ;;
        *) die "ACCELERATOR=$ACCELERATOR: a sweep takes v6e-1, -4, -8 or v5litepod-1, -4, -8" ;;
    esac
}

# A dry run writes it too: it costs nothing, and is for reading.
write_cluster_file() {
    local chips spot=true
    chips=$(chips)
    [ "$SPOT" = yes ] || spot=false
    mkdir -p dist
    sed -e "s/PROJECT/$PROJECT/; s/REGION/${ZONE%-*}/; s/ZONE/$ZONE/; s/NAME/$NAME/" \
        -e "s/ACCELERATOR/$ACCELERATOR/; s/RUNTIME/$RUNTIME/; s/SPOT/$spot/" \
        -e "s/WORKERS/$WORKERS/; s/CHIPS/$chips/" \
        scripts/tpu/cluster.yaml > "$CLUSTER"
}

up() {
    write_cluster_file
    pack
    run ray up --yes "$CLUSTER"
}

start() {
    [ $# -gt 0 ] || die "run what? run --config configs/copy.py --grid score=linear,mlp --seeds 8"
    # Named, for a cluster that has no TPU VM yet would be taken for one of CPUs. The last one counts.
    local sweep="python scripts/sweep.py --engine ray --address auto --resources TPU=1"
    run ray exec "$CLUSTER" "$(detached "$sweep $(all_quoted "$@")" sweep.log)"
}

down() {
    run ray down --yes "$CLUSTER"
    echo "what is left, such as VMs that were preempted, is to be deleted by hand:" >&2
    run gcloud compute tpus tpu-vm list --project="$PROJECT" --zone="$ZONE"
}

COMMAND=${1:-}
[ $# -eq 0 ] || shift
case $COMMAND in
    help | --help | -h) echo "$USAGE" && exit ;;
    '') die "which command? scripts/tpu/sweep.sh --help lists them" ;;
    up | run | logs | status | fetch | down) ;;
    *) die "$COMMAND: no such command; scripts/tpu/sweep.sh --help lists them" ;;
esac
[ "$COMMAND" = run ] || [ $# -eq 0 ] || die "$COMMAND: takes no arguments, got $*"
check_settings
[[ ${WORKERS:=4} =~ ^[1-9][0-9]*$ ]] || die "WORKERS=$WORKERS: give how many VMs at most"
need ray
need gcloud
[ "$COMMAND" = up ] || [ "$DRY_RUN" = yes ] || [ -e "$CLUSTER" ] ||
    die "$CLUSTER is not there: scripts/tpu/sweep.sh up writes it"
case $COMMAND in
    run) start "$@" ;;
    logs) run ray exec "$CLUSTER" 'tail -n 50 -F attention/sweep.log' ;;
    status) run ray exec "$CLUSTER" '. attention/.venv/bin/activate && ray status' ;;
    fetch) run ray rsync-down "$CLUSTER" /srv/runs/ runs/ ;;
    *) "$COMMAND" ;;
esac

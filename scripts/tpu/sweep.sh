#!/usr/bin/env bash
# A sweep over many TPU VMs: a Ray cluster with a CPU head. The guide is docs/tpu.md.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source-path=SCRIPTDIR
. scripts/tpu/parts/settings.sh
. scripts/tpu/parts/running.sh
. scripts/tpu/parts/cluster.sh
export RAY_USAGE_STATS_ENABLED=0

USAGE="usage: scripts/tpu/sweep.sh [--dry-run] COMMAND

  up              start the head; writes the cluster file dist/cluster.yaml
  run FLAG …      scripts/sweep.py with these flags, on the head, in the background
  logs            follow what it prints
  status          the VMs, and what waits for one
  fetch           copy its results to runs/
  down            delete the VMs and the head, and the runs on it

settings: PROJECT ZONE NAME ACCELERATOR RUNTIME SPOT=yes|no WORKERS"

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

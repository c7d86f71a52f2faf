#!/usr/bin/env bash
# One TPU VM, or one slice of several: from creating it to deleting it. The guide is docs/tpu.md.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source-path=SCRIPTDIR
. scripts/tpu/common.sh

USAGE="usage: scripts/tpu/vm.sh [--dry-run] COMMAND

  store           create a small CPU machine that keeps runs; prints its address
  create          ask for the TPU
  wait            until it is there
  install         copy this directory to it and install the package
  run COMMAND …   on all its hosts, in the background: run python train.py --config …
  logs            follow what the first host prints
  tensorboard     at http://localhost:6006
  fetch           copy its runs to runs/
  list            whatever costs money
  delete          the TPU, and what lies on its disk
  delete-store    the store, and all runs in it

settings: PROJECT ZONE NAME ACCELERATOR RUNTIME SPOT=yes|no STORE=<what \`store\` printed>"

tpu() {
    run gcloud compute tpus "$@" --project="$PROJECT" --zone="$ZONE"
}

everywhere() {
    tpu tpu-vm ssh "$NAME" --worker=all --command="$1"
}

store() {
    run gcloud compute instances create "$NAME-store" --project="$PROJECT" --zone="$ZONE" \
        --machine-type=e2-small --boot-disk-size=50GB \
        --image-family=ubuntu-2404-lts-amd64 --image-project=ubuntu-os-cloud \
        --metadata-from-file=startup-script=scripts/tpu/store.sh \
        --format='value(networkInterfaces[0].networkIP)'
}

create() {
    local spot=--spot
    [ "$SPOT" = yes ] || spot=
    tpu queued-resources create "$NAME" --node-id="$NAME" \
        --accelerator-type="$ACCELERATOR" --runtime-version="$RUNTIME" ${spot:+"$spot"}
}

state() {
    tpu queued-resources describe "$NAME" --format='value(state.state)'
}

wait_for_it() {
    local now=''
    if [ "$DRY_RUN" = yes ]; then
        state
        return
    fi
    while [ "$now" != ACTIVE ]; do
        [ -z "$now" ] || sleep "${POLL_SECONDS:-30}"
        now=$(state)
        echo "$now"
        case $now in
            FAILED | SUSPENDING | SUSPENDED) die "$NAME is $now: delete it and create it again" ;;
        esac
    done
}

install() {
    local unpack='mkdir -p attention && tar -xzf attention.tar.gz -C attention && cd attention'
    local mount=''
    [ -z "${STORE:-}" ] || mount=" && bash scripts/tpu/mount.sh $(quoted "$STORE")"
    pack
    tpu tpu-vm scp dist/attention.tar.gz "$NAME:" --worker=all
    everywhere "$unpack$mount && bash scripts/tpu/install.sh tpu,tasks"
}

start() {
    [ $# -gt 0 ] || die "run what? run python train.py --config configs/copy.py"
    [ -n "${STORE:-}" ] ||
        echo "note: without STORE the run is lost with the VM; a slice of several needs one" >&2
    everywhere "$(detached "$(all_quoted "$@")" run.log)"
}

fetch() {
    if [ -n "${STORE:-}" ]; then
        run gcloud compute scp "$NAME-store:/srv/runs" . --recurse \
            --project="$PROJECT" --zone="$ZONE"
    else
        tpu tpu-vm scp "$NAME:attention/runs" . --recurse
    fi
}

tensorboard() {
    tpu tpu-vm ssh "$NAME" --ssh-flag='-L 6006:localhost:6006' \
        --command='~/.local/bin/uvx tensorboard --logdir attention/runs'
}

list() {
    tpu queued-resources list
    tpu tpu-vm list
    run gcloud compute instances list --project="$PROJECT"
}

COMMAND=${1:-}
[ $# -eq 0 ] || shift
case $COMMAND in
    help | --help | -h) echo "$USAGE" && exit ;;
    '') die "which command? scripts/tpu/vm.sh --help lists them" ;;
    store | create | wait | install | run | logs | tensorboard | fetch | list | delete | delete-store) ;;
    *) die "$COMMAND: no such command; scripts/tpu/vm.sh --help lists them" ;;
esac
[ "$COMMAND" = run ] || [ $# -eq 0 ] || die "$COMMAND: takes no arguments, got $*"
check_settings
need gcloud
case $COMMAND in
    wait) wait_for_it ;;
    run) start "$@" ;;
    logs) tpu tpu-vm ssh "$NAME" --command='tail -n 50 -F attention/run.log' ;;
    delete) tpu queued-resources delete "$NAME" --force --quiet ;;
    delete-store)
        run gcloud compute instances delete "$NAME-store" --project="$PROJECT" --zone="$ZONE" \
            --quiet
        ;;
    *) "$COMMAND" ;;
esac

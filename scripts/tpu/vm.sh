#!/usr/bin/env bash
# One TPU VM, or one slice of several: from creating it to deleting it. The guide is docs/tpu.md.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source-path=SCRIPTDIR
. scripts/tpu/parts/settings.sh
. scripts/tpu/parts/running.sh
. scripts/tpu/parts/machines.sh
. scripts/tpu/parts/work.sh

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
    delete-store) delete_store ;;
    *) "$COMMAND" ;;
esac

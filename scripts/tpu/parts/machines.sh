# shellcheck shell=bash
# The machines of vm.sh, the TPU and the store: how they come, wait and go. Sourced by vm.sh.

tpu() {
    run gcloud compute tpus "$@" --project="$PROJECT" --zone="$ZONE"
}

store() {
    run gcloud compute instances create "$NAME-store" --project="$PROJECT" --zone="$ZONE" \
        --machine-type=e2-small --boot-disk-size=50GB \
        --image-family=ubuntu-2404-lts-amd64 --image-project=ubuntu-os-cloud \
        --metadata-from-file=startup-script=scripts/tpu/store.sh \
        --format='value(networkInterfaces[0].networkIP)'
}

delete_store() {
    run gcloud compute instances delete "$NAME-store" --project="$PROJECT" --zone="$ZONE" --quiet
}

create() {
    local flag=--spot
    [ "$SPOT" = yes ] || flag=
    tpu queued-resources create "$NAME" --node-id="$NAME" \
        --accelerator-type="$ACCELERATOR" --runtime-version="$RUNTIME" ${flag:+"$flag"}
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

list() {
    tpu queued-resources list
    tpu tpu-vm list
    run gcloud compute instances list --project="$PROJECT"
}

delete() {
    tpu queued-resources delete "$NAME" --force --quiet
}

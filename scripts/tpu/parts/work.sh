# shellcheck shell=bash
# What is done on the machines of vm.sh: the package installed, a command run, its results seen and
# fetched. Sourced by vm.sh.

everywhere() {
    tpu tpu-vm ssh "$NAME" --worker=all --command="$1"
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

logs() {
    tpu tpu-vm ssh "$NAME" --command='tail -n 50 -F attention/run.log'
}

tensorboard() {
    tpu tpu-vm ssh "$NAME" --ssh-flag='-L 6006:localhost:6006' \
        --command='~/.local/bin/uvx tensorboard --logdir attention/runs'
}

fetch() {
    if [ -n "${STORE:-}" ]; then
        run gcloud compute scp "$NAME-store:/srv/runs" . --recurse \
            --project="$PROJECT" --zone="$ZONE"
    else
        tpu tpu-vm scp "$NAME:attention/runs" . --recurse
    fi
}

# shellcheck shell=bash
# The Ray cluster of sweep.sh: its file, how it comes and goes, and the sweep on it. Sourced by
# sweep.sh.

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
    local chips is_spot=true
    chips=$(chips)
    [ "$SPOT" = yes ] || is_spot=false
    mkdir -p dist
    sed -e "s/PROJECT/$PROJECT/; s/REGION/${ZONE%-*}/; s/ZONE/$ZONE/; s/NAME/$NAME/" \
        -e "s/ACCELERATOR/$ACCELERATOR/; s/RUNTIME/$RUNTIME/; s/SPOT/$is_spot/" \
        -e "s/WORKERS/$WORKERS/; s/CHIPS/$chips/" \
        scripts/tpu/cluster/machines.yaml scripts/tpu/cluster/commands.yaml > "$CLUSTER"
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

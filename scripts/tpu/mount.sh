#!/usr/bin/env bash
# Runs on a VM: mounts the store that is at this address, and keeps the runs in it.
set -euo pipefail
cd "$(dirname "$0")/../.."
sudo apt-get -o DPkg::Lock::Timeout=300 update -q
sudo apt-get -o DPkg::Lock::Timeout=300 install -qy nfs-common
sudo mkdir -p /srv/runs
# What another VM wrote is to be seen within a second, not the usual half minute.
mountpoint -q /srv/runs || sudo mount -t nfs4 -o hard,actimeo=1 "$1:/srv/runs" /srv/runs
# Never within a runs/ that is there: training would go on writing to this VM's own disk.
[ -L runs ] || ln -sT /srv/runs runs || {
    echo "error: $PWD/runs is not the store's: move it away and install again" >&2
    exit 2
}

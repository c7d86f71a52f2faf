#!/usr/bin/env bash
# Runs on a VM, in its copy of this directory: installs the package with these extras, and whatever
# else is named, into .venv. uv brings the Python, for the images' own is older than JAX needs.
set -euo pipefail
cd "$(dirname "$0")/../.."
export PATH=$HOME/.local/bin:$PATH
command -v uv > /dev/null || curl -LsSf https://astral.sh/uv/install.sh | sh
[ -d .venv ] || uv venv --python 3.12 .venv
extras=$1
shift
uv pip install -e ".[$extras]" "$@"

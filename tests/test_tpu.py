"""The scripts of docs/tpu.md, without a cloud: what they would do, and what they refuse."""

import functools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import pytest
import yaml

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted((ROOT / "scripts" / "tpu").rglob("*.sh"))
TOOLS = ("bash", "cat", "dirname", "gzip", "ln", "mkdir", "nohup", "sed", "sleep", "tail", "tar")
AT = " --project=my-project --zone=us-east5-b"
TPUS = "gcloud compute tpus"

# In the place of gcloud, ray and what a VM has: each writes its arguments down; gcloud's ssh and
# scp act on directories, one a host; describe answers with the next of STATES.
FAKES = {
    "gcloud": f"#!{sys.executable}\n"
    """
import json, os, pathlib, shutil, subprocess, sys
*command, = sys.argv[1:]
here = pathlib.Path(os.environ["FAKE"])
with (here / "calls").open("a") as calls:
    calls.write(json.dumps(["gcloud", *command]) + "\\n")
hosts = [here / "host0", here / "host1"]
if "describe" in command:
    states = (here / "states").read_text().split()
    print(states.pop(0))
    (here / "states").write_text(" ".join(states))
elif "tpu-vm" in command and ("ssh" in command or "scp" in command):
    for host in hosts if "--worker=all" in command else hosts[:1]:
        host.mkdir(exist_ok=True)
        if "scp" in command:
            shutil.copy(command[4], host)
        else:
            line = next(word for word in command if word.startswith("--command="))
            subprocess.run(["bash", "-euc", line.removeprefix("--command=")], check=True,
                           cwd=host, env=os.environ | {"HOME": str(host)})
""",
    "ray": f"#!{sys.executable}\n"
    """
import json, os, pathlib, sys
with (pathlib.Path(os.environ["FAKE"]) / "calls").open("a") as calls:
    calls.write(json.dumps(["ray", *sys.argv[1:]]) + "\\n")
""",
    "uv": """#!/bin/bash -eu
echo "uv $*" >> "$FAKE/uv"
[ "$1" != venv ] || { mkdir -p .venv/bin && echo export ACTIVE=yes > .venv/bin/activate; }
""",
    "sudo": """#!/bin/bash
echo "sudo $*" >> "$FAKE/sudo"
""",
    "mountpoint": "#!/bin/bash\nexit 1\n",
}


class Copy:
    """The scripts in a directory of their own, with nothing but fakes to call."""

    def __init__(self, path):
        self.path = path
        self.bin, self.fake = path / "bin", path / "fake"
        (path / "scripts").mkdir()
        shutil.copytree(ROOT / "scripts" / "tpu", path / "scripts" / "tpu")
        self.bin.mkdir()
        self.fake.mkdir()
        for tool in TOOLS:
            (self.bin / tool).symlink_to(shutil.which(tool))
        for name, text in FAKES.items():
            (self.bin / name).write_text(text)
            (self.bin / name).chmod(0o755)

    def run(self, script, *arguments, **settings):
        """A script, with these settings and no others."""
        settings = {"PROJECT": "my-project", "PATH": str(self.bin), **settings}
        return subprocess.run(
            [self.path / "scripts" / "tpu" / script, *arguments],
            env={name: value for name, value in settings.items() if value is not None}
            | {"FAKE": str(self.fake)},
            capture_output=True,
            text=True,
            timeout=20,
        )

    def printed(self, script, *arguments, **settings):
        """The lines of a dry run that succeeds."""
        done = self.run(script, "--dry-run", *arguments, **settings)
        assert done.returncode == 0, done.stderr
        assert self.calls() == []
        return done.stdout.splitlines()

    def calls(self):
        """What gcloud and ray were called with."""
        calls = self.fake / "calls"
        return (
            [json.loads(line) for line in calls.read_text().splitlines()] if calls.exists() else []
        )


@pytest.fixture
def copy(tmp_path):
    return Copy(tmp_path)


IN_BACKGROUND = "cd attention && . .venv/bin/activate && (PYTHONUNBUFFERED=1 nohup"
UNPACK = "mkdir -p attention && tar -xzf attention.tar.gz -C attention && cd attention"
PACK = (
    "mkdir -p dist",
    "tar --exclude=./runs --exclude=./dist '--exclude=./.venv*' --exclude=__pycache__"
    " '--exclude=.*_cache' -czf dist/attention.tar.gz .",
)
EACH_COMMAND = [
    (
        "vm.sh store",
        f"gcloud compute instances create attention-store{AT} --machine-type=e2-small"
        " --boot-disk-size=50GB --image-family=ubuntu-2404-lts-amd64"
        " --image-project=ubuntu-os-cloud"
        " --metadata-from-file=startup-script=scripts/tpu/store.sh"
        " '--format=value(networkInterfaces[0].networkIP)'",
    ),
    (
        "vm.sh create",
        f"{TPUS} queued-resources create attention --node-id=attention --accelerator-type=v6e-1"
        f" --runtime-version=v2-alpha-tpuv6e --spot{AT}",
    ),
    (
        "vm.sh wait",
        f"{TPUS} queued-resources describe attention '--format=value(state.state)'{AT}",
    ),
    (
        "vm.sh install",
        *PACK,
        f"{TPUS} tpu-vm scp dist/attention.tar.gz attention: --worker=all{AT}",
        f"{TPUS} tpu-vm ssh attention --worker=all"
        f" '--command={UNPACK} && bash scripts/tpu/install.sh tpu,tasks'{AT}",
    ),
    (
        "vm.sh run python train.py --config configs/copy.py",
        f"{TPUS} tpu-vm ssh attention --worker=all '--command={IN_BACKGROUND} python train.py"
        f" --config configs/copy.py > run.log 2>&1 < /dev/null &)'{AT}",
    ),
    (
        "vm.sh logs",
        f"{TPUS} tpu-vm ssh attention '--command=tail -n 50 -F attention/run.log'{AT}",
    ),
    (
        "vm.sh tensorboard",
        f"{TPUS} tpu-vm ssh attention '--ssh-flag=-L 6006:localhost:6006'"
        f" '--command=~/.local/bin/uvx tensorboard --logdir attention/runs'{AT}",
    ),
    ("vm.sh fetch", f"{TPUS} tpu-vm scp attention:attention/runs . --recurse{AT}"),
    (
        "vm.sh list",
        f"{TPUS} queued-resources list{AT}",
        f"{TPUS} tpu-vm list{AT}",
        "gcloud compute instances list --project=my-project",
    ),
    ("vm.sh delete", f"{TPUS} queued-resources delete attention --force --quiet{AT}"),
    ("vm.sh delete-store", f"gcloud compute instances delete attention-store{AT} --quiet"),
    ("sweep.sh up", *PACK, "ray up --yes dist/cluster.yaml"),
    (
        "sweep.sh run --config configs/copy.py --grid score=linear,mlp --seeds 8",
        f"ray exec dist/cluster.yaml '{IN_BACKGROUND} python scripts/sweep.py --engine ray"
        " --address auto --resources TPU=1 --config configs/copy.py --grid score=linear,mlp"
        " --seeds 8 > sweep.log 2>&1 < /dev/null &)'",
    ),
    ("sweep.sh logs", "ray exec dist/cluster.yaml 'tail -n 50 -F attention/sweep.log'"),
    (
        "sweep.sh status",
        "ray exec dist/cluster.yaml '. attention/.venv/bin/activate && ray status'",
    ),
    ("sweep.sh fetch", "ray rsync-down dist/cluster.yaml /srv/runs/ runs/"),
    ("sweep.sh down", "ray down --yes dist/cluster.yaml", f"{TPUS} tpu-vm list{AT}"),
]


@pytest.mark.parametrize(("typed", *["expected"]), [(t, e) for t, *e in EACH_COMMAND])
def test_a_dry_run_prints_each_command(copy, typed, expected):
    assert copy.printed(*typed.split()) == expected


def test_every_command_is_covered():
    tested = {tuple(typed.split()[:2]) for typed, *_ in EACH_COMMAND}
    for script in ("vm.sh", "sweep.sh"):
        usage = (ROOT / "scripts" / "tpu" / script).read_text()
        listed = re.findall(r"^  ([a-z-]+)(?: \w+ …)?  ", usage, re.MULTILINE)
        assert {command for s, command in tested if s == script} == set(listed)


@pytest.mark.parametrize(
    "typed", ["vm.sh create", "vm.sh list", "vm.sh store", "vm.sh delete", "sweep.sh down"]
)
def test_what_is_printed_is_what_is_called(copy, typed):
    printed = copy.printed(*typed.split())
    (copy.path / "dist").mkdir()
    (copy.path / "dist" / "cluster.yaml").touch()
    assert copy.run(*typed.split()).returncode == 0
    assert copy.calls() == [shlex.split(line) for line in printed]


@pytest.mark.parametrize(
    ("accelerator", "runtime"),
    [
        ("v6e-16", "v2-alpha-tpuv6e"),
        ("v5litepod-4", "v2-alpha-tpuv5-lite"),
        ("v5p-8", "v2-alpha-tpuv5"),
        ("v4-8", "tpu-ubuntu2204-base"),
    ],
)
def test_settings(copy, accelerator, runtime):
    settings = {"ACCELERATOR": accelerator, "SPOT": "no", "NAME": "mine", "ZONE": "us-west4-a"}
    (printed,) = copy.printed("vm.sh", "create", **settings)
    assert printed == (
        f"{TPUS} queued-resources create mine --node-id=mine --accelerator-type={accelerator}"
        f" --runtime-version={runtime} --project=my-project --zone=us-west4-a"
    )
    (printed,) = copy.printed("vm.sh", "create", **settings, RUNTIME="another")
    assert "--runtime-version=another " in printed


def test_a_store_is_mounted_and_fetched_from(copy):
    *_, install = copy.printed("vm.sh", "install", STORE="10.1.2.3")
    assert f"{UNPACK} && bash scripts/tpu/mount.sh 10.1.2.3 && bash" in install
    (fetch,) = copy.printed("vm.sh", "fetch", STORE="10.1.2.3")
    assert fetch == f"gcloud compute scp attention-store:/srv/runs . --recurse{AT}"


@pytest.mark.parametrize(
    ("typed", "settings", "told"),
    [
        ("vm.sh", {}, "which command? scripts/tpu/vm.sh --help lists them"),
        ("sweep.sh", {}, "which command? scripts/tpu/sweep.sh --help lists them"),
        ("vm.sh crate", {}, "crate: no such command; scripts/tpu/vm.sh --help lists them"),
        ("sweep.sh start", {}, "start: no such command; scripts/tpu/sweep.sh --help lists them"),
        ("vm.sh delete all", {}, "delete: takes no arguments, got all"),
        ("sweep.sh up now", {}, "up: takes no arguments, got now"),
        ("vm.sh run", {}, "run what? run python train.py --config configs/copy.py"),
        (
            "vm.sh create",
            {"PROJECT": None},
            "PROJECT is not set: export PROJECT=<the id of your project>",
        ),
        ("vm.sh create", {"NAME": "a b"}, "NAME=a b: give lower-case letters, digits and hyphens"),
        (
            "vm.sh create",
            {"ACCELERATOR": "h100-8"},
            "ACCELERATOR=h100-8: set RUNTIME too, or choose among v6e-…, v5litepod-…, v5p-…, v4-…",
        ),
        ("vm.sh create", {"SPOT": "maybe"}, "SPOT=maybe: give yes or no"),
        ("vm.sh create", {"PATH": "no gcloud"}, "gcloud is not installed: docs/tpu.md says how"),
        ("sweep.sh up", {"PATH": "no ray"}, "ray is not installed: docs/tpu.md says how"),
        ("sweep.sh up", {"WORKERS": "0"}, "WORKERS=0: give how many VMs at most"),
        (
            "sweep.sh up",
            {"ACCELERATOR": "v6e-16"},
            "ACCELERATOR=v6e-16: a sweep takes v6e-1, -4, -8 or v5litepod-1, -4, -8",
        ),
        ("sweep.sh down", {}, "dist/cluster.yaml is not there: scripts/tpu/sweep.sh up writes it"),
    ],
)
def test_bad_input_is_one_line(copy, typed, settings, told):
    path = settings.get("PATH", "")
    if path:
        (copy.bin / path.removeprefix("no ")).unlink()
        settings = {}
    done = copy.run(*typed.split(), **settings)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"error: {told}\n")
    assert copy.calls() == []


@pytest.mark.parametrize(
    ("states", "status", "error"),
    [
        ("WAITING_FOR_RESOURCES PROVISIONING ACTIVE", 0, ""),
        (
            "WAITING_FOR_RESOURCES FAILED",
            2,
            "error: attention is FAILED: delete it and create it again\n",
        ),
        ("SUSPENDED", 2, "error: attention is SUSPENDED: delete it and create it again\n"),
    ],
)
def test_waiting(copy, states, status, error):
    (copy.fake / "states").write_text(states + " NEVER")
    done = copy.run("vm.sh", "wait", POLL_SECONDS="0")
    assert (done.returncode, done.stderr) == (status, error)
    assert done.stdout.split() == states.split()


def test_every_host_installs_and_runs_in_the_background(copy):
    (copy.path / "runs").mkdir()
    (copy.path / "work.sh").write_text('echo "$ACTIVE $1"; sleep 0.5; echo ended > ended\n')
    assert copy.run("vm.sh", "install", STORE="10.1.2.3").returncode == 0
    uv = ["uv venv --python 3.12 .venv", "uv pip install -e .[tpu,tasks]"]
    assert (copy.fake / "uv").read_text().splitlines() == uv * 2
    mount = "sudo mount -t nfs4 -o hard,actimeo=1 10.1.2.3:/srv/runs /srv/runs"
    assert (copy.fake / "sudo").read_text().splitlines().count(mount) == 2
    argument = "it's $HOME; exit 1"
    started = time.perf_counter()
    assert copy.run("vm.sh", "run", "bash", "work.sh", argument).returncode == 0
    hosts = [copy.fake / host / "attention" for host in ("host0", "host1")]
    assert not any((host / "ended").exists() for host in hosts)
    while not all((host / "ended").exists() for host in hosts):
        assert time.perf_counter() - started < 10
        time.sleep(0.05)
    for host in hosts:
        assert (host / "run.log").read_text() == f"yes {argument}\n"
        assert (host / "runs").readlink() == Path("/srv/runs")


def test_a_vm_whose_runs_would_not_lie_on_the_store_is_refused(copy):
    runs = copy.path / "runs"
    runs.mkdir()
    done = copy.run("mount.sh", "10.1.2.3")
    assert done.returncode == 2
    told = f"error: {runs} is not the store's: move it away and install again\n"
    assert done.stderr.endswith(told)
    assert list(runs.iterdir()) == []
    runs.rmdir()
    for _ in range(2):
        assert copy.run("mount.sh", "10.1.2.3").returncode == 0
        assert runs.readlink() == Path("/srv/runs")


# What a request may say, from the references of the two APIs: projects.locations.nodes of
# tpu.googleapis.com/v2, without what is only for output, and instances of
# compute.googleapis.com/v1. An empty dict stands for a value.
TPU_NODE = {
    "acceleratorConfig": {"type": {}, "topology": {}},
    "acceleratorType": {},
    "cidrBlock": {},
    "dataDisks": {"mode": {}, "sourceDisk": {}},
    "description": {},
    "labels": "any",
    "metadata": "any",
    "networkConfig": {
        "canIpForward": {},
        "enableExternalIps": {},
        "network": {},
        "queueCount": {},
        "subnetwork": {},
    },
    "runtimeVersion": {},
    "schedulingConfig": {"preemptible": {}, "reserved": {}, "spot": {}},
    "serviceAccount": {"email": {}, "scope": {}},
    "shieldedInstanceConfig": {"enableSecureBoot": {}},
    "tags": {},
}
INSTANCE = {
    "disks": {
        "autoDelete": {},
        "boot": {},
        "deviceName": {},
        "diskSizeGb": {},
        "mode": {},
        "source": {},
        "type": {},
        "initializeParams": {"diskName": {}, "diskSizeGb": {}, "diskType": {}, "sourceImage": {}},
    },
    "labels": "any",
    "machineType": {},
    "name": {},
    "networkInterfaces": {
        "accessConfigs": {"name": {}, "type": {}},
        "network": {},
        "subnetwork": {},
    },
    "scheduling": {"preemptible": {}, "provisioningModel": {}},
    "serviceAccounts": {"email": {}, "scopes": {}},
}


def unknown(request, fields, path=""):
    """The keys of a request that an API has no field for."""
    if isinstance(request, list):
        return [key for one in request for key in unknown(one, fields, path)]
    if fields == "any" or not isinstance(request, dict):
        return [] if fields in ({}, "any") else [f"{path} is a value"]
    found = []
    for key, value in request.items():
        if key in fields:
            found += unknown(value, fields[key], f"{path}.{key}")
        else:
            found.append(f"{path}.{key}")
    return found


def test_unknown_keys_are_found():
    node = {"acceleratorType": "v4-8", "schedulingConfig": {"sport": True}, "state": "READY"}
    assert unknown(node, TPU_NODE) == [".schedulingConfig.sport", ".state"]
    assert unknown({"schedulingConfig": True}, TPU_NODE) == [".schedulingConfig is a value"]
    assert unknown({"disks": [{"boot": True}, {"size": 1}]}, INSTANCE) == [".disks.size"]


SETTINGS = {"ACCELERATOR": "v5litepod-4", "ZONE": "us-west4-a", "NAME": "mine", "WORKERS": "7"}


@pytest.fixture
def cluster(copy):
    """The cluster file as it is written."""
    copy.printed("sweep.sh", "up", **SETTINGS)
    text = (copy.path / "dist" / "cluster.yaml").read_text()
    assert re.findall(r"\b(PROJECT|REGION|ZONE|NAME|ACCELERATOR|SPOT|WORKERS|CHIPS)\b", text) == []
    return yaml.safe_load(text)


def test_the_settings_reach_the_cluster_file(copy, cluster):
    assert (cluster["cluster_name"], cluster["max_workers"]) == ("mine", 7)
    assert cluster["provider"] == {
        "type": "gcp",
        "project_id": "my-project",
        "region": "us-west4",
        "availability_zone": "us-west4-a",
        "cache_stopped_nodes": False,
    }
    head, tpu = (cluster["available_node_types"][name] for name in ("head", "tpu"))
    assert head["resources"] == {"CPU": 0}
    assert (tpu["min_workers"], tpu["max_workers"]) == (0, 7)
    assert tpu["resources"] == {"CPU": 8, "TPU": 4}
    assert tpu["node_config"] == {
        "acceleratorType": "v5litepod-4",
        "runtimeVersion": "v2-alpha-tpuv5-lite",
        "schedulingConfig": {"spot": True},
    }
    copy.printed("sweep.sh", "up", SPOT="no")
    again = yaml.safe_load((copy.path / "dist" / "cluster.yaml").read_text())
    tpu = again["available_node_types"]["tpu"]["node_config"]
    assert tpu["schedulingConfig"] == {"spot": False}


def test_a_head_whose_runs_would_not_lie_on_the_store_is_refused(cluster, tmp_path):
    (link,) = [one for one in cluster["head_setup_commands"] if one.startswith("ln ")]
    runs = tmp_path / "attention" / "runs"
    runs.mkdir(parents=True)
    run = functools.partial(subprocess.run, link, shell=True, env={"HOME": str(tmp_path)})
    assert run(stderr=subprocess.DEVNULL).returncode
    assert list(runs.iterdir()) == []
    runs.rmdir()
    for _ in range(2):
        run(check=True)
        assert runs.readlink() == Path("/srv/runs")


def test_the_head_checks_every_task_and_draws_and_the_vms_train_every_task(cluster):
    head, vm = (
        [one for one in cluster[f"{kind}_setup_commands"] if "install.sh" in one]
        for kind in ("head", "worker")
    )
    assert [shlex.split(one)[2:] for one in head + vm] == [
        ["sweep,tasks", "ray[default]==2.60.0", "google-api-python-client", "matplotlib"],
        ["sweep,tpu,tasks", "ray[default]==2.60.0"],
    ]


def test_ray_takes_the_cluster_file(cluster):
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(cluster)
    validate_config(prepared)
    # Commands that begin a YAML block or hold a colon are easily read as something else.
    listed = [name for name in prepared if name.endswith("_commands")]
    assert len(listed) == 6
    assert all(isinstance(command, str) for name in listed for command in prepared[name])
    for command in (command for name in listed for command in prepared[name]):
        for script in re.findall(r"attention/(scripts/\S+)", command):
            assert (ROOT / script).exists()
    with pytest.raises(Exception, match="idle_minutes"):
        validate_config({**prepared, "idle_minutes": 5})


def test_what_ray_asks_google_for_has_no_unknown_key(cluster):
    from ray.autoscaler._private.gcp.config import _configure_subnet
    from ray.autoscaler._private.gcp.node import GCPTPU, GCPCompute, GCPNodeType
    from ray.autoscaler._private.gcp.node_provider import GCPNodeProvider, get_node_type

    google = mock.MagicMock()
    google.subnetworks().list().execute.return_value = {"items": [{"selfLink": "subnets/one"}]}
    complete = _configure_subnet(cluster, google)
    complete = GCPNodeProvider.fillout_available_node_types_resources(complete)
    head, tpu = (complete["available_node_types"][name] for name in ("head", "tpu"))
    assert tpu["resources"] == {"CPU": 8, "TPU": 4, "TPU-v5litepod-4-head": 1}
    kinds = [get_node_type(one["node_config"]) for one in (head, tpu)]
    assert kinds == [GCPNodeType.COMPUTE, GCPNodeType.TPU]

    account = {"serviceAccounts": [{"email": "ray@my-project", "scopes": ["cloud-platform"]}]}
    labels = {"ray-node-name": "ray-mine"}
    place = ("my-project", "us-west4-a", "mine")
    GCPCompute(google, *place).create_instance(head["node_config"] | account, labels, False)
    asked = google.instances().insert.call_args.kwargs["body"]
    assert asked["machineType"].endswith("e2-standard-4")
    assert unknown(asked, INSTANCE) == []
    GCPTPU(google, *place).create_instance(tpu["node_config"], labels, False)
    asked = google.projects().locations().nodes().create.call_args.kwargs["body"]
    assert asked["schedulingConfig"] == {"spot": True}
    assert unknown(asked, TPU_NODE) == []


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shell_scripts_are_sound(script):
    checks = [["bash", "-n", script]]
    if shutil.which("shellcheck"):
        checks.append(["shellcheck", "--external-sources", "--source-path", ROOT, script])
    for check in checks:
        done = subprocess.run(check, capture_output=True, text=True, cwd=ROOT)
        assert (done.returncode, done.stdout + done.stderr) == (0, "")
    text = script.read_text()
    if script.parent.name != "parts":  # those are sourced by others
        assert os.access(script, os.X_OK)
        assert text.startswith("#!/usr/bin/env bash\n")
        assert "\nset -euo pipefail\n" in text


def test_the_commands_of_the_guide_are_taken(copy):
    guide = (ROOT / "docs" / "tpu.md").read_text()
    typed = set(re.findall(r"scripts/tpu/((?:vm|sweep)\.sh [^`)\n]+)", guide))
    assert len(typed) > 15
    for one in typed:
        words = [word for word in shlex.split(one) if word != "--dry-run"]
        assert copy.printed(*words), one
    for setting in re.findall(r"^\| `([A-Z]+)` \|", guide, re.MULTILINE):
        assert setting in " ".join(path.read_text() for path in SCRIPTS)

"""A Ray cluster of two machines, each with a TPU, or so it says; both are processes here.

Prints its address and the process of the second machine, which a line of input kills, with all that
runs there; the end of input ends the rest.
"""

import sys

from ray.cluster_utils import Cluster

cluster = Cluster(
    initialize_head=True,
    head_node_args={"num_cpus": 1, "resources": {"TPU": 1}, "include_dashboard": False},
)
second = cluster.add_node(num_cpus=1, resources={"TPU": 1})
(raylet,) = second.all_processes["raylet"]
print(cluster.address, raylet.process.pid, flush=True)
if sys.stdin.readline():
    cluster.remove_node(second, allow_graceful=False)
    sys.stdin.readline()
cluster.shutdown()

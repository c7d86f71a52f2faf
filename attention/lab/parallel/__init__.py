"""Parallel: devices, hosts and replicas, and how all of them are interrupted."""

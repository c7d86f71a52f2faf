"""Shared by all tests."""

import os
import tempfile

import jax
import pytest

# Compiling is most of what these tests do. Without LLVM's optimizations, and with XLA's old
# emitters, it takes a third of the time; in one part, a seventh less. JAX 0.12 ends a process that
# is given the second flag, for its XLA does not know it any more.
FLAGS = ["--xla_cpu_parallel_codegen_split_count=1"]
if jax.__version_info__ < (0, 12):
    FLAGS.append("--xla_cpu_use_fusion_emitters=false")


def pytest_addoption(parser):
    parser.addoption(
        "--optimized",
        action="store_true",
        help="compile as users do, for the tests of exactness: XLA reorders what it may",
    )


def pytest_configure(config):
    if not config.getoption("optimized"):
        os.environ.setdefault("XLA_FLAGS", " ".join(FLAGS))
        configure_jax(jax_disable_most_optimizations=True)


def configure_jax(**values):
    """Sets options of JAX, for this process and for the programs that tests start."""
    for name, value in values.items():
        jax.config.update(name, value)
        os.environ[name.upper()] = str(value)


# What one worker, or a program that a test starts, has compiled, no other compiles again. Each
# session begins with nothing: what an earlier one left could hide what a change has broken.
if "PYTEST_XDIST_WORKER" not in os.environ:  # which has that of the process that started it
    COMPILED = tempfile.TemporaryDirectory(prefix="compiled-")
    configure_jax(
        jax_compilation_cache_dir=COMPILED.name,
        jax_persistent_cache_min_compile_time_secs=0.0,
        jax_persistent_cache_enable_xla_caches="none",
    )

# What starts programs takes longest, up to a minute a test.
LONGEST = ("test_hosts", "test_ray_cluster", "test_devices", "test_sharded", "test_cost")


def pytest_collection_modifyitems(items):
    """They come first, or one worker would end long after the other."""
    items.sort(key=lambda item: item.path.stem not in LONGEST)


@pytest.fixture
def strict():
    """No silent change of dtype or rank: for the modules that others import."""
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield

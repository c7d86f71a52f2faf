"""Shared by all tests."""

import os

import jax
import pytest

# Compiling is most of what these tests do, and this makes it three times faster. The
# environment counts for programs that tests start, too. JAX 0.12 ends a process that is given the
# flag, for its XLA does not know it any more.
if jax.__version_info__ < (0, 12):
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture
def strict():
    """No silent change of dtype or rank: for the modules that others import."""
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield

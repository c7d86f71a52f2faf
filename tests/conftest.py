"""Shared by all tests."""

import jax
import pytest


@pytest.fixture
def strict():
    """No silent change of dtype or rank: for the modules that others import."""
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield

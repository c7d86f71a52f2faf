import jax
import jax.numpy as jnp
import pytest

from attention.lab.training.arrays import bytes_of, largest_array, scopes

A, B, C = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((3, 5), (5, 7), (7,)))


def of(function, *shapes):
    return largest_array(jax.make_jaxpr(function)(*shapes))


@pytest.mark.parametrize(
    ("function", "numbers"),
    [
        (lambda a, b: a @ b, 5 * 7),
        (lambda a, b: jnp.sum(jnp.exp(a @ b)), 5 * 7),
        (lambda a, b: jnp.exp(a) + 1, 0),  # fused with what reads it
        (lambda a, b: jnp.sort(a), 3 * 5),
        (lambda a, b: jax.jit(jnp.sort)(a), 3 * 5),
        (lambda a, b: jax.lax.scan(lambda c, _: (c, jnp.exp(b)), 0, length=11)[1], 11 * 5 * 7),
        (lambda a, b: jax.lax.scan(lambda c, _: (c, jnp.sum(a @ b)), 0, length=2)[1], 5 * 7),
        (lambda a, b: jax.lax.cond(True, lambda: jnp.sum(a @ b), lambda: jnp.sum(a)), 0),
        (lambda a, b: jnp.broadcast_to(b[0], (97, 7)) @ jnp.ones((7, 2)), 97 * 2),
    ],
)
def test_the_largest_array_is_one_that_no_compiler_does_without(function, numbers):
    assert of(function, A, B) == 4 * numbers


def test_arrays_are_counted_that_could_not_be_made():
    huge = jax.ShapeDtypeStruct((2**30, 2**30), jnp.float32)
    assert of(lambda x: x @ x, huge) == 2**62
    assert bytes_of({"a": huge, "b": jax.ShapeDtypeStruct((7,), jnp.int8)}) == 2**62 + 7


def test_the_scopes_of_a_program_are_found_wherever_they_are():
    def named(x):
        with jax.named_scope("here"):
            return jnp.exp(x)

    program = jax.make_jaxpr(jax.jit(jax.vmap(jax.grad(named))))(C)
    assert "here" in scopes(program)
    assert "here" not in scopes(jax.make_jaxpr(jnp.exp)(C))

"""That `scripts/benchmark.py --decoding` compares steps that give the same contexts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from attention.lab.benchmarks import decoding
from attention.lab.benchmarks.decoding import BATCH, HERE, PLAIN, Decoder
from attention.lab.commands import benchmark

STEPS, KEYS = 3, 7


@pytest.mark.parametrize("score", decoding.SCORES)
def test_a_step_here_and_in_plain_jax_give_the_same_contexts(score):
    contenders = decoding.decoders(score, STEPS, KEYS)
    given, positions = decoding.vectors(STEPS), jnp.full(BATCH, KEYS - STEPS, jnp.int32)
    plain, here = (contenders[name].turn(given, positions) for name in (PLAIN, HERE))
    again = contenders[HERE].turn(given, positions)
    for a, b, c in zip(plain, here, again, strict=True):
        np.testing.assert_allclose(b, a, atol=1e-5)
        np.testing.assert_array_equal(c, b)  # each turn begins where the turn before began
    assert np.max(np.abs(plain[0] - plain[1])) > 0.1


@pytest.mark.parametrize("score", decoding.SCORES)
def test_caches_are_given_away_and_written_in_place(score):
    for decoder in decoding.decoders(score, STEPS, KEYS).values():
        before = jax.tree.leaves(decoder.cache)
        decoder.turn(decoding.vectors(STEPS), jnp.full(BATCH, KEYS - STEPS, jnp.int32))
        assert sum(leaf.is_deleted() for leaf in before) == 2  # keys and values


def test_its_flags_reach_it_and_what_it_tells_is_printed(run, monkeypatch, capsys):
    monkeypatch.setattr(benchmark.decoding, "report", lambda *asked: map(str, asked))
    assert run("--decoding", "--rounds=3", "--steps=5", "--keys=7") == 0
    assert capsys.readouterr().out == "3\n5\n7\n"


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--steps=8", "--keys=7"], "--steps=8 must be at most --keys=7"),
        (["--keys=x"], "flag --keys=x: 'x' is not a whole number from 1"),
        (["--scores=mlp"], "Unknown command line flag 'scores'"),
        (["mlp"], "'mlp' is not a flag; flags begin with --"),
    ],
)
def test_a_bad_flag_is_refused_in_a_line(run, capsys, flags, told):
    assert run("--decoding", *flags) == 2
    assert capsys.readouterr().err == f"error: {told}\n"


def test_a_report_has_a_line_a_contender(monkeypatch):
    # Turns take 1, 2, 1, 4 seconds, after two that warm up, of which only the start is looked at.
    clock = iter([7.0, 7.0, 0.0, 1.0, 0.0, 2.0, 0.0, 1.0, 0.0, 4.0] * 2)
    stub = {name: Decoder(print, None, print, 0.25) for name in (PLAIN, HERE)}
    monkeypatch.setattr(Decoder, "turn", lambda *_: [])
    monkeypatch.setattr(decoding, "decoders", lambda *_: stub)
    monkeypatch.setattr(decoding, "perf_counter", lambda: next(clock))
    head, *lines, end = decoding.report(rounds=2, steps=10, keys=11)
    assert head.endswith("batch 8, one head, 11 keys of 64, 2 rounds")
    assert lines[:2] == [
        "scaled_dot plain JAX 100.000 ms a step,  1.00 times plain JAX (1.00–1.00),"
        " compiled in 0.2 s",
        "scaled_dot attention 300.000 ms a step,  3.00 times plain JAX (2.00–4.00),"
        " compiled in 0.2 s",
    ]
    assert len(lines) == 4
    assert "load at the end" in end

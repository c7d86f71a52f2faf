import shutil
from unittest.mock import MagicMock

import jax
import jax.numpy as jnp
import optax
import pytest
from small import assert_same_bits

from attention.lab.errors import UsageError
from attention.lab.parallel.devices import make_mesh, places
from attention.lab.runs.checkpoints import MANIFEST, Checkpoints, steps
from attention.lab.runs.checkpoints import restore as restore_arrays
from attention.lab.training.state import Status, TrainState, completed


def state_of(step):
    """A state of two replicas, one of which stopped before this step."""
    weight = jnp.arange(70, dtype=jnp.float32).reshape(2, 5, 7) + step
    parameters = {"layer": {"weight": weight, "scalar": jnp.float32([1 / 3, 1 / 7])}}
    status = jnp.int32([Status.REACHED, Status.TRAINING])
    return TrainState(
        jnp.int32([step // 2, step]),
        parameters,
        jax.vmap(optax.adam(1e-3).init)(parameters),
        status,
    )


def save(directory, state, keep):
    with Checkpoints(directory, keep, {"config": "kept inside"}) as checkpoints:
        checkpoints.save(completed(state), vars(state))


SHAPES = jax.eval_shape(lambda: state_of(0))
LIKE = jax.tree.map(
    lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
    SHAPES,
    places(SHAPES, make_mesh(jax.devices(), 2, 1), split=False),
)


def restore(directory, like, step=None):
    return TrainState(**restore_arrays(directory, vars(like), step))


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory):
    directory = tmp_path_factory.mktemp("saved")
    save(directory, state_of(500), keep=3)
    save(directory, state_of(1000), keep=3)
    return directory


@pytest.fixture
def saved(two_steps, tmp_path):
    """Intact checkpoints of steps 500 and 1000."""
    return shutil.copytree(two_steps, tmp_path / "checkpoints")


def largest_file(path):
    return max((f for f in path.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)


def flip_a_bit(path):
    file = largest_file(path)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def truncate(path):
    largest_file(path).write_bytes(largest_file(path).read_bytes()[:-1])


def lose_a_file(path):
    largest_file(path).unlink()


def halve_the_manifest(path):
    manifest = (path / MANIFEST).read_text()
    (path / MANIFEST).write_text(manifest[: len(manifest) // 2])


def empty_the_manifest(path):
    (path / MANIFEST).write_text("{}")


every_damage = pytest.mark.parametrize(
    "damage", [flip_a_bit, truncate, lose_a_file, halve_the_manifest, empty_the_manifest]
)


@pytest.mark.parametrize(("step", "expected"), [(None, 1000), (500, 500), (1000, 1000)])
def test_a_state_comes_back_bit_for_bit(two_steps, capfd, step, expected):
    restored = restore(two_steps, LIKE, step)
    assert_same_bits(restored, state_of(expected))
    assert [leaf.dtype for leaf in jax.tree.leaves(restored)] == [
        leaf.dtype for leaf in jax.tree.leaves(LIKE)
    ]
    assert "WARNING" not in capfd.readouterr().err


@every_damage
def test_a_damaged_step_is_passed_over_with_a_warning(saved, capfd, damage):
    damage(saved / "1000")
    assert completed(restore(saved, LIKE)) == 500
    warning = capfd.readouterr().err
    assert f"WARNING: checkpoint {saved / '1000'} is damaged" in warning
    assert warning.count("WARNING") == 1


@every_damage
def test_a_damaged_step_that_was_asked_for_is_refused(saved, capfd, damage):
    damage(saved / "1000")
    with pytest.raises(UsageError, match=r"no intact checkpoint among steps 1000$"):
        restore(saved, LIKE, 1000)
    assert "WARNING" in capfd.readouterr().err


def test_nothing_intact_is_an_error(saved, capfd):
    flip_a_bit(saved / "500")
    flip_a_bit(saved / "1000")
    with pytest.raises(UsageError, match=r"no intact checkpoint among steps 500, 1000$"):
        restore(saved, LIKE)
    assert capfd.readouterr().err.count("WARNING") == 2


def test_a_step_that_is_not_there_is_refused_with_those_that_are(two_steps):
    with pytest.raises(UsageError, match=r"^--step=750: no such checkpoint; there are 500, 1000$"):
        restore(two_steps, LIKE, 750)


def test_a_directory_without_checkpoints_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no checkpoint here"):
        restore(tmp_path, LIKE)
    with pytest.raises(UsageError, match="no checkpoint here"):
        restore(tmp_path / "nowhere", LIKE)


def test_arrays_that_do_not_fit_the_model_are_refused_in_a_line(two_steps, monkeypatch):
    """Without Orbax, whose event loop is closed at some later time after that, with a warning."""

    def refuse(*_):
        raise ValueError("Requested shape: (5, 3)\nis not that of `parameters`\n")

    checkpointer = MagicMock()
    checkpointer.__exit__.return_value = False
    checkpointer.__enter__.return_value.restore = refuse
    monkeypatch.setattr("attention.lab.runs.checkpoints._checkpointer", lambda: checkpointer)
    with pytest.raises(UsageError, match="1000: its arrays have other names or shapes") as refusal:
        restore(two_steps, LIKE)
    assert "Requested shape" in str(refusal.value.__cause__)


def test_what_was_not_committed_is_no_checkpoint(saved):
    """An empty directory, and one that a kill left without its manifest."""
    (saved / "2000").mkdir()
    (saved / "1000" / MANIFEST).unlink()
    assert steps(saved) == [500]
    assert completed(restore(saved, LIKE)) == 500


def test_a_save_replaces_what_a_kill_left(saved):
    (saved / "1000" / MANIFEST).unlink()
    (saved / "1000" / "rubbish").write_text("left over")
    save(saved, state_of(1000), keep=3)
    assert steps(saved) == [500, 1000]
    assert completed(restore(saved, LIKE, 1000)) == 1000


def test_an_intact_step_is_never_written_again(tmp_path):
    """A kill in the midst of it would lose the step."""
    with Checkpoints(tmp_path, 3, {}) as checkpoints:
        checkpoints.save(500, vars(state_of(500)))
        checkpoints.wait()
        first = files_of(tmp_path)
        checkpoints.save(500, vars(state_of(500)))
    with Checkpoints(tmp_path, 3, {}, restored=500) as checkpoints:
        checkpoints.save(500, vars(state_of(500)))
    assert files_of(tmp_path) == first


def files_of(directory):
    """Which files there are: written anew, each is another one."""
    return {file: file.stat().st_ino for file in directory.rglob("*")}


@pytest.mark.parametrize(("keep", "kept"), [(1, [1500]), (2, [1000, 1500]), (3, [500, 1000, 1500])])
def test_the_newest_are_kept(saved, keep, kept):
    save(saved, state_of(1500), keep)
    assert steps(saved) == kept
    assert sorted(int(path.name) for path in saved.iterdir()) == kept


def test_what_kills_left_is_removed(saved):
    (saved / "1250.orbax-checkpoint-tmp" / "d").mkdir(parents=True)
    (saved / "1000" / MANIFEST).unlink()
    save(saved, state_of(1500), keep=3)
    assert sorted(path.name for path in saved.iterdir()) == ["1500", "500"]


def test_a_damaged_step_does_not_take_the_place_of_what_was_trained_anew(saved, capfd):
    flip_a_bit(saved / "1000")
    assert completed(restore(saved, LIKE)) == 500
    save(saved, state_of(700), keep=1)
    assert sorted(path.name for path in saved.iterdir()) == ["700"]
    assert completed(restore(saved, LIKE)) == 700
    assert capfd.readouterr().err.count("WARNING") == 1


def test_steps_are_in_the_order_of_numbers(saved):
    assert steps(saved) == [500, 1000]  # not that of letters

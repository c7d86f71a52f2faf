"""The optimizer, and how its learning rate changes."""

import optax

from attention.lab.settings import OptimizerSettings


def schedule(settings: OptimizerSettings, steps: int) -> optax.Schedule:
    """The learning rate at each step: a linear warm-up, then constant or a cosine to zero.

    Args:
      settings: the peak of the learning rate, its schedule and the share of warm-up.
      steps: updates in the whole run.
    """
    warmup = min(round(settings.warmup_fraction * steps), steps - 1)
    rate = settings.learning_rate
    if settings.schedule == "cosine":
        # Not optax.warmup_cosine_decay_schedule, which compares the rate, and so can't be traced.
        rise = optax.linear_schedule(0.0, rate, warmup)
        fall = optax.cosine_decay_schedule(rate, steps - warmup)
        return optax.join_schedules([rise, fall], [warmup])
    return optax.warmup_constant_schedule(0.0 if warmup else rate, rate, warmup)


def make_optimizer(settings: OptimizerSettings, steps: int) -> optax.GradientTransformation:
    """The optimizer, which clips the gradient to a global norm first.

    Args:
      settings: the optimizer's name, schedule and numbers; jax may trace the numbers.
      steps: updates in the whole run.
    """
    rate = schedule(settings, steps)
    if settings.name == "adamw":
        rule = optax.adamw(rate, weight_decay=settings.weight_decay)
    else:
        rule = optax.adam(rate) if settings.name == "adam" else optax.sgd(rate)
    return optax.chain(optax.clip_by_global_norm(settings.clip_norm), rule)

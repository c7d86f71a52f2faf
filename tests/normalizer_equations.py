"""The equations of the normalizers, of a row of allowed keys in NumPy's float64."""

import numpy as np


def bisected(scores, power):
    """`[s/power − τ]₊^power`, with the sum of one found by bisection."""
    x = (scores - np.max(scores)) / power  # a shift changes nothing
    low, high = -1.0, 0.0
    for _ in range(60):
        middle = (low + high) / 2
        enough = np.sum(np.maximum(x - middle, 0) ** power) > 1
        low, high = (middle, high) if enough else (low, middle)
    return np.maximum(x - low, 0) ** power


def softmax(scores, sink=-np.inf):
    """With a further term `exp(sink)` in the denominator."""
    best = max(np.max(scores), sink)
    return np.exp(scores - best) / (np.exp(sink - best) + np.sum(np.exp(scores - best)))


def asentmax(scores, beta, gamma, delta=1.0):
    if len(scores) == 1:  # whose logarithm of 0 has no negative power
        return np.ones(1)
    below = scores - np.max(scores)
    return bisected((delta + beta * np.log(len(scores)) ** gamma) * below, 2)


EQUATIONS = {
    "softmax": softmax,
    "sigmoid": lambda s: np.exp(-np.logaddexp(0, np.log(len(s)) - s)),
    "sparsemax": lambda s: bisected(s, 1),
    "entmax15": lambda s: bisected(s, 2),
    "softmax_one": lambda s: softmax(s, 0.0),
    "softmax_sink": softmax,
    "asentmax": asentmax,
}


def row_by_row(equation, scores, where, *parameters):
    """An equation `(scores, *parameters) -> weights` of the allowed keys of each row.

    Args:
      equation: of `EQUATIONS`, say.
      scores: `[*lead, keys]`.
      where: `[*lead, keys]`.
      *parameters: `[*lead]`, or such as broadcast against that.
    """
    weights, lead = np.zeros(scores.shape), scores.shape[:-1]
    parameters = [np.broadcast_to(parameter, lead) for parameter in parameters]
    for at in np.ndindex(lead):
        if where[at].any():
            given = (parameter[at] for parameter in parameters)
            weights[at][where[at]] = equation(scores[at][where[at]], *given)
    return weights


def slopes(function, point, step=1e-6):
    """Central differences of a function of an array, for each of its entries.

    Args:
      function: from an array to a number, or to an array.
      point: the array.
      step: of the differences.
    """
    point = np.asarray(point, np.float64)
    found = []
    for entry in range(point.size):
        along = step * np.eye(point.size)[entry].reshape(point.shape)
        found.append((function(point + along) - function(point - along)) / (2 * step))
    return np.stack(found).reshape(point.shape + np.shape(found[0]))

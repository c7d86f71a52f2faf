"""Claims about attention, put to the test: a file for each claim, and the page of all of them."""

from attention.lab.claims import (
    choice,
    improves,
    length,
    linear_first,
    long_range,
    one_context,
    published,
    quadratic,
    recurrence,
)
from attention.lab.claims.claim import Claim
from attention.lab.claims.quadratic import CostClaim

CLAIMS: dict[int, Claim | CostClaim] = {
    1: improves.CLAIM,
    2: choice.CLAIM,
    3: linear_first.CLAIM,
    4: long_range.CLAIM,
    5: one_context.CLAIM,
    6: length.CLAIM,
    7: published.CLAIM,
    8: quadratic.CLAIM,
    9: recurrence.CLAIM,
}

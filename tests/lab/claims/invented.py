"""Results that nothing was run for."""

from attention.lab.claims.results import DEPENDENCE, EXACT, TOKENS, Result

CODE = "0abc" * 3


def result_of(experiment, share):
    """What a run would have measured that is right in this share, on each seed a bit more."""
    settings = experiment.settings()

    def report(number):
        return dict.fromkeys((EXACT, TOKENS, DEPENDENCE), share + 0.001 * number)

    replicas = [
        {"all": report(n), "by_length": {str(m): report(n) for m in settings.eval.lengths}}
        for n in range(settings.num_seeds)
    ]
    return Result(replicas, 0, 7.0, settings.train.steps, CODE)


def results_for(claim, size, share):
    """Results of all that a claim needs, each right in `share(experiment)`."""
    results = {each: result_of(each, share(each)) for each in claim.experiments(size)}
    if claim.more:
        more = claim.more(results, size)
        results |= {each: result_of(each, share(each)) for each in more}
    return results


def costs(size):
    """What could be measured: quadratic in time, linear in memory."""
    return [
        {"form": form, "length": n, "by": by, "seconds": n**2 / 7, "bytes": 11 * n}
        for form in ("KeyOnly", "InnerProduct", "Additive")
        for n in size.cost_lengths
        for by in ("picked", "plain JAX")
    ]

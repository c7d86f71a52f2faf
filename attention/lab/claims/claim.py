"""A claim: a sentence, the experiments that test it, and what is made of their results."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from attention.lab.claims.cache import Cache
from attention.lab.claims.experiments import Experiment, Grid
from attention.lab.claims.results import Results
from attention.lab.claims.size import Size


@dataclass(frozen=True)
class Finding:
    """What a claim comes to.

    Attributes:
      verdict: computed, in a line.
      evidence: paragraphs and tables, in Markdown.
    """

    verdict: str
    evidence: Sequence[str]


@dataclass(frozen=True)
class Claim:
    """A sentence that runs of experiments test.

    All that a finding says about numbers is computed from them; its other sentences stay true
    whatever the numbers are.

    Attributes:
      title: the sentence, in our words.
      grids: the experiments it needs.
      finding: from the results of all that was run, their size, and the folder for figures.
      more: experiments it needs besides, which depend on the results of the grids.
    """

    title: str
    grids: Sequence[Callable[[Size], Grid]]
    finding: Callable[[Results, Size, Path], Finding]
    more: Callable[[Results, Size], list[Experiment]] | None = None

    def experiments(self, size: Size) -> list[Experiment]:
        """All experiments of the grids; those that two grids share are listed once."""
        every = [experiment for grid in self.grids for experiment in grid(size).values()]
        return list(dict.fromkeys(every))

    def run(self, size: Size, cache: Cache, console: Console, *, refresh: bool) -> None:
        """Runs what the cache lacks; to `refresh`, also what other sources made.

        Raises:
          KeyboardInterrupt: a run was interrupted, and saved.
        """
        for experiment in self.experiments(size):
            cache.run(experiment, console, refresh=refresh)
        results = cache.results(self.experiments(size))
        if self.more and results is not None:  # what failed in every replica has no result
            for experiment in self.more(results, size):
                cache.run(experiment, console, refresh=refresh)

    def find(self, size: Size, cache: Cache, figures: Path) -> tuple[Finding | None, Results]:
        """What the cache says, None where it lacks a result; and the results that it is made of."""
        results = cache.results(self.experiments(size))
        if results is not None and self.more:
            more = cache.results(self.more(results, size))
            results = None if more is None else results | more
        if results is None:
            return None, {}
        return self.finding(results, size, figures), results

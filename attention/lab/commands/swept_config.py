"""The config of a sweep: what its trials share, and how swept values become settings."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from attention.lab.commands.config_flags import settings_of
from attention.lab.errors import UsageError
from attention.lab.settings import Settings
from attention.lab.sweeps.trials import Values


@dataclass(frozen=True)
class SweptConfig:
    """The config file and the flags that all trials of a sweep share.

    Attributes:
      named: the config file, with a score or without: `configs/copy.py:mlp`.
      config_flags: flags `--config.…`, which hold for every trial.
      asked_by: the flag that asks for the swept values, `--grid` or `--random`.
    """

    named: str
    config_flags: Sequence[str]
    asked_by: str = "--grid"

    def settings(self, values: Values) -> Settings:
        """The settings that `train.py` would read if the values were typed as its flags.

        Raises:
          UsageError: a field, a value or a combination is refused, as `train.py` would.
        """
        score = f":{values['score']}" if "score" in values else ""
        swept = [f"--config.{name}={value}" for name, value in values.items() if name != "score"]
        try:
            return settings_of(f"{self.named}{score}", [*self.config_flags, *swept])
        except UsageError as error:
            asked = " ".join(f"{name}={value}" for name, value in values.items())
            raise UsageError(
                f"{self.asked_by} {asked}: {error}" if values else str(error)
            ) from error.__cause__

    def refuse_twice(self, swept: Collection[str]) -> None:
        """Refuses to sweep a field that the config's name or a flag sets.

        Raises:
          UsageError: naming the flag.
        """
        if "score" in swept and ":" in self.named:
            raise UsageError(
                f"--config={self.named}: names a score, and so does {self.asked_by} score=…"
            )
        for flag in self.config_flags:
            name = flag.partition("=")[0].lstrip("-").removeprefix("config.")
            if flag.startswith("-") and name in swept:
                raise UsageError(f"{flag}: sets what {self.asked_by} {name}=… sweeps")

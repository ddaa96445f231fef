"""The table of a study: which trainings on which data, as YAML."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from ctan.config import Settings
from ctan.config_errors import explain
from ctan.errors import ConfigError

Overrides = dict[str, Any]  # dotted field of the settings -> value


class Run(Settings):
    """One way to train."""

    arch: str = Field(description="architecture, see `ctan.networks`")
    settings: Overrides = Field({}, description="settings that differ from those of the data")
    macs_of: str = Field("", description="run whose multiply-accumulates the widths are matched to")
    rate_of: str = Field("", description="run whose learning rate is taken; empty: it is chosen for this one")


class Table(Settings):
    """A study: every run on all data with every seed.

    The learning rate of a run is the best of `rates` on the tuning cases with `rate_seed`, which is no seed of a run.
    """

    profile: str = Field("cpu", description="packaged profile that settings start from")
    data: dict[str, Overrides] = Field(description="name -> settings of the data and of all trainings on them")
    roles: tuple[Literal["tuning", "evaluation"], ...] = Field(("tuning",), description="cases that are scored")
    fold: int = Field(0, ge=0, description="its cases tune")
    seeds: tuple[int, ...] = Field((0, 1, 2), min_length=1, description="of the trainings")
    rates: tuple[float, ...] = Field((1e-3,), min_length=1, description="learning rates to choose from")
    rate_seed: int = Field(100, ge=0, description="seed of the trainings that choose the rate")
    reference: str = Field("stl", description="run that improvements are relative to")
    runs: dict[str, Run] = Field(min_length=1, description="name -> run")

    @model_validator(mode="after")
    def _consistent(self) -> Table:
        named = {run.macs_of for run in self.runs.values()} | {run.rate_of for run in self.runs.values()}
        if unknown := sorted((named | {self.reference}) - {"", *self.runs}):
            raise ValueError(f"no such run: {', '.join(unknown)}; there are {', '.join(self.runs)}")
        if chained := [name for name, run in self.runs.items() if run.rate_of and self.runs[run.rate_of].rate_of]:
            raise ValueError(f"rate_of of {', '.join(chained)} names a run that takes the rate of another")
        if chained := [name for name, run in self.runs.items() if run.macs_of and self.runs[run.macs_of].macs_of]:
            raise ValueError(f"macs_of of {', '.join(chained)} names a run that is matched itself")
        if self.rate_seed in self.seeds:
            raise ValueError(f"rate_seed {self.rate_seed} is one of the seeds: a rate would be chosen on its own run")
        return self

    @classmethod
    def read(cls, path: Path) -> Table:
        """Read a table.

        Raises:
            ConfigError: naming the field and what is allowed.
        """
        try:
            return cls.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
        except yaml.YAMLError as error:
            raise ConfigError(f"{path}: not valid YAML: {error}") from error
        except ValidationError as error:
            raise ConfigError(f"{path}: {explain(error, cls)}") from error

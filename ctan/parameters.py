"""One table of parameters: short names that people type for settings, in the pipeline and as options of the command.

Adding a setting touches `ctan.config` alone; giving it a short name is one line here, then `make pipeline`, which
writes the signatures that KFP needs to see (`pipelines/signatures.py`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ctan import plugins

Kind = Literal["str", "int", "float", "bool", "list[str]", "list[int]"]
DEFAULT_PROFILE = "smoke"
DEFAULT_SOURCE = "phantom:train=12,validation=4,seed=0"
PROFILES = ("smoke", "cpu", "gpu", "gpu-short")
DEFAULT_ARCHITECTURES = ("stl", "hps", "mtan", "ctan")  # plugs never join unasked
_EMPTY: Mapping[Kind, Any] = {"str": "", "int": 0, "float": 0.0, "list[str]": (), "list[int]": ()}


@dataclass(frozen=True)
class Parameter:
    """Something that is set when a run is started.

    Attributes:
        name: of the pipeline's parameter, and of the command's option with dashes.
        kind: its type.
        help: a sentence for both; `{...}` is filled in, see `text`.
        field: dotted setting that it sets; empty for what is no setting.
        default: empty or 0 leaves the setting to the profile.
        empty: what an empty value means, for a person.
        option: of the command, when its name is another.
        resolved: the first step of the pipeline needs it.
    """

    name: str
    kind: Kind
    help: str
    field: str = ""
    default: Any = None
    empty: str = "from the profile"
    option: str = ""
    resolved: bool = True

    @property
    def value(self) -> Any:
        """The default value."""
        return _EMPTY[self.kind] if self.default is None else self.default

    def text(self, own: bool = False) -> str:
        """Return the help, with the names of plugs that are installed; with `own` those that ctan brings."""
        if "{" not in self.help:
            return self.help
        architectures = [name for name in plugins.names(plugins.NETWORKS, own) if name not in DEFAULT_ARCHITECTURES]
        return self.help.format(
            datasets=", ".join(plugins.names(plugins.DATASETS, own)),
            architectures=", ".join((*DEFAULT_ARCHITECTURES, *architectures)),
            profiles=", ".join(PROFILES),
        )


PARAMETERS = (
    Parameter(
        "source",
        "str",
        "Raw files: a folder that every step can read, s3://bucket/prefix, a version that DVC pins "
        "(dvc:REPOSITORY@REVISION), or phantom:train=N,validation=N,seed=N (synthetic).",
        default=DEFAULT_SOURCE,
    ),
    Parameter(
        "profile", "str", "Settings to start from: {profiles} or the path of a YAML file.", default=DEFAULT_PROFILE
    ),
    Parameter("dataset", "str", "Data set, the raw format of the source: {datasets}.", "data.dataset", empty="openkbp"),
    Parameter(
        "architectures",
        "list[str]",
        "Architectures to train: {architectures}; with settings of its own as 'ctan network.base_width=8'.",
        "architectures",
        option="--arch",
    ),
    Parameter(
        "folds",
        "list[int]",
        "Folds to train; fold f of the training cases is left out for tuning.",
        "folds",
        option="--fold",
    ),
    Parameter("seeds", "list[int]", "Seeds to train with.", "seeds", option="--seed"),
    Parameter("epochs", "int", "Passes over the training cases.", "training.epochs"),
    Parameter("batch_size", "int", "Cases a training step.", "training.batch_size"),
    Parameter("learning_rate", "float", "Learning rate of AdamW after warm-up.", "training.learning_rate"),
    Parameter(
        "task_weighting",
        "str",
        "How task losses are summed (equal, dwa, uncertainty) or task gradients (upgrad, pcgrad, mgda, cagrad, "
        "imtl_g, aligned_mtl).",
        "training.task_weighting",
    ),
    Parameter("inputs", "str", "What the networks see: ct, ct+targets or oracle.", "data.inputs"),
    Parameter("max_train_cases", "int", "Use only N training cases.", "data.max_train_cases"),
    Parameter("max_evaluation_cases", "int", "Use only N evaluation cases.", "data.max_evaluation_cases"),
    Parameter(
        "store_root",
        "str",
        "Folder or s3://bucket/prefix of the stores, the table of sides and the ledger, seen by every step.",
        empty="in the workspace",
    ),
    Parameter(
        "checkpoint_root",
        "str",
        "Folder or s3://bucket/prefix of the checkpoints, seen by every step.",
        empty="in the workspace",
        resolved=False,
    ),
    Parameter(
        "model_name",
        "str",
        "Registered model.",
        "promotion.model_name",
        empty="ctan-<dataset>; synthetic data add -phantom",
    ),
    Parameter(
        "promote",
        "bool",
        "Whether the best model is registered and may become champion; without it models are only compared.",
        "promotion.enabled",
        default=True,
    ),
    Parameter(
        "overrides",
        "list[str]",
        "Any other setting as FIELD=VALUE, such as training.ema_decay=0.99. These win over all others.",
        empty="none",
        option="--set",
    ),
)
BY_NAME = {parameter.name: parameter for parameter in PARAMETERS}


def overrides_of(values: Mapping[str, Any]) -> list[str]:
    """Return parameters as `FIELD=VALUE`: those that are settings and were given, then the overrides themselves.

    Args:
        values: name -> value; empty, 0 and the default of a switch leave the profile's.

    Raises:
        KeyError: for a name that is no parameter.
    """
    given = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
    chosen = [
        f"{BY_NAME[name].field}={json.dumps(value)}"
        for name, value in given.items()
        if BY_NAME[name].field and (value is False if BY_NAME[name].kind == "bool" else value)
    ]
    return chosen + list(given.get("overrides") or ())

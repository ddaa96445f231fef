"""One function a pipeline step: plain values and paths in, metrics out.

Both the pipeline's components and the `ctan` command call these. `resolve` fixes settings and data version; ingestion
writes them beside the manifest, and each later step reads them there. Imports of the heavy libraries happen inside the
steps: every step is a new process.
"""

from ctan.settings import resolve_config
from ctan.steps.data import check, gate, ingest, plan, preprocess, resolve, validate
from ctan.steps.models import compare, evaluate, promote, train, train_supervised
from ctan.steps.tuning import tune

__all__ = [
    "check",
    "compare",
    "evaluate",
    "gate",
    "ingest",
    "plan",
    "preprocess",
    "promote",
    "resolve",
    "resolve_config",
    "train",
    "train_supervised",
    "tune",
    "validate",
]

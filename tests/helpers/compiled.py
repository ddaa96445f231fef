"""Where the compiled pipelines lie; `pipelines.ctan` knows it too, but takes seconds to import."""

from pathlib import Path

COMPILED = Path(__file__).parents[2] / "pipelines" / "ctan.yaml"
RETRAIN = COMPILED.with_name("retrain.yaml")
TUNE = COMPILED.with_name("tune.yaml")

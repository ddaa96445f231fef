"""A search for settings: raw files in, a profile with the best settings out. What `ctan tune` does, on a cluster.

Compile with `make pipeline`. A run with the same parameters goes on with the search that it finds.
"""

import sys
from pathlib import Path

from kfp import compiler, dsl
from kfp.dsl import PIPELINE_JOB_ID_PLACEHOLDER

from components.gate import gate
from components.ingest import ingest
from components.preprocess import preprocess
from components.resolve import resolve
from components.tune import tune as search_settings
from components.validate import validate
from pipelines.tasks import LIMITS, closed, knows_its_run, prepared

NAME = "ctan-tune"
COMPILED = Path(__file__).with_suffix(".yaml")


@dsl.pipeline(name=NAME, display_name="ctan: search settings", pipeline_config=LIMITS)
def tune(
    source: str,
    profile: str = "smoke",
    dataset: str = "",
    arch: str = "ctan",
    fold: int = 0,
    seed: int = 0,
    trials: int = 20,
    search: list[str] = [],  # noqa: B006
    store_root: str = "",
    checkpoint_root: str = "",
    overrides: list[str] = [],  # noqa: B006
):
    """Search settings of one architecture by the error on its tuning cases; evaluation cases are not looked at.

    Args:
        source: Raw files: a folder that every step can read, s3://bucket/prefix, a version that DVC pins
            (dvc:REPOSITORY@REVISION), or phantom:train=N,validation=N,seed=N (synthetic).
        profile: Settings that are not searched: smoke, cpu, gpu, gpu-short or the path of a YAML file.
        dataset: Data set, the raw format of the source. Empty: openkbp.
        arch: Architecture whose settings are searched.
        fold: Fold of the training cases whose error decides.
        seed: Seed of the trainings and of the search.
        trials: Trainings of the search, those of earlier runs included.
        search: What is searched, FIELD=LOW..HIGH or FIELD=[A, B] each. Empty: learning rate, width, weighting and
            augmentation.
        store_root: Folder or s3://bucket/prefix of the stores, seen by every step. Empty: in the workspace.
        checkpoint_root: Folder or s3://bucket/prefix of the search and its checkpoints. Empty: in the workspace.
        overrides: Any other setting as FIELD=VALUE, such as training.epochs=10. Empty: none.
    """
    with closed(NAME):
        resolved = prepared(
            resolve(
                source=source,
                profile=profile,
                dataset=dataset,
                architectures=[],
                folds=[],
                seeds=[],
                epochs=0,
                batch_size=0,
                learning_rate=0.0,
                task_weighting="",
                inputs="",
                max_train_cases=0,
                max_evaluation_cases=0,
                store_root=store_root,
                checkpoint_root=checkpoint_root,
                model_name="",
                promote=False,
                overrides=overrides,
            ),
            "Resolve settings and data version",
            memory="1G",
        )
        ingested = prepared(
            ingest(settings=resolved.outputs["settings"], origin=resolved.outputs["origin"]),
            "Read raw files",
            cached=True,
        )
        validated = prepared(validate(manifest=ingested.outputs["manifest"]), "Validate", cached=True)
        manifest = validated.outputs["validated"]
        passed = prepared(gate(verdict=validated.outputs["Output"]), "Gate", memory="1G")
        stored = prepared(
            preprocess(source=resolved.outputs["source"], store_root=store_root, manifest=manifest), "Preprocess"
        ).after(passed)
        searched = prepared(
            search_settings(
                arch=arch,
                fold=fold,
                seed=seed,
                trials=trials,
                search=search,
                checkpoint_root=checkpoint_root,
                pipeline_run=PIPELINE_JOB_ID_PLACEHOLDER,
                manifest=manifest,
                store=stored.outputs["store"],
            ),
            "Search settings",
            memory="4G",
        )
        knows_its_run(searched)


def main(output: Path = COMPILED) -> None:
    """Compile the pipeline to YAML."""
    compiler.Compiler().compile(tune, str(output))


if __name__ == "__main__":
    main(*[Path(argument) for argument in sys.argv[1:]])

"""Evaluating in the pod that trained, so that the step `evaluate` needs no GPU again.

The training's step scores its model with the very function of the step `evaluate`, and leaves the result within the
model's folder. That step then hands it on, where it is what it would compute itself; else it computes.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from ctan.config import RunConfig
from ctan.files import atomic_path, read_json, sha256_of_file, sha256_of_json, write_json
from ctan.records import WEIGHTS_FILE, EvaluationRecord
from ctan.store import StorePointer

FOLDER = "evaluation"  # within the model's
_MADE_OF = "made-of.json"


def evaluate_ahead(pointer: StorePointer, model_dir: Path, config: RunConfig) -> None:
    """Score a model that has just been trained and leave the result in its folder.

    Args:
        pointer: the store.
        model_dir: the trained model.
        config: the evaluation settings.
    """
    from ctan.evaluation.evaluate import evaluate
    from ctan.ranks import is_main_process

    target = model_dir / FOLDER
    evaluate(pointer, model_dir, target, config)
    if is_main_process():
        write_json(target / _MADE_OF, {"sha256": _made_of(pointer, model_dir, config)})


def evaluated_ahead(pointer: StorePointer, model_dir: Path, output_dir: Path, config: RunConfig) -> EvaluationRecord:
    """Return what `evaluate` returns and write what it writes; taken from the training's pod where it is there.

    Args:
        pointer: the store.
        model_dir: a trained model.
        output_dir: receives the evaluation.
        config: the evaluation settings.
    """
    done = model_dir / FOLDER
    if config.evaluation.in_training_pod and (done / _MADE_OF).is_file():
        made_of = read_json(done / _MADE_OF, "train again, or set evaluation.in_training_pod=false")
        if made_of == {"sha256": _made_of(pointer, model_dir, config)}:
            print("evaluated where it was trained")
            shutil.rmtree(output_dir, ignore_errors=True)
            with atomic_path(output_dir) as folder:
                shutil.copytree(done, folder, ignore=shutil.ignore_patterns(_MADE_OF))
            return EvaluationRecord.load(output_dir)
    from ctan.evaluation.evaluate import evaluate

    return evaluate(pointer, model_dir, output_dir, config)


def _made_of(pointer: StorePointer, model_dir: Path, config: RunConfig) -> str:
    """Return the SHA-256 of what an evaluation is made of: store, weights, settings."""
    settings = config.model_dump(mode="json", include={"evaluation": True, "preprocess": True})
    return sha256_of_json([pointer.key, sha256_of_file(model_dir / WEIGHTS_FILE), settings])

"""The words that every room shares: a case in its three forms, and what all cases of a data set have in common."""

from ctan.cases.case import (
    DOSE_KNOWN,
    POSSIBLE_DOSE_MASK,
    SPLIT_TEST,
    SPLIT_TRAIN,
    SPLIT_VALIDATION,
    Case,
    RawCase,
    StoredCase,
    levels_of,
)
from ctan.cases.prediction import Prediction
from ctan.cases.spec import CT, SPEC_FILE, Augmentation, DataSpec, ImageSpec, check_same_spec

__all__ = [
    "CT",
    "DOSE_KNOWN",
    "POSSIBLE_DOSE_MASK",
    "SPEC_FILE",
    "SPLIT_TEST",
    "SPLIT_TRAIN",
    "SPLIT_VALIDATION",
    "Augmentation",
    "Case",
    "DataSpec",
    "ImageSpec",
    "Prediction",
    "RawCase",
    "StoredCase",
    "check_same_spec",
    "levels_of",
]

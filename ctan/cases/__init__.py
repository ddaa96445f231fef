"""The words that every room shares: a case in its three forms, and what all cases of a data set have in common."""

from ctan.cases.case import (
    POSSIBLE_DOSE_MASK,
    SPLIT_TEST,
    SPLIT_TRAIN,
    SPLIT_VALIDATION,
    Case,
    RawCase,
    StoredCase,
)
from ctan.cases.spec import CT, Augmentation, ImageSpec

__all__ = [
    "CT",
    "POSSIBLE_DOSE_MASK",
    "SPLIT_TEST",
    "SPLIT_TRAIN",
    "SPLIT_VALIDATION",
    "Augmentation",
    "Case",
    "ImageSpec",
    "RawCase",
    "StoredCase",
]

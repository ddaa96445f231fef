"""The raw format of OpenKBP: its grid, folders and structures."""

from ctan.cases import SPLIT_TEST, SPLIT_TRAIN, SPLIT_VALIDATION

SHAPE = (128, 128, 128)
SPLIT_FOLDERS = {"train-pats": SPLIT_TRAIN, "validation-pats": SPLIT_VALIDATION, "test-pats": SPLIT_TEST}
ORGANS = ("Brainstem", "SpinalCord", "RightParotid", "LeftParotid", "Esophagus", "Larynx", "Mandible")
TARGETS = {"PTV56": 56.0, "PTV63": 63.0, "PTV70": 70.0}

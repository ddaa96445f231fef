"""nnU-Net v2's `dataset.json`, read as it is.

Source of the format: documentation/dataset_format.md of https://github.com/MIC-DKFZ/nnUNet. What nnU-Net makes of a
channel follows from its whole name: `CT`, in capitals or not, is taken as Hounsfield units, every name it does not know
gets a z-score a case.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ctan.datasets.folder.description import PICTURES, ending_of
from ctan.errors import DataError

NNUNET_FILE = "dataset.json"
_ADVICE = "write a dataset.yaml (`ctan data describe DIR` writes a first one)"
_COLOUR_NAMES = ({"r", "g", "b"}, {"red", "green", "blue"})
_OTHER_SCHEMES = ("nonorm", "rescale_to_0_1")
_MR = ("mr", "t1", "t2", "flair", "adc", "dwi", "swi")


def from_nnunet(folder: Path, value: Any) -> dict[str, Any]:
    """Translate a `dataset.json` into the content of a `dataset.yaml`.

    Args:
        folder: that holds it; its images are looked at to tell colour files from files of one channel.
        value: its content.

    Raises:
        DataError: naming the key that cannot be read.
    """
    channels, ending, labels = _checked(value)
    notes: list[str] = []
    image = _image(folder, channels, ending, notes)
    values, ignore = _values(labels)
    order = value.get("regions_class_order")
    if any(len(of) > 1 for of in values.values()) and not order:
        raise DataError(
            f"{NNUNET_FILE}: labels hold regions, which need regions_class_order (a value to paste for each)"
        )
    found: dict[str, Any] = {
        "name": _name(folder, value),
        "image": image,
        "label_map": {
            "file": f"labelsTr/{{case}}{ending}",
            "values": values,
            "regions_class_order": order or (),
            "ignore": ignore,
        },
        "licence": "; ".join(str(value[key]) for key in ("licence", "license", "reference") if value.get(key)),
    }
    if (folder / "imagesTs").is_dir():
        if (folder / "labelsTs").is_dir():
            files = [pattern.replace("imagesTr/", "imagesTs/", 1) for pattern in image["files"]]
            found["test"] = {"files": files, "label_map": f"labelsTs/{{case}}{ending}"}
        else:
            notes.append("imagesTs has no labelsTs: nothing can be learned from or scored on it, it is left out")
    expected, there = value.get("numTraining"), len(list((folder / "labelsTr").glob(f"*{ending}")))
    if isinstance(expected, int) and expected != there:
        notes.append(f"{NNUNET_FILE} says numTraining {expected}, labelsTr holds {there}")
    return found | {"notes": notes}


def _checked(value: Any) -> tuple[list[str], str, dict[str, Any]]:
    """Return the names of the channels, the ending of files, and the labels."""
    if not isinstance(value, dict):
        raise DataError(f"{NNUNET_FILE}: expected a mapping, found {type(value).__name__}")
    if "channel_names" not in value and "modality" in value:
        raise DataError(
            f"{NNUNET_FILE}: of nnU-Net version 1 (it has modality, not channel_names); "
            f"convert the folder with nnU-Net's own command, or {_ADVICE}"
        )
    if lacking := [key for key in ("channel_names", "labels", "file_ending") if key not in value]:
        raise DataError(f"{NNUNET_FILE}: no {', '.join(lacking)}; it is not nnU-Net v2's, {_ADVICE}")
    if "dataset" in value:
        raise DataError(f"{NNUNET_FILE}: names its files one by one (the key dataset), which is not read; {_ADVICE}")
    names, labels, ending = value["channel_names"], value["labels"], value["file_ending"]
    if not isinstance(names, dict) or sorted(names) != sorted(map(str, range(len(names)))):
        raise DataError(f"{NNUNET_FILE}: expected channel_names from 0 on, found {names}")
    if not isinstance(labels, dict) or labels.get("background") != 0:
        raise DataError(f"{NNUNET_FILE}: expected labels as name: value with background: 0, found {labels}")
    if ending_of(f"x{ending}") != str(ending).lower():
        tif = "; TIFF is a picture to some programs and a volume to others" if "tif" in str(ending) else ""
        raise DataError(f"{NNUNET_FILE}: file_ending {ending!r} cannot be read{tif}; save the files as .nii.gz or .png")
    return [str(names[str(number)]) for number in range(len(names))], ending, labels


def _image(folder: Path, channels: list[str], ending: str, notes: list[str]) -> dict[str, Any]:
    """Return the section `image`: how nnU-Net normalises follows from the channels' names."""
    small = [name.casefold() for name in channels]
    if unknown := [name for name, scheme in zip(channels, small, strict=True) if scheme in _OTHER_SCHEMES]:
        raise DataError(
            f"{NNUNET_FILE}: channel {', '.join(unknown)} names a normalisation that is not known; {_ADVICE}"
        )
    if "ct" in small and set(small) != {"ct"}:
        raise DataError(
            f"{NNUNET_FILE}: channels {', '.join(channels)} are normalised in two ways, CT by fixed numbers and others "
            f"case by case; {_ADVICE}, with modality: other and normalise: per_case for all"
        )
    if almost := [name for name in channels if "ct" in name.casefold() and name.casefold() != "ct"]:
        notes.append(
            f"channel {', '.join(map(repr, almost))} is not CT to nnU-Net, which knows whole names: its values are "
            "normalised case by case, not as Hounsfield units"
        )
    image: dict[str, Any] = {"modality": "ct" if set(small) == {"ct"} else _modality(small), "channels": channels}
    numbers = range(len(channels))
    if ending in PICTURES:
        split = next((folder / "imagesTr").glob(f"*_0001{ending}"), None) is not None
        colours = set(small) in _COLOUR_NAMES or set(small) == {"rgb_to_0_1"}
        image |= {"modality": "photo" if colours else "other", "dtype": "uint8"}
        if not colours:
            image["normalise"] = "per_case"
        numbers = numbers if split else range(1)
    image["files"] = [f"imagesTr/{{case}}_{number:04d}{ending}" for number in numbers]
    return image


def _modality(names: list[str]) -> str:
    return "mr" if all(name.startswith(_MR) for name in names) else "other"


def _values(labels: dict[str, Any]) -> tuple[dict[str, list[int]], int | None]:
    """Return structure -> its values, and the value to ignore."""
    ignore, found = None, {}
    for name, value in labels.items():
        values = value if isinstance(value, list) else [value]
        if not all(isinstance(one, int) and not isinstance(one, bool) for one in values):
            raise DataError(
                f"{NNUNET_FILE}: label {name!r} is {value!r}, expected a whole number, or several of a region"
            )
        if name == "ignore":
            ignore = values[0]
        elif name != "background":
            found[_word(name)] = values
    if len(found) < len([name for name in labels if name not in ("background", "ignore")]):
        raise DataError(f"{NNUNET_FILE}: two labels have the same name in letters, digits and _: {', '.join(labels)}")
    return found, ignore


def _word(name: str) -> str:
    """Return a label's name without what names of structures cannot hold."""
    word = "".join(letter if letter.isascii() and (letter.isalnum() or letter in "_.+-") else "_" for letter in name)
    return word if word[:1].isalpha() else f"label_{word}"


def _name(folder: Path, value: dict[str, Any]) -> str:
    """Return the name that the file gives, or the folder's where it is nnU-Net's (a fetched copy may have another)."""
    own = folder.resolve().name
    given = str(value.get("name") or (own if own.startswith("Dataset") else ""))
    return _word(given).strip("_.+-").replace("+", "-") if given else "nnunet"

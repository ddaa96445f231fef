"""Which image a pipeline is submitted with, when it names one that no registry holds.

The committed pipelines name `ctan:<version>`, which exists where somebody built it. A cluster that cannot pull it says
nothing and waits for ever.
"""

from __future__ import annotations

import ipaddress
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import ValidationError

from ctan.cluster.compiled import CompiledPipeline
from ctan.cluster.endpoint import Endpoint
from ctan.cluster.values import Values
from ctan.errors import ConfigError

VARIABLE = "CTAN_IMAGE"
RELEASE = Path("dist") / "release.json"


@dataclass(frozen=True)
class ChosenImage:
    """The image to submit with.

    Attributes:
        reference: what to write into the pipeline; None to leave it as it is.
        note: what to tell of it; empty for nothing.
    """

    reference: str | None
    note: str = ""


def choose_image(pipeline: CompiledPipeline, endpoint: Endpoint, values: Values | None = None) -> ChosenImage:
    """Choose the image of a pipeline that names none of a registry.

    The values file decides, then what the pipeline itself names if that is of a registry, then the environment, then
    the release of this checkout.

    Raises:
        ConfigError: when the endpoint is another machine and no image of a registry is known, or one is malformed.
    """
    named = sorted({str(container["image"]) for container in pipeline.containers.values()})
    if (values and values.image) or not any(_is_local(image) for image in named):
        return ChosenImage(None)
    if given := os.environ.get(VARIABLE):
        return ChosenImage(_checked(given, VARIABLE), f"image {given} ({VARIABLE})")
    for folder in (Path.cwd(), Path(pipeline.source).absolute().parent.parent):
        if (folder / RELEASE).is_file():
            reference = _released(folder / RELEASE)
            if not _is_local(reference):
                return ChosenImage(reference, f"image {reference} ({folder / RELEASE})")
    how = (
        f"set {VARIABLE}=registry.example.org/ctan:TAG, or `image:` in a values file, or make a release "
        "(`make release REGISTRY=...`), which is then found"
    )
    missing = f"image {', '.join(named)} is in no registry"
    if not _is_loopback(endpoint):
        raise ConfigError(
            f"{pipeline.source}: its {missing}, so that the cluster at {endpoint.probe} could not pull it and the run "
            f"would wait for ever; {how}"
        )
    return ChosenImage(
        None,
        f"warning: {missing}. That works where this machine's own cluster has it (`kind load docker-image`, "
        "`minikube image load`); a port-forward to another cluster looks the same from here, and there the run waits "
        f"for ever: {how}",
    )


def with_image(values: Values | None, image: ChosenImage) -> Values | None:
    """Return the settings of the cluster with the chosen image in them."""
    if image.reference is None:
        return values
    return (values or Values()).model_copy(update={"image": image.reference})


def _is_local(image: str) -> bool:
    """Whether a reference names no registry; a first part without dot, port or `localhost` is a user of Docker Hub."""
    return "/" not in image


def _released(path: Path) -> str:
    try:
        notes: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return _checked(str(notes["image"]["reference"]), str(path))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: cannot be read as the notes of a release; `make release` writes them") from error


def _checked(image: str, source: str) -> str:
    try:
        Values(image=image)
    except ValidationError as error:
        raise ConfigError(
            f"{source}: expected an image, name:tag or name@sha256:<64 hexadecimal digits>, found {image!r}"
        ) from error
    return image


def _is_loopback(endpoint: Endpoint) -> bool:
    host = urlsplit(endpoint.probe).hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

"""Pipelines kept by Kubeflow as versions: what a schedule runs can be looked at, compared and found again.

A version is named by a hash of its content, so that the same is uploaded once, and never changes.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from ctan import __version__
from ctan.cluster.client import Connection, Package, quiet


def content_hash(package: Package) -> str:
    """Return a hash of what is run: pipeline with its settings, and account."""
    content = [package.pipeline.spec, package.pipeline.platform, package.service_account]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def uploaded(connection: Connection, package: Package) -> tuple[str, str] | None:
    """Have a server keep a pipeline as a version.

    Returns:
        Ids of pipeline and version; None where the server keeps none, or does not let this user upload.
    """
    import kfp_server_api

    client, namespace = connection.client, connection.namespace
    name, version = package.pipeline.name, f"{__version__}-{content_hash(package)}"
    try:
        with quiet(), package.file() as path:
            found = client.list_pipelines(filter=_named(name), namespace=namespace).pipelines or []
            if not found:
                pipeline_id = client.upload_pipeline(path, name, namespace=namespace).pipeline_id
            else:
                pipeline_id = found[0].pipeline_id
            known = client.list_pipeline_versions(pipeline_id, filter=_named(version)).pipeline_versions or []
            if known:
                return pipeline_id, known[0].pipeline_version_id
            made = client.upload_pipeline_version(path, version, pipeline_id)
            return pipeline_id, made.pipeline_version_id
    except kfp_server_api.ApiException as error:
        if error.status in (403, 404, 405, 501):
            return None
        raise


def _named(name: str) -> str:
    predicate: dict[str, Any] = {"operation": "EQUALS", "key": "display_name", "stringValue": name}
    return json.dumps({"predicates": [predicate]})

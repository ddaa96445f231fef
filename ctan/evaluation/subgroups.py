"""Groups of cases that the report tells apart and no promotion may harm: sex, age band, site, voxel size, missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import pyarrow as pa

from ctan.cases import DataSpec
from ctan.errors import ConfigError

_SPACING, _MISSING = "spacing", "missing"
_MOST_TEXTS = 12  # different ones: more are names, not groups


def known_facts(manifest: pa.Table, spec: DataSpec) -> dict[str, tuple[float, ...]]:
    """Return what cases can be told apart by where nobody said by what: facts, voxel size, what is missing.

    Numbers are divided at their median.

    Args:
        manifest: of the cases.
        spec: of the data.

    Returns:
        Column, `spacing` or `missing` -> edges of bands, as `subgroups` takes them.
    """
    found: dict[str, tuple[float, ...]] = {}
    for name, kind in spec.facts.items():
        values = [value for value in manifest[name].to_pylist() if value is not None]
        different = set(values)
        if kind == "string" and 1 < len(different) <= _MOST_TEXTS:
            found[name] = ()
        elif kind != "string" and len(different) > 1:
            found[name] = (float(median(values)),)
    edges = [max(spacing) for spacing in manifest["spacing_mm"].to_pylist()]
    if spec.spatial_dims == 3 and len(set(edges)) > 1:
        found[_SPACING] = (float(median(edges)),)
    return {**found, _MISSING: ()} if any(manifest["missing"].to_pylist()) else found


def subgroups(manifest: pa.Table, wanted: Mapping[str, Sequence[float]]) -> dict[str, set[str]]:
    """Return the cases of each group, `"sex = F"`, `"50 <= age < 70"`, `"LeftParotid missing"` -> case ids.

    A case of which the fact is not known is in no group of it.

    Args:
        manifest: of the store.
        wanted: column of the manifest, `spacing` (largest voxel edge in mm) or `missing` -> edges of bands; texts have
            none.

    Raises:
        ConfigError: for a fact that the data do not have, or numbers without edges.
    """
    rows: list[dict[str, Any]] = manifest.to_pylist()
    found: dict[str, set[str]] = {}
    for name, edges in wanted.items():
        if name == _MISSING:
            for structure in sorted({structure for row in rows for structure in row["missing"]}):
                found[f"{structure} missing"] = {row["case_id"] for row in rows if structure in row["missing"]}
            continue
        if name != _SPACING and name not in manifest.column_names:
            known = ", ".join([_SPACING, _MISSING, *manifest.column_names])
            raise ConfigError(f"promotion.subgroups: the data have no {name!r}; there are: {known}")
        values = {row["case_id"]: max(row["spacing_mm"]) if name == _SPACING else row[name] for row in rows}
        present = [(value, case_id) for case_id, value in values.items() if value is not None]
        for value, case_id in sorted(present):  # bands from low to high
            found.setdefault(_group(name, value, edges), set()).add(case_id)
    return found


def _group(name: str, value: Any, edges: Sequence[float]) -> str:
    if isinstance(value, str):
        return f"{name} = {value}"
    if not isinstance(value, int | float) or not edges:
        raise ConfigError(f"promotion.subgroups.{name}: numbers need the edges of bands, such as [50, 70]")
    edges = sorted(edges)
    place = sum(value >= edge for edge in edges)
    low = f"{edges[place - 1]:g} <= " if place else ""
    high = f" < {edges[place]:g}" if place < len(edges) else ""
    return f"{low}{name}{high}"

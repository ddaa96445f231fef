"""Write the parameters of `ctan.parameters` where KFP must see them spelled out: pipelines and their first component.

`python -m pipelines.signatures` (part of `make pipeline`) writes; `--check` says what is stale and ends with 1.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from ctan.parameters import PARAMETERS, Parameter

ROOT = Path(__file__).parents[1]
_WIDTH = 120
_ROOTS = ("store_root", "checkpoint_root")
FILES = ("pipelines/ctan.py", "pipelines/retrain.py", "components/resolve/component.py")


def written(name: str, text: str) -> str:
    """Return the source of a file with the parameters as they are now."""
    if name.startswith("components"):
        chosen = [parameter for parameter in PARAMETERS if _is_first(parameter)]
        text = _between(text, r"def resolve\(\n", r"\) -> ", "".join(f"    {p.name}: {p.kind},\n" for p in chosen))
        text = _between(text, r"    Args:\n", r"\n    Returns:", _described(chosen))
        given = "".join(f"            {p.name}={p.name},\n" for p in chosen if p.name not in ("profile", *_ROOTS))
        return _between(text, r"            profile,\n", r"        \),\n        store_root,\n", given)
    function = {"ctan": "journey"}.get(Path(name).stem, Path(name).stem)
    text = _between(text, rf"def {function}\(\n", r"\):\n", "".join(_declared(p, function) for p in PARAMETERS))
    text = _between(text, r"    Args:\n", r'    """\n', _described(PARAMETERS))
    indent = " " * (16 if function == "retrain" else 12)  # inside what closes the run
    handed = "".join(f"{indent}{p.name}={p.name},\n" for p in PARAMETERS if _is_first(p))
    text = _between(text, r" resolve\(\n", rf"{indent[4:]}\),\n", handed)
    if function == "retrain":
        nested = "".join(f"{indent}{p.name}={p.name},\n" for p in PARAMETERS if p.name != "source")
        text = _between(text, r' source=resolved\.outputs\["source"\],\n', rf"{indent[4:]}\)", nested)
    return text


def _is_first(parameter: Parameter) -> bool:
    """Whether the first step gets a parameter: settings, and the roots, at which it looks."""
    return parameter.resolved or parameter.name in _ROOTS


def _between(text: str, before: str, after: str, content: str) -> str:
    changed, count = re.subn(
        f"({before}).*?(?={after})", lambda m: m.group(1) + content, text, count=1, flags=re.DOTALL
    )
    if not count:
        raise ValueError(f"no place between {before!r} and {after!r}")
    return changed


def _declared(parameter: Parameter, function: str) -> str:
    if function == "retrain" and parameter.name == "source":  # nobody retrains on phantoms by accident
        return f"    {parameter.name}: {parameter.kind},\n"
    value = "[],  # noqa: B006" if parameter.kind.startswith("list") else f"{_literal(parameter.value)},"
    return f"    {parameter.name}: {parameter.kind} = {value}\n"


def _literal(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else repr(value)


def _described(parameters: Sequence[Parameter]) -> str:
    lines = []
    for parameter in parameters:
        text = f"{parameter.name}: {parameter.text(own=True)}"
        if parameter.default is None:
            text += f" {'0' if parameter.kind in ('int', 'float') else 'Empty'}: {parameter.empty}."
        lines += _wrapped(text)
    return "".join(f"{line}\n" for line in lines)


def _wrapped(text: str) -> list[str]:
    from textwrap import wrap

    return wrap(text, _WIDTH, initial_indent=" " * 8, subsequent_indent=" " * 12, break_on_hyphens=False)


def main(check: bool = False) -> int:
    """Write the files, or say which are stale."""
    stale = []
    for name in FILES:
        path = ROOT / name
        text = path.read_text(encoding="utf-8")
        if (new := written(name, text)) != text:
            stale.append(name)
            if not check:
                path.write_text(new, encoding="utf-8")
    if check and stale:
        print(f"{', '.join(stale)}: stale, run `make pipeline`", file=sys.stderr)
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main(check="--check" in sys.argv))

"""Stage the pages of the documentation in build/docs, with references made from the code, for `make docs`.

Links to files outside docs/ become the file's path, for the site holds no sources.
"""

from __future__ import annotations

import html
import json
import re
import shutil
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import grimp
import typer.main
from pydantic import BaseModel

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
TARGET = ROOT / "build" / "docs"
OUTER = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md", "SECURITY.md": "security.md"}
API = {
    "api-plugs": (
        "What a plug brings",
        ["ctan.datasets.base", "ctan.networks", "ctan.tasks.base", "ctan.cases"],
    ),
    "api-metrics": (
        "Metrics",
        [f"ctan.metrics.{name}" for name in ("segmentation", "dose", "classification", "paired", "temperature")],
    ),
    "api-use": (
        "Settings, stores, models and predictions from Python",
        ["ctan.settings", "ctan.store", "ctan.training.loop", "ctan.inference", "ctan.prediction"],
    ),
}
_LINK = re.compile(r"\[([^\]]*)\]\((?!https?:|#|mailto:)([^)#\s]+)(#[^)\s]*)?\)")


def stage() -> None:
    """Write all pages anew."""
    shutil.rmtree(TARGET, ignore_errors=True)
    (TARGET / "reference").mkdir(parents=True)
    for page in DOCS.glob("*.md"):
        write(page.name, relinked(page.read_text("utf-8"), DOCS))
    for name, target in OUTER.items():
        write(target, relinked((ROOT / name).read_text("utf-8"), ROOT))
    if (DOCS / "images").is_dir():
        shutil.copytree(DOCS / "images", TARGET / "images")
    write("reference/commands.md", commands_page())
    write("reference/settings.md", settings_page())
    write("reference/house.md", house_page())
    for name, (title, modules) in API.items():
        write(f"reference/{name}.md", "\n\n".join([f"# {title}", *(f"::: {module}" for module in modules)]))


def write(name: str, text: str) -> None:
    (TARGET / name).write_text(text.rstrip() + "\n", encoding="utf-8")


def relinked(text: str, folder: Path) -> str:
    """Return a page whose links are those of the site: to its pages, or to nothing but a path.

    Args:
        text: Markdown.
        folder: that the page lies in.
    """

    def link(found: re.Match[str]) -> str:
        shown, target, anchor = found[1], (folder / found[2]).resolve(), found[3] or ""
        if target.is_relative_to(DOCS) and target.suffix in (".md", ".png", ".svg"):
            return f"[{shown}]({target.relative_to(DOCS)}{anchor})"
        path = target.relative_to(ROOT).as_posix()
        if path in OUTER:
            return f"[{shown}]({OUTER[path]}{anchor})"
        return shown if shown.strip("`") == path else f"{shown} (`{path}`)"

    return _LINK.sub(link, text)


def commands_page() -> str:
    """Return the reference of the command line, from the commands themselves."""
    from ctan.cli import app, in_plain_words

    lines = ["# Commands", "", "`ctan COMMAND --help` says the same in a terminal.", ""]
    for words, command in commands_below("ctan", in_plain_words(typer.main.get_command(app))):
        said = re.sub(
            r"\n\s*\n\s*Example:\s*(.*)", r"\n\n```\n\1\n```", " \n".join((command.help or "").splitlines()), flags=re.S
        )
        said = said.replace("\\ \n", "\\\n")  # an example that goes on
        lines += [f"## {words}", "", said, "", "| | | |", "|---|---|---|"]
        for parameter in command.params:
            if getattr(parameter, "hidden", False):
                continue
            named = parameter.param_type_name == "argument"
            name = parameter.display_name_raw if named else ", ".join([*parameter.opts, *parameter.secondary_opts])
            kind = "" if named else parameter.metavar or ""
            lines.append(f"| `{name}` | {cell(kind)} | {cell(parameter.help or '')}{default_of(parameter)} |")
        lines.append("")
    return "\n".join(lines)


def commands_below(words: str, command: Any) -> Iterator[tuple[str, Any]]:
    for name, below in getattr(command, "commands", {}).items():
        if getattr(below, "commands", None):
            yield from commands_below(f"{words} {name}", below)
        else:
            yield f"{words} {name}", below


def default_of(parameter: Any) -> str:
    shown = getattr(parameter, "show_default", False)
    if isinstance(shown, str):
        return f" Default: {cell(shown)}."
    return f" Default: `{cell(parameter.default)}`." if shown and parameter.default not in (None, "", ()) else ""


def cell(value: object) -> str:
    return html.escape(" ".join(str(value).split()), quote=False).replace("|", "\\|")


def settings_page() -> str:
    """Return the reference of the settings, from their models, with the values of each packaged profile."""
    from ctan import plugins
    from ctan.networks import options_of
    from ctan.parameters import PROFILES
    from ctan.settings import resolve_config

    profiles = {name: resolve_config(name) for name in PROFILES}
    lines = [
        "# Settings",
        "",
        "Any of them: `--set FIELD=VALUE`. The columns are the packaged profiles for OpenKBP; "
        "`ctan config --profile cpu` prints a whole profile, `--describe` this list.",
        "",
    ]
    sections: dict[str, list[str]] = {}
    for field, values, description in fields(profiles):
        section = field.rpartition(".")[0]
        sections.setdefault(section, []).append(row(field.rpartition(".")[2], values, description))
    for arch in plugins.names(plugins.NETWORKS, own=True):
        options = {name: options_of(arch, config.network) for name, config in profiles.items()}
        found = [row(field, values, text) for field, values, text in fields(options)]
        if found:
            sections[f"network.options.{arch}"] = found
    for section, rows in sections.items():
        title = section or "The run"
        lines += [
            f"## {title}",
            "",
            f"| field | {' | '.join(PROFILES)} | |",
            f"|---|{'---|' * len(PROFILES)}---|",
            *rows,
            "",
        ]
    return "\n".join(lines)


def fields(models: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, list[Any], str]]:
    first = next(iter(models.values()))
    for name, field in type(first).model_fields.items():
        values = {profile: getattr(model, name) for profile, model in models.items()}
        if isinstance(values[next(iter(values))], BaseModel):
            yield from fields(values, f"{prefix}{name}.")
        else:
            dumped = [model.model_dump(mode="json")[name] for model in models.values()]
            yield prefix + name, dumped, field.description or ""


def row(field: str, values: list[Any], description: str) -> str:
    shown = " | ".join(f"`{cell(json.dumps(value))}`" for value in values)
    return f"| `{field}` | {shown} | {cell(description)} |"


def house_page() -> str:
    """Return the rooms of the house as a picture, from the import contract and the imports."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        contracts = tomllib.load(file)["tool"]["importlinter"]["contracts"]
    layers = next(contract["layers"] for contract in contracts if contract["type"] == "layers")
    rows = [[name.strip() for name in layer.split("|")] for layer in layers]
    graph = grimp.build_graph("ctan", exclude_type_checking_imports=True)
    uses = {
        room: sorted(
            other
            for other in (name for names in rows for name in names)
            if other != room and direct(graph, room, other)
        )
        for room in (name for names in rows for name in names)
    }
    width, height = 960, 34
    parts = [
        f'<svg viewBox="0 0 {width} {height * len(rows)}" xmlns="http://www.w3.org/2000/svg" role="img" '
        'font-family="sans-serif" font-size="12" style="max-width:100%">'
    ]
    for number, names in enumerate(rows):
        step = width / len(names)
        for place, name in enumerate(names):
            x, y = place * step + 4, number * height + 4
            said = ", ".join(other.removeprefix("ctan.") for other in uses[name]) or "nothing above the vocabulary"
            parts.append(
                f"<g><title>{name.removeprefix('ctan.')} uses {said}</title>"
                f'<rect x="{x:.0f}" y="{y}" width="{step - 8:.0f}" height="{height - 8}" rx="4" fill="#3f51b5" '
                f'fill-opacity="0.15" stroke="#3f51b5"/>'
                f'<text x="{x + step / 2 - 4:.0f}" y="{y + 17}" text-anchor="middle" fill="currentColor">'
                f"{name.removeprefix('ctan.')}</text></g>"
            )
    parts.append("</svg>")
    table = [f"| `{room}` | {', '.join(f'`{other}`' for other in others)} |" for room, others in uses.items()]
    return "\n".join(
        [
            "# The rooms",
            "",
            "Made from the imports. A room uses those below it, never one above: `make lint` holds that. "
            "What each room knows: [architecture](../architecture.md).",
            "",
            "".join(parts),
            "",
            "| room | uses |",
            "|---|---|",
            *table,
        ]
    )


def direct(graph: Any, room: str, other: str) -> bool:
    """Return whether a module of one room imports one of another."""
    ours, theirs = ({name, *graph.find_descendants(name)} for name in (room, other))
    return any(graph.find_modules_directly_imported_by(module) & theirs for module in ours)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    stage()

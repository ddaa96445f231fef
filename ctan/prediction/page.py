"""The pages of predictions: one a case for a person to check, and one of all cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from ctan import html
from ctan.cases import DataSpec, levels_of
from ctan.cases.prediction import LABEL
from ctan.drawing import png, structure_colours, style
from ctan.files import write_text
from ctan.html import Markup, element
from ctan.intake.contact_sheet import contact_sheet
from ctan.metrics import dvh_curve
from ctan.prediction.ask import Answer
from ctan.prediction.measure import dose_inside, shown_structures
from ctan.prediction.trust_page import trust
from ctan.records import PredictionRecord

PAGE_FILE = "report.html"
_DPI = 110
_STEP_GY = 0.1
_MOST_COLUMNS = 4  # of numbers in the table of all cases


def write_case_page(
    answer: Answer, record: PredictionRecord, spec: DataSpec, path: Path, more: Sequence[object] = ()
) -> None:
    """Write the page of one case: slices with contours and dose, DVH, probabilities, warnings, and how it was made.

    Args:
        answer: what was predicted.
        record: of it.
        spec: of the model.
        path: of the page.
        more: further parts, before how it was made.
    """
    case, prediction = answer.case, answer.prediction
    masks = {name: case.masks[name] for name in spec.targets if name in case.masks} | dict(prediction.masks)
    drawn = replace(case, masks=masks, doses=prediction.doses, labels={}, numbers={})
    parts: list[object] = [_heading(record.case_id), _warnings(record)]
    if record.probabilities or record.numbers:
        parts += [element("h2", "Predicted labels"), _labels(record)]
    sheet = html.image(png(contact_sheet(drawn, spec), _DPI), f"The case {record.case_id} with what was predicted")
    parts += [element("h2", "Where it is"), sheet, _legend(spec, prediction.masks)]
    parts += trust(answer, record, spec)
    if prediction.doses:
        parts += [element("h2", "Predicted dose"), _dvh(answer, spec), _doses(record)]
    if record.volumes_cc:
        rows = [[name, f"{value:.2f}"] for name, value in record.volumes_cc.items()]
        parts += [element("h2", "Predicted volumes"), html.table(["structure", "cc"], rows)]
    parts += [*more, element("h2", "How it was made"), _made(record)]
    write_text(path, html.page(f"{record.case_id}: {LABEL.lower()}", *parts))


def write_index(records: Sequence[PredictionRecord], failed: Mapping[str, str], path: Path) -> None:
    """Write the page of all cases: a row each with its warnings, and why others could not be predicted."""
    title = f"{len(records)} predicted {'case' if len(records) == 1 else 'cases'}"
    parts: list[object] = [element("h1", title), _label()]
    if failed:
        rows = [[case_id, reason] for case_id, reason in failed.items()]
        parts += [element("h2", f"Not predicted: {len(failed)}"), html.table(["case", "why"], rows, text=True)]
    if records:
        names = [*records[0].probabilities, *records[0].numbers, *records[0].volumes_cc][:_MOST_COLUMNS]
        dose = ["largest dose"] if records[0].dose_gy else []
        rows = [[_link(record), *_values(record, names, bool(dose)), _joined(record.warnings)] for record in records]
        parts += [element("h2", "Cases"), html.table(["case", *names, *dose, "warnings"], rows)]
        parts += [element("h2", "How they were made"), _made(records[0])]
    write_text(path, html.page(f"{title}: {LABEL.lower()}", *parts))


def _heading(case_id: str) -> Markup:
    return html.join(element("h1", case_id), _label())


def _label() -> Markup:
    text = "Made by a model. No person has checked it. It is no medical device and decides nothing about a patient."
    return element("div", element("p", element("span", LABEL, class_="bad")), element("p", text), class_="card")


def _warnings(record: PredictionRecord) -> Markup:
    told = [*record.warnings, *record.differences]
    if not told:
        return element("p", "No warnings.", class_="soft")
    return element("div", *(element("p", sentence) for sentence in told), class_="card")


def _labels(record: PredictionRecord) -> Markup:
    parts: list[object] = []
    for label, classes in record.probabilities.items():
        ranked = sorted(classes.items(), key=lambda one: -one[1])
        rows = [[name, f"{value:.3f}", _bar(value)] for name, value in ranked]
        parts.append(html.table([label, "probability", ""], rows))
    if record.numbers:
        parts.append(html.table(["number", "value"], [[n, f"{value:.4g}"] for n, value in record.numbers.items()]))
    return element("div", *parts, class_="side")


def _bar(share: float) -> Markup:
    width = f"{max(0.0, min(1.0, share)) * 160:.0f}px"
    return element("div", "", style=f"width:{width};height:.8em;background:#1f5fa8;border-radius:2px")


def _legend(spec: DataSpec, predicted: Mapping[str, object]) -> Markup:
    given = [name for name in spec.targets if name not in predicted]
    words = (
        f"Contours of {', '.join(given)} as given; all others are predicted." if given else "Contours are predicted."
    )
    return element("p", words, class_="soft") if predicted or given else Markup("")


def _dvh(answer: Answer, spec: DataSpec) -> Markup:
    """Return the dose-volume histogram of the predicted dose."""
    dose = answer.prediction.doses["dose"]
    levels_gy = levels_of(answer.case, spec.targets) if spec.targets else {}
    colours = structure_colours(spec.structures, levels_gy, spec.mirrored_pairs)
    places = np.arange(0, float(dose.max()) + 2 * _STEP_GY, _STEP_GY)
    with style():
        figure = Figure(figsize=(9.5, 4.2))
        axes = figure.add_subplot()
        for name in shown_structures(answer.case, answer.prediction, spec):
            line = "-" if name in answer.prediction.masks else "--"
            inside = dose_inside(name, answer.case, answer.prediction)
            axes.plot(places, 100 * dvh_curve(inside, places), line, color=colours[name], label=name)
            if name in answer.case.levels_gy:
                axes.plot(levels_gy[name], 100, "v", color=colours[name], label=f"{name}, prescribed")
        axes.set(xlabel="dose, Gy", ylabel="volume that receives at least this, %", xlim=(0, None), ylim=(0, 102))
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8.5)
        figure.tight_layout()
        drawn = png(figure, _DPI)
    caption = "Predicted dose in predicted structures (solid) and in those that came with the case (dashed)."
    return html.image(drawn, "Dose-volume histogram of the predicted dose", caption)


def _doses(record: PredictionRecord) -> Markup:
    rows = [[name, *(f"{value:.2f}" for value in values.values())] for name, values in record.dose_gy.items() if name]
    if not rows:
        return Markup("")
    columns = next(list(values) for name, values in record.dose_gy.items() if name)
    return html.table(["structure", *(f"{column}, Gy" for column in columns)], rows)


def _made(record: PredictionRecord) -> Markup:
    models = ", ".join(f"{m.name} ({m.arch}, fold {m.fold}, seed {m.seed})" for m in record.models)
    facts = {
        "model": models,
        "weights (SHA-256)": ", ".join(model.weights_sha256 for model in record.models),
        "trained on data": record.models[0].data_hash,
        "input (SHA-256)": record.input_sha256,
        "settings": ", ".join(f"{name} {value}" for name, value in record.settings.items()),
        "windows": str(record.windows),
        "code": f"ctan {record.ctan}, commit {record.commit or 'unknown'}",
        "made": f"{record.time}, {record.seconds:.1f} s on {record.device}",
    }
    pairs = [part for name, value in facts.items() for part in (element("dt", name), element("dd", value))]
    return element("dl", *pairs, class_="facts")


def _link(record: PredictionRecord) -> Markup:
    return element("a", record.case_id, href=f"{record.case_id}/{PAGE_FILE}")


def _joined(warnings: Sequence[str]) -> Markup:
    return element("small", "; ".join(warnings)) if warnings else Markup("")


def _values(record: PredictionRecord, names: Sequence[str], dose: bool) -> list[str]:
    cells = []
    for name in names:
        if name in record.probabilities:
            best = max(record.probabilities[name].items(), key=lambda one: one[1])
            cells.append(f"{best[0]} ({best[1]:.2f})")
        elif name in record.numbers:
            cells.append(f"{record.numbers[name]:.4g}")
        else:
            cells.append(f"{record.volumes_cc.get(name, 0.0):.1f} cc")
    return cells + ([f"{record.dose_gy.get('', {}).get('max', 0.0):.1f} Gy"] if dose else [])

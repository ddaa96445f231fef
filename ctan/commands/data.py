"""`ctan data ...`: raw files to store, step by step."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated, Literal, Optional

import typer

from ctan.commands import options as o
from ctan.errors import DataError
from ctan.parameters import DEFAULT_PROFILE, PROFILES

app = typer.Typer(no_args_is_help=True, help="Raw files: get them, look at them, and step by step to a store.")

Source = Annotated[
    str,
    typer.Argument(
        help="Folder of raw files, s3://bucket/prefix, dvc:REPOSITORY@REVISION, dicomweb:https://host/dicom-web?QUERY, "
        "or phantom:train=N,validation=N,seed=N."
    ),
]

Workers = Annotated[int, typer.Option(help="Processes; 0: one a core, as far as memory goes.", min=0)]


@app.command()
def phantom(
    folder: Annotated[Path, typer.Argument(help="New folder that receives the patients.")],
    train: Annotated[int, typer.Option(help="Training patients.", min=0)] = 12,
    validation: Annotated[int, typer.Option(help="Validation patients.", min=0)] = 4,
    seed: Annotated[int, typer.Option(help="Same seed, same bytes.", min=0)] = 0,
    dataset: o.Dataset = "openkbp",
    defects: Annotated[
        Optional[list[str]],  # noqa: UP045 - typer evaluates it
        typer.Option("--defect", help="Spoil something on purpose, to see what is said. Repeatable."),
    ] = None,
) -> None:
    """Write small synthetic cases in a data set's own raw format.

    Example: ctan data phantom data/phantoms --dataset ham10000 --train 40 --validation 10
    """
    from ctan.datasets import get_dataset
    from ctan.errors import DataError
    from ctan.files import atomic_path
    from ctan.sources.synthetic import mark

    if folder.exists():
        raise DataError(f"{folder}: exists already; name a folder that does not, nothing is overwritten")
    with atomic_path(folder) as beside:
        get_dataset(dataset).write_phantoms(beside, train, validation, seed, tuple(defects or ()))
        mark(beside)
    typer.echo(f"{train + validation} cases in {folder}")


@app.command(name="list")
def list_data_sets() -> None:
    """List the data sets that are installed, and which package brings each.

    Example: ctan data list
    """
    from ctan import plugins

    for name in plugins.names(plugins.DATASETS):
        package, line = plugins.about(plugins.DATASETS, name)
        typer.echo(f"{name:<12} {package:<12} {line}")


@app.command()
def describe(
    folder: Annotated[Path, typer.Argument(help="Folder of images: nnU-Net v2's, or images with masks and a table.")],
    force: Annotated[bool, typer.Option("--force", help="Overwrite a dataset.yaml that is there.")] = False,
) -> None:
    """Write a first dataset.yaml from what a folder holds, for `--dataset folder`.

    Example: ctan data describe data/mine
    """
    from ctan.datasets.folder.describe import describe as describe_folder

    typer.echo(describe_folder(folder, force))


@app.command()
def ingest(
    source: Source,
    profile: o.Profile = DEFAULT_PROFILE,
    dataset: o.Dataset = "",
    overrides: o.Overrides = None,
    store_root: o.StoreRoot = "",
    workers: Workers = 0,
    folder: o.Folder = None,
) -> None:
    """Read and measure every raw case into a manifest; broken cases go to quarantine. Decides the settings.

    Example: ctan data ingest data/openkbp --profile cpu --set data.max_train_cases=24
    """
    from ctan import steps
    from ctan.settings import resolve_config

    config = resolve_config(profile, dataset=dataset, overrides=overrides or [], source=source)
    outputs = o.StepFolder.of(folder)
    shutil.rmtree(outputs.manifest, ignore_errors=True)
    _, settings, origin = steps.resolve(source, config, store_root)
    found = steps.ingest(settings, origin, str(outputs.manifest), workers or None, str(outputs.contact_sheet))
    if not found["num_cases"]:
        raise DataError(f"all {found['num_quarantined']:.0f} cases are in quarantine, see {outputs.manifest}")
    typer.echo(f"manifest in {outputs.manifest}; next: ctan data validate")


@app.command()
def validate(overrides: o.Overrides = None, folder: o.Folder = None) -> None:
    """Check the manifest; failed cases go to quarantine, too many of them stop here (exit code 2).

    Example: ctan data validate --set validation.max_quarantined_share=0.1
    """
    from ctan import steps

    outputs = o.StepFolder.of(folder)
    manifest = outputs.needs_manifest()
    shutil.rmtree(outputs.validated, ignore_errors=True)
    verdict = steps.validate(
        manifest, str(outputs.validated), str(outputs.validation_report), overrides=overrides or []
    )
    typer.echo(f"report in {outputs.validation_report}")
    steps.gate(verdict)
    typer.echo("next: ctan data preprocess SOURCE")


@app.command()
def preprocess(source: Source, store_root: o.StoreRoot = "", workers: Workers = 0, folder: o.Folder = None) -> None:
    """Crop, resample and pack the validated cases into a store; does nothing when the store holds them.

    Example: ctan data preprocess data/openkbp
    """
    from ctan import steps

    outputs = o.StepFolder.of(folder)
    steps.preprocess(source, outputs.needs_validated(), str(outputs.pointer), store_root, num_workers=workers or None)
    typer.echo(f"pointer in {outputs.pointer}; next: ctan train --arch ctan")


@app.command()
def show(
    source: Source,
    cases: Annotated[list[str], typer.Argument(help="Case ids; several need an --output that ends in .html.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="PNG of one case, or HTML page of any number.")] = Path(
        "contact-sheet.png"
    ),
    profile: o.Profile = DEFAULT_PROFILE,
    dataset: o.Dataset = "",
    overrides: o.Overrides = None,
) -> None:
    """Draw cases as they are read: slices with contours and dose, or the picture with its outlines.

    Example: ctan data show data/openkbp pt_1 --output pt_1.png
    """
    from ctan.settings import resolve_config

    config = resolve_config(profile, dataset=dataset, overrides=overrides or [], source=source)
    from ctan.intake.look import show_cases

    show_cases(source, cases, output, config)
    typer.echo(f"{', '.join(cases)} in {output}")


@app.command()
def names(
    folder: Annotated[Path, typer.Argument(help="Folder of DICOM-RT files, a folder a patient.")],
    profile: o.Profile = DEFAULT_PROFILE,
    overrides: o.Overrides = None,
) -> None:
    """List the ROI names of planning data and the structures they match, to write data.options.structures from.

    For this terminal only: names may hold a person's, and reach no log or page otherwise.

    Example: ctan data names data/clinic --profile breast.yaml
    """
    from ctan.datasets.prostate.reader import Prostate
    from ctan.settings import resolve_config

    found = Prostate(resolve_config(profile, dataset="prostate", overrides=overrides or []).data).roi_names(folder)
    for name, (count, structure) in found.items():
        typer.echo(f"{count:6}  {name!r:40}  {structure or '-'}")
    unknown = sum(not structure for _, structure in found.values())
    typer.echo(f"{len(found)} names, {unknown} of which match no structure of data.options.structures")


@app.command()
def download(
    dataset: Annotated[str, typer.Argument(help="openkbp, ham10000 or stoic.")],
    folder: Annotated[Path, typer.Argument(help="Folder that receives the raw files.")],
    first: Annotated[int, typer.Option(help="Only the first N cases of each split; 0: all.", min=0)] = 0,
    case: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="Only this case. Repeatable."),
    ] = None,
    source: Annotated[str, typer.Option(help="A mirror, such as s3://bucket/prefix.", show_default="official")] = "",
    endpoint: Annotated[
        str, typer.Option(help="Another S3, Dataverse or GitHub server.", show_default="AWS_ENDPOINT_URL")
    ] = "",
    region: Annotated[str, typer.Option(help="Of an S3 server.", show_default="AWS_REGION")] = "",
    workers: Annotated[int, typer.Option(help="Transfers at a time.", min=1)] = 8,
) -> None:
    """Fetch a data set from its official source or a mirror; goes on where it was stopped, checks every file.

    Example: ctan data download stoic raw/stoic --first 20
    """
    from ctan.sources.download import download as fetch

    typer.echo(
        fetch(
            dataset,
            folder,
            subset=case or first or None,
            num_workers=workers,
            source=source or None,
            endpoint=endpoint or None,
            region=region or None,
        )
    )


@app.command()
def send(
    folder: Annotated[Path, typer.Argument(help="Folder of a prediction: `ctan predict ... --out`.")],
    server: Annotated[str, typer.Argument(help="dicomweb:https://host/dicom-web")],
    identified: Annotated[
        bool, typer.Option("--identified", help="Also objects that hold who the patient is.")
    ] = False,
) -> None:
    """Store predicted RTDOSE and RTSTRUCT on a DICOMweb server; nothing that does not say that it was predicted.

    Credentials: CTAN_DICOMWEB_TOKEN, or CTAN_DICOMWEB_USER and CTAN_DICOMWEB_PASSWORD.

    Example: ctan data send predicted/ dicomweb:https://pacs.example/dicom-web
    """
    from ctan.sources.dicomweb import send as send_folder

    typer.echo(f"{send_folder(folder, server, identified)} objects stored")


@app.command()
def convert(
    source: Source,
    folder: Annotated[Path, typer.Argument(help="Folder that receives train-pats/pt_<n> and mapping.csv.")],
    to: Annotated[Literal["openkbp"], typer.Option(help="Raw format to write.")] = "openkbp",  # noqa: ARG001 - one so far
    profile: o.Profile = DEFAULT_PROFILE,
    dataset: o.Dataset = "",
    rename: Annotated[
        Optional[list[str]],  # noqa: UP045 - typer evaluates it
        typer.Option(help="STRUCTURE=NAME, or STRUCTURE= to leave it out. Repeatable."),
    ] = None,
    target: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="STRUCTURE=PTV70, PTV63 or PTV56. Repeatable."),
    ] = None,
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "train",
    scale_to_gy: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="Scale doses so that each prescription becomes this.", min=1, show_default="as they are"),
    ] = None,
    overrides: o.Overrides = None,
) -> None:
    """Write planning data in the raw format of OpenKBP, possible-dose mask included; names cases it cannot convert.

    Example: ctan data convert raw/clinic raw/kbp --rename Prostate=Larynx --target PTV=PTV70 --scale-to-gy 70
    """
    from ctan.datasets import get_dataset
    from ctan.intake.convert import convert_to_openkbp, parse_names, read_cases
    from ctan.progress import track
    from ctan.settings import resolve_config
    from ctan.sources import open_source

    if profile in PROFILES:  # a file of one's own may name another
        dataset = dataset or "prostate"
    config = resolve_config(profile, dataset=dataset, overrides=overrides or [], source=source)
    data_set = get_dataset(config.data)
    names, targets = parse_names("--rename", rename or []), parse_names("--target", target or [])
    with open_source(source, data_set) as raw_dir:
        found = data_set.find(raw_dir)
        cases = track(read_cases(found, data_set), len(found), "convert")
        typer.echo(convert_to_openkbp(cases, data_set, folder, names, targets, split, scale_to_gy))
        typer.echo(f"patients in {folder}; next: ctan data ingest {folder} --dataset openkbp")


@app.command()
def forget(
    subject: Annotated[str, typer.Argument(help="Patient or lesion, as the tables name it (`group_id`).")],
    store_root: o.StoreRoot = "",
    also: Annotated[
        Optional[list[Path]],  # noqa: UP045
        typer.Option("--also", help="Another folder with outputs of ctan, such as predictions. Repeatable."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without, it is only said what would be done.")] = False,
) -> None:
    """Remove a subject from stores, caches, tables, pages and MLflow, and list the models that learned from it.

    Killed half-way, the same command goes on. What it cannot reach is said.

    Example: ctan data forget pt_17
    """
    from ctan.changes import carry_out
    from ctan.forget import plan

    changes = plan(subject, store_root, also or [])
    for change in changes:
        if yes:
            carry_out([change])
        mark = "-" if change.do is None else "done" if yes else "would"
        typer.echo(f"{mark:5} {change}")
    if not yes and any(change.do for change in changes):
        typer.echo("nothing was changed; --yes does it")

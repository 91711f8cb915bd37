"""``poxvisio data``: training data, drawn or brought along, and whether it can be trusted."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.listing import RESEARCH_USE, printable
from cli.options import example, json_option, print_json
from cli.progress import progress, tell
from shared.errors import DataRefused

if TYPE_CHECKING:
    import pandas as pd

_LAYOUTS = {"v1": "msld-v1", "v2": "msld-v2"}


def _known(_: click.Context, __: click.Parameter, address: str | None) -> str | None:
    if address and not address.startswith(("file:///", "s3://")):
        raise click.UsageError("--storage or STORAGE_URL must be file:///DIR or s3://BUCKET/PREFIX")
    return address or None


@click.group(epilog=example("poxvisio data synth practice/ --patients 20", "poxvisio data check practice/"))
def data() -> None:
    """Fetch or draw data sets, and check them before anything is learnt from them."""


@data.command(epilog=example("KAGGLE_API_TOKEN=... poxvisio data fetch msld-v1 --to msld-v1/"))
@click.argument("name", type=click.Choice(["msld-v1", "msld-v2"]))
@click.option(
    "--to", "folder", type=click.Path(path_type=Path), help="New or empty folder; else one of that name here."
)
@click.option(
    "--storage",
    envvar="STORAGE_URL",
    metavar="URL",
    callback=_known,
    help="Keeps a copy for other machines: file:///DIR or s3://BUCKET/PREFIX; by default STORAGE_URL.",
)
@click.option("--s3-endpoint", envvar="POXVISIO_S3_ENDPOINT", default="", metavar="URL", help="Of an S3 not Amazon's.")
@click.option("--fresh", is_flag=True, help="Ask Kaggle, whatever the storage keeps.")
@json_option("what was fetched")
def fetch(name: str, *, folder: Path | None, storage: str | None, s3_endpoint: str, fresh: bool, as_json: bool) -> None:
    """Fetch MSLD from Kaggle with your own account; its photos are CC BY-NC at best, and not yours to hand on.

    A download that was cut goes on where it was. Exit code 2 for a folder or archive that cannot be used, 3 where
    Kaggle refuses or is out of reach.
    """
    from shared.storage import storage_at  # noqa: PLC0415
    from training import fetching  # noqa: PLC0415
    from training.shelf import Shelf  # noqa: PLC0415

    record = fetching.fetch(
        name, folder or Path(name), show=lambda size: progress("fetching", size, "bytes", quiet=as_json),
        shelf=Shelf(storage_at(storage, endpoint=s3_endpoint)) if storage else None, fresh=fresh, tell=tell,
    )  # fmt: skip
    print_json(record) if as_json else click.echo(f"{name} is in {folder or name}; licence: {record['licence']}")


@data.command(
    epilog=example(
        "poxvisio data synth practice/ --layout v1",
        "poxvisio data synth faulty/ --patients 30 --confounder watermark --duplicates 5 --mislabel 0.1",
    )
)
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--layout", type=click.Choice(sorted(_LAYOUTS)), default="v1", show_default=True, help="Which MSLD.")
@click.option("--patients", type=click.IntRange(min=1), help="Patients of each class; left out: as many as MSLD has.")
@click.option("--seed", type=click.IntRange(min=0), default=7, show_default=True, help="The same seed, the same bytes.")
@click.option(
    "--side",
    "sides",
    type=click.IntRange(64, 1024),
    multiple=True,
    default=(224,),
    show_default=True,
    help="Side of a photo in pixels; given several times, each photo has one of them by lot.",
)
@click.option(
    "--copies", type=click.IntRange(1, 14), default=14, show_default=True, help="Augmented copies of a photo."
)
@click.option("--confounder", type=click.Choice(["watermark"]), help="Plant a mark that goes with the first class.")
@click.option("--duplicates", type=click.IntRange(min=0), default=0, help="Photos shown again under another patient.")
@click.option("--mislabel", type=click.FloatRange(0, 1), default=0.0, help="Share of patients under a wrong label.")
@click.option("--tone-bias", type=click.FloatRange(0, 1), default=0.0, help="How far skin tone goes with the class.")
@click.option("--masks", is_flag=True, help="Write a mask of the lesions of each photo, too.")
@json_option("what was drawn")
def synth(folder: Path, layout: str, confounder: str | None, as_json: bool, **options: Any) -> None:
    """Draw a SYNTHETIC data set in the folders and names of MSLD.

    No picture shows a person, and each is marked as synthetic. Needs a new or empty folder.
    """
    from training.casting import Plan, photos  # noqa: PLC0415 - only where used: the group's help must answer at once
    from training.synthesis import synthesise  # noqa: PLC0415

    plan = Plan(layout=_LAYOUTS[layout], confounder=confounder or "", **options)  # type: ignore[arg-type]  # click checked the choices
    with progress("drawing", len(photos(plan)), "photos", quiet=as_json) as advance:
        drawn = synthesise(plan, folder, advance=advance)
    told = {"folder": str(folder), "synthetic": True, "photos": len(drawn), "plan": asdict(plan)}
    print_json(told) if as_json else click.echo(f"{len(drawn):,} SYNTHETIC photos drawn into {folder}")


@data.command(epilog=example("poxvisio data check v1/", "poxvisio data check v1/ --manifest v1/manifest.parquet"))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--folds", type=click.IntRange(2, 50), default=5, show_default=True, help="How many folds to make.")
@click.option("--seed", type=click.IntRange(min=0), default=7, show_default=True, help="Of the folds.")
@click.option("--named", default="fold1", show_default=True, help="Which of the folds of MSLD v2.0 is the named split.")
@click.option(
    "--manifest",
    "file",
    type=click.Path(path_type=Path),
    help="Write the manifest to this file: Parquet where the name ends so, else CSV.",
)
@json_option("the summary")
def check(folder: Path, *, folds: int, seed: int, named: str, file: Path | None, as_json: bool) -> None:
    """Say what a data set holds, and refuse one whose figures could not be trusted.

    Exit code 1 where photos cannot be read, 2 where the folder, its layout or its labels are wrong.
    """
    from training import layouts, manifest, splits  # noqa: PLC0415 - pandas takes half a second

    layout = layouts.recognise(folder, named=named)
    if damaged := manifest.unreadable(folder, layout.originals):
        _end_damaged(damaged, as_json)
    with progress("reading", len(layout.originals), "photos", quiet=as_json) as advance:
        frame = manifest.build(folder, folds=folds, seed=seed, named=named, advance=advance)
    if file is not None:
        manifest.write(frame, file)
    told = {
        "layout": layout.name,
        **asdict(manifest.describe(frame)),
        "augmented_copies_left_out": layout.augmented,
        "near_duplicates_across_patients": len(splits.across(frame, "patient")),
        "images_per_fold": _per_fold(frame),
        "warnings": _warnings(frame),
        "unreadable": [],
    }
    print_json(told) if as_json else _show(told)


def _end_damaged(damaged: list[str], as_json: bool) -> None:
    if as_json:
        print_json({"unreadable": damaged})
    else:
        for line in damaged:
            click.echo(printable(f"cannot be read: {line}"))
    raise click.exceptions.Exit(1)


def _per_fold(frame: "pd.DataFrame") -> dict[str, dict[str, int]]:
    counts = frame.groupby(["fold", "label"]).size().unstack(fill_value=0)
    return {str(fold): {str(label): int(n) for label, n in row.items()} for fold, row in counts.iterrows()}


def _warnings(frame: "pd.DataFrame") -> list[str]:
    from training import splits  # noqa: PLC0415

    if (frame["named_split"] == "").all():
        return []
    try:
        return list(splits.named(frame).warnings)
    except DataRefused as error:
        return [str(error)]


def _show(told: dict[str, Any]) -> None:
    kind = "SYNTHETIC, " if told["synthetic"] else ""
    click.echo(f"{kind}{told['layout']}: {told['images']:,} photos of {told['patients']:,} patients")
    for label, count in told["images_per_class"].items():
        click.echo(printable(f"  {label}: {count:,} photos of {told['patients_per_class'][label]:,} patients"))
    click.echo(f"{told['augmented_copies_left_out']:,} augmented copies left out")
    click.echo(f"{told['near_duplicates_across_patients']:,} pairs of near-duplicates across patients")
    for fold, counts in told["images_per_fold"].items():
        click.echo(printable(f"  fold {fold}: {', '.join(f'{n:,} {label}' for label, n in counts.items())}"))
    for warning in told["warnings"]:
        click.echo(printable(f"warning: {warning}"))
    click.echo(f"manifest digest {told['digest']}")
    click.echo(RESEARCH_USE, err=True)

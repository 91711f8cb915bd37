"""``poxvisio evaluate``: the report of a training run, with an interval beside every figure."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.options import example, print_json
from cli.progress import tell

if TYPE_CHECKING:
    from training.runs import Run


@click.command(
    epilog=example(
        "poxvisio evaluate runs/v1",
        "poxvisio evaluate runs/v1 --photos data/msld-v1 --robustness-photos 200",
    )
)
@click.argument("run", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--photos",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="Folder of the data set, where it has moved since training.",
)
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), metavar="DIR", help="By default RUN/report.")
@click.option(
    "--robustness-photos",
    type=click.IntRange(min=1),
    default=120,
    show_default=True,
    metavar="N",
    help="Photos that are disturbed, eighteen times each.",
)
@click.option(
    "--probes", type=click.IntRange(min=1), default=24, show_default=True, metavar="N", help="Probes of each family."
)
@click.option(
    "--show-people",
    is_flag=True,
    help="Put photographs of people into the report, not into the bundle's; generated ones always are.",
)
@click.option(
    "--gates", "held", is_flag=True, help="Hold the figures against the rules of trust; exit code 1 where one fails."
)
@click.option("--json", "as_json", is_flag=True, help="Print metrics.json as well.")
def evaluate(
    *,
    run: Path,
    photos: Path | None,
    out: Path | None,
    robustness_photos: int,
    probes: int,
    show_people: bool,
    held: bool,
    as_json: bool,
) -> None:
    """Write report.html, metrics.json and card.md of a finished training run, there and into its bundle.

    Every figure is of photos whose patients the network did not see. Research use only.
    """
    # These load scikit-learn and the engine, which other commands do without.
    from training.gates import gates  # noqa: PLC0415
    from training.report.document import Extent  # noqa: PLC0415
    from training.report.document import evaluate as evaluated  # noqa: PLC0415
    from training.report.files import refuse_to_overwrite, write  # noqa: PLC0415
    from training.runs import BUNDLE, REPORT, load_run  # noqa: PLC0415

    finished: Run = load_run(run)
    folder = out or run / REPORT
    refuse_to_overwrite(folder, run / BUNDLE)
    found = evaluated(
        finished,
        photos or Path(finished.facts["folder"]),
        extent=Extent(robustness_photos, min(60, robustness_photos), probes),
        with_photos=finished.synthetic or show_people,
        tell=tell,
    )
    written = write(found, folder, run / BUNDLE)
    if as_json:
        print_json(found.document)
    for path in written[:3]:
        tell(str(path))
    if held:
        rules = gates(found.document)
        for gate in rules:
            tell(f"{'holds' if gate.passed else 'FAILS'}  {gate.rule}: {gate.found}")
        if not all(gate.passed for gate in rules):
            raise click.exceptions.Exit(1)

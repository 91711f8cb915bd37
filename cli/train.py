"""``poxvisio train``: networks from a data set's manifest, and the bundle of the first of them."""

from pathlib import Path

import click

from cli.options import example
from cli.progress import progress, tell


@click.command(
    epilog=example(
        "poxvisio train --config v1.toml --out runs/v1", "poxvisio train --config v1.toml --out runs/v1 --resume"
    )
)
@click.option(
    "--config",
    "source",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="What to train, as TOML: docs/training.md.",
)
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), metavar="RUN", help="By default runs/NAME of the file."
)
@click.option("--resume", is_flag=True, help="Go on with a run that was stopped, after its last finished epoch.")
def train(*, source: Path, out: Path | None, resume: bool) -> None:
    """Train a network a fold, calibrate, and write the bundle.

    Patients and near-duplicates stay within one fold, or nothing is trained. Research use only.
    """
    # These load TensorFlow, which other commands do without.
    from training.config import read_config  # noqa: PLC0415
    from training.training_run import train as trained  # noqa: PLC0415

    folder = out or Path("runs") / source.stem
    try:
        trained(
            read_config(source), folder, source=source, resume=resume, tell=tell,
            show=lambda epochs: progress("training", epochs, "epochs"),
        )  # fmt: skip
    except KeyboardInterrupt:
        if folder.is_dir():
            tell(f"stopped; every finished epoch is kept: go on with --out {folder} --resume")
        raise

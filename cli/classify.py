"""``poxvisio classify``: photos in, one line for each out, every one accounted for."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import click

from cli.listing import RESEARCH_USE, UNANSWERED, added, counts_line, result_table, size_text
from cli.options import example, json_option, print_json, service_options
from cli.photos import NoPhotos, find_photos
from cli.progress import tell
from cli.sending import NotSaved, Sent, account, await_all, check_writable, save, saving, send
from cli.service import Service

_STDOUT = Path("-")


@click.command(
    epilog=example(
        "poxvisio classify photos/ --receipt receipt.json",
        "poxvisio classify 'scans/*.png' --csv - > results.csv",
        "poxvisio classify photos.zip",
    )
)
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@service_options
@click.option(
    "--priority",
    type=click.Choice(["interactive", "normal", "bulk"]),
    help="Lane; by default the number of photos decides.",
)
@click.option("--custom-ids", is_flag=True, help="Send each photo's path below the folder as its custom_id.")
@json_option("the jobs and every result")
@click.option(
    "--csv",
    "csv_to",
    type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
    metavar="FILE",
    help="Write the results as CSV; - is stdout.",
)
@click.option(
    "--receipt",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Save the signed receipt to this file.",
)
@click.option("--wait/--no-wait", default=True, help="Wait for the results (the default), or leave once all is sent.")
@click.option(
    "--timeout", type=click.FloatRange(min=0), metavar="SECONDS", help="Stop waiting after this; the job goes on."
)
def classify(
    *,
    paths: Sequence[str],
    url: str,
    key: str,
    priority: str | None,
    custom_ids: bool,
    as_json: bool,
    csv_to: Path | None,
    receipt: Path | None,
    wait: bool,
    timeout: float | None,
) -> None:
    """Send photos and wait for what became of each.

    PATH is a folder (every image below it), a photo, a zip archive, which is sent as it is, or a pattern in quotes.
    More photos than fit a job become several jobs, and an archive is one of its own. Exit code 1 if a photo was
    rejected or failed.
    """
    if as_json and csv_to:
        raise click.UsageError("choose one of --json and --csv")
    if csv_to and not wait:
        raise click.UsageError("--csv needs the results, which --no-wait does not wait for")
    try:
        photos = find_photos(paths)
        # All would be sent before a file that cannot be written is noticed.
        for file in (receipt, csv_to):
            if file and file != _STDOUT:
                check_writable(file)
    except (NoPhotos, NotSaved) as error:
        raise click.UsageError(str(error)) from error
    tell(size_text(photos))
    with Service(url, key) as service:
        jobs = send(
            service, photos, priority=priority, custom_ids=custom_ids, on_job=lambda sent: tell(f"{sent.id} accepted")
        )
        if not wait:
            _leave(service, jobs, receipt, as_json=as_json)
            return
        closed = await_all(service, jobs, timeout)
        _print_results(service, jobs, closed, as_json=as_json, csv_to=csv_to)
        accounted = _account(service, jobs, receipt)
    counts = added(closed)
    tell(f"{counts_line(counts)}\n{RESEARCH_USE}")
    if not accounted or any(counts.get(name) for name in UNANSWERED):
        raise click.exceptions.Exit(1)


def _leave(service: Service, jobs: Sequence[Sent], receipt: Path | None, *, as_json: bool) -> None:
    if receipt:
        for sent, path in zip(jobs, _paths(receipt, len(jobs)), strict=True):
            save(service.receipt(sent.id), path)
    if as_json:
        print_json({"jobs": [sent.accepted for sent in jobs]})
    else:
        for sent in jobs:
            click.echo(sent.id)


def _print_results(
    service: Service, jobs: Sequence[Sent], closed: Sequence[dict[str, Any]], *, as_json: bool, csv_to: Path | None
) -> None:
    if as_json:
        print_json({"jobs": list(closed), "results": [result for sent in jobs for result in service.results(sent.id)]})
    elif csv_to:
        with _opened(csv_to) as file:
            for number, sent in enumerate(jobs):
                for row, line in enumerate(service.results_csv(sent.id)):
                    if row or not number:  # the names of the columns once
                        file.write(line + "\n")
    else:
        names = [photo.name for sent in jobs for photo in sent.photos]
        for line in result_table((result for sent in jobs for result in service.results(sent.id)), names):
            click.echo(line)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[IO[str]]:
    if path == _STDOUT:
        with click.open_file("-", "w", encoding="utf-8") as stdout:
            yield stdout
        return
    with saving(path), path.open("w", encoding="utf-8") as file:
        yield file


def _account(service: Service, jobs: Sequence[Sent], receipt: Path | None) -> bool:
    keys = service.keys()
    paths = _paths(receipt, len(jobs)) if receipt else [None] * len(jobs)
    sound = True
    for sent, path in zip(jobs, paths, strict=True):
        document = service.receipt(sent.id)
        if path:
            save(document, path)
        held = account(sent, document, keys)
        sound = sound and held.ok
        verdict = "signature verified" if held.ok else "THE RECEIPT DOES NOT HOLD"
        tell(f"{path or sent.id}: {held.accounted:,} of {held.total:,} accounted for, {verdict}")
        for problem in held.problems:
            tell(f"  {problem}")
    return sound


def _paths(receipt: Path, count: int) -> list[Path]:
    """One file for each job: the name itself for one, numbered names for several."""
    if count == 1:
        return [receipt]
    return [receipt.with_name(f"{receipt.stem}-{number}{receipt.suffix}") for number in range(1, count + 1)]

"""``poxvisio jobs``: what became of jobs, by their ids."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import click

from cli.listing import RESEARCH_USE, UNANSWERED, counts_line, job_line, result_table
from cli.options import example, json_option, print_json, service_options
from cli.progress import progress
from cli.sending import save_whole
from cli.service import CLOSED, Service
from shared.vocabulary import OUTCOMES

_MOMENT: Final = click.DateTime(("%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S%z"))
_STATES: Final = ("receiving", "queued", "running", *sorted(CLOSED))


@click.group(
    invoke_without_command=True,
    epilog=example("poxvisio jobs", "poxvisio jobs wait job_0192f0c1e5a07bd2a3c4d5e6f708192a"),
)
@click.pass_context
def jobs(ctx: click.Context) -> None:
    """List, show, wait for, cancel, retry and delete jobs."""
    if ctx.invoked_subcommand is None:
        # Not ctx.invoke: that would leave out what the environment says.
        with list_jobs.make_context("list", [], parent=ctx) as listing:
            list_jobs.invoke(listing)


@jobs.command("list", epilog=example("poxvisio jobs list --state running", "poxvisio jobs list --text IMG_2041 --json"))
@service_options
@click.option("--state", type=click.Choice(_STATES), help="Only jobs in this state.")
@click.option("--created-after", type=_MOMENT, metavar="TIME", help="Only jobs made then or later; local time.")
@click.option("--created-before", type=_MOMENT, metavar="TIME", help="Only jobs made before then.")
@click.option(
    "--text",
    help="Only jobs with a photo whose name or custom_id begins so, whose id does, or whose metadata has it somewhere.",
)
@click.option("--sent-by", metavar="KEY_ID", help="Only jobs that the API key of this id sent.")
@click.option("--model", metavar="ID", help="Only jobs that asked for this model or have an answer of it.")
@click.option("--limit", type=click.IntRange(1, 200), default=20, show_default=True, help="How many, newest first.")
@json_option("the jobs")
def list_jobs(  # noqa: PLR0917 - one parameter an option
    url: str,
    key: str,
    created_after: datetime | None,
    created_before: datetime | None,
    sent_by: str | None,
    limit: int,
    as_json: bool,
    **named: str | None,
) -> None:
    """List the newest jobs that fulfil every condition."""
    times = {"created_after": created_after, "created_before": created_before}
    conditions = {name: moment.astimezone(UTC).isoformat() for name, moment in times.items() if moment is not None}
    conditions |= {name: text for name, text in {**named, "key": sent_by}.items() if text is not None}
    with Service(url, key) as service:
        found = service.jobs(conditions, limit=limit)
    if as_json:
        print_json(found)
        return
    for job in found:
        click.echo(job_line(job))


@jobs.command(epilog=example("poxvisio jobs show job_0192f0c1e5a07bd2a3c4d5e6f708192a"))
@click.argument("job_id", metavar="ID")
@service_options
@json_option("the job")
def show(job_id: str, url: str, key: str, as_json: bool) -> None:
    """Show a job as it stands."""
    with Service(url, key) as service:
        job = service.job(job_id)
    print_json(job) if as_json else click.echo(job_line(job))


@jobs.command(
    epilog=example(
        "poxvisio jobs results job_0192f0c1e5a07bd2a3c4d5e6f708192a --csv > results.csv",
        "poxvisio jobs results job_0192f0c1e5a07bd2a3c4d5e6f708192a --parquet results.parquet",
    )
)
@click.argument("job_id", metavar="ID")
@service_options
@json_option("the results")
@click.option("--csv", "as_csv", is_flag=True, help="Print the results as CSV.")
@click.option(
    "--parquet",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write the results to a Parquet file.",
)
def results(  # noqa: PLR0917 - one parameter an option
    job_id: str, url: str, key: str, as_json: bool, as_csv: bool, parquet: Path | None
) -> None:
    """Print the results there are, in order once the job is closed."""
    if as_json + as_csv + (parquet is not None) > 1:
        raise click.UsageError("choose one of --json, --csv and --parquet")
    with Service(url, key) as service:
        if parquet:
            save_whole(service.results_parquet(job_id), parquet)
            click.echo(RESEARCH_USE, err=True)
        elif as_json:
            print_json(list(service.results(job_id)))
        elif as_csv:
            for line in service.results_csv(job_id):
                click.echo(line)
        else:
            found = list(service.results(job_id))
            for line in result_table(found, [str(result.get("file_name") or "") for result in found]):
                click.echo(line)
            click.echo(RESEARCH_USE, err=True)


@jobs.command(epilog=example("poxvisio jobs cancel job_0192f0c1e5a07bd2a3c4d5e6f708192a"))
@click.argument("job_id", metavar="ID")
@service_options
@json_option("the job")
def cancel(job_id: str, url: str, key: str, as_json: bool) -> None:
    """Cancel a job; finished results stay."""
    with Service(url, key) as service:
        job = service.cancel(job_id)
    print_json(job) if as_json else click.echo(job_line(job))


@jobs.command(epilog=example("poxvisio jobs retry job_0192f0c1e5a07bd2a3c4d5e6f708192a"))
@click.argument("job_id", metavar="ID")
@service_options
@json_option("the job")
def retry(job_id: str, url: str, key: str, as_json: bool) -> None:
    """Try the failed photos of a closed job again; every other photo keeps its answer."""
    with Service(url, key) as service:
        job = service.retry(job_id)
    print_json(job) if as_json else click.echo(job_line(job))


@jobs.command(epilog=example("poxvisio jobs delete job_0192f0c1e5a07bd2a3c4d5e6f708192a --yes"))
@click.argument("job_id", metavar="ID")
@service_options
@click.option("--yes", is_flag=True, help="Do not ask.")
def delete(job_id: str, url: str, key: str, yes: bool) -> None:
    """Delete a closed job: its photos and answers go for good, and a tombstone stays."""
    if not yes:
        click.confirm(f"Delete {job_id} with its photos and answers for good?", abort=True)
    with Service(url, key) as service:
        service.delete(job_id)
    click.echo(f"{job_id} deleted")


@jobs.command(epilog=example("poxvisio jobs wait job_0192f0c1e5a07bd2a3c4d5e6f708192a && echo done"))
@click.argument("job_id", metavar="ID")
@service_options
@click.option(
    "--timeout", type=click.FloatRange(min=0), metavar="SECONDS", help="Stop waiting after this; the job goes on."
)
@json_option("the job")
def wait(job_id: str, url: str, key: str, timeout: float | None, as_json: bool) -> None:
    """Wait until a job is closed. Exit code 1 if a photo was rejected or failed."""
    with Service(url, key) as service:
        counts = service.job(job_id)["counts"]
        with progress("classifying", sum(counts.values()), "photos") as advance:
            job = service.wait(job_id, lambda now: advance(sum(now["counts"][name] for name in OUTCOMES)), timeout)
    print_json(job) if as_json else click.echo(f"{job['id']} {job['state']}: {counts_line(job['counts'])}")
    if any(job["counts"][name] for name in UNANSWERED):
        raise click.exceptions.Exit(1)

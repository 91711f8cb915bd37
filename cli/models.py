"""``poxvisio models``: publish bundles, and choose which of them answers."""

import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import click

from cli import engine_bench
from cli.bundle_form import BundleForm
from cli.listing import line
from cli.options import SHARE, example, json_option, print_json, service_options
from cli.progress import progress
from cli.sending import save_whole, saving
from cli.service import Service
from cli.shadow_page import page
from shared.bundle import load_bundle
from shared.errors import Refused, Unavailable

_WAIT_SECONDS: Final = 300.0
_LOOK_SECONDS: Final = 1.0
_ID = click.argument("model", metavar="ID")


@click.group(
    epilog=example("poxvisio models list", "poxvisio models publish models/second", "poxvisio models activate second")
)
def models() -> None:
    """List and publish models, make one live, and take it back. Changes need a key with the scope `models`."""


@models.command("list", epilog=example("poxvisio models list"))
@service_options
@json_option("the models with their cards")
def list_models(url: str, key: str, as_json: bool) -> None:
    """List the models there are."""
    with Service(url, key) as service:
        found = service.models()
    if as_json:
        print_json(found)
        return
    for model in found:
        click.echo(_model_line(model))


@models.command(
    epilog=example("poxvisio models show demo-synthetic --json", "poxvisio models show second --report second.html")
)
@_ID
@click.option(
    "--report",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the report that came with it to this file; needs a key with the scope models.",
)
@service_options
@json_option("the model with its card")
def show(*, model: str, report: Path | None, url: str, key: str, as_json: bool) -> None:
    """Show one model."""
    with Service(url, key) as service:
        found = _found(service, model)
        if report is not None:
            save_whole([service.model_report(model)], report)
    print_json(found) if as_json else click.echo(_model_line(found))


@models.command(epilog=example("poxvisio models publish models/second"))
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@service_options
@json_option("the model")
def publish(folder: Path, url: str, key: str, as_json: bool) -> None:
    """Verify the bundle in FOLDER, send it with its report, and wait until a worker has checked it."""
    bundle = load_bundle(folder)
    form = BundleForm(bundle)
    with Service(url, key) as service:
        with progress("sending", form.size, "bytes") as advance:
            form.sent = advance
            service.submit(form)
        end = time.monotonic() + _WAIT_SECONDS
        while (found := _found(service, bundle.id))["state"] == "checking":
            if time.monotonic() > end:
                raise Unavailable(f"no worker has checked {bundle.id} yet; see: poxvisio models show {bundle.id}")
            time.sleep(_LOOK_SECONDS)
    print_json(found) if as_json else click.echo(_model_line(found))
    if found["state"] == "refused":
        raise Refused(f"{bundle.id} cannot serve: {found['problem']}")


@models.command(epilog=example("poxvisio models activate second"))
@_ID
@service_options
@json_option("the change")
def activate(model: str, url: str, key: str, as_json: bool) -> None:
    """Let a model answer every job."""
    _change(url, key, model, "activate", {}, as_json=as_json)


@models.command(epilog=example("poxvisio models canary second --share 0.1"))
@_ID
@click.option("--share", type=SHARE, required=True, help="Share of jobs, above 0 to 1.")
@service_options
@json_option("the change")
def canary(model: str, share: float, url: str, key: str, as_json: bool) -> None:
    """Let a model answer a share of jobs."""
    _change(url, key, model, "canary", {"share": share}, as_json=as_json)


@models.command(epilog=example("poxvisio models shadow second --share 0.1"))
@_ID
@click.option("--share", type=SHARE, required=True, help="Share of photos, above 0 to 1.")
@service_options
@json_option("the change")
def shadow(model: str, share: float, url: str, key: str, as_json: bool) -> None:
    """Let a model look at a share of photos without answering any; see `shadow-report`."""
    _change(url, key, model, "shadow", {"share": share}, as_json=as_json)


@models.command("shadow-report", epilog=example("poxvisio models shadow-report second --out shadow.html --photos 20"))
@_ID
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), help="Write a page here that needs nothing else."
)
@click.option(
    "--photos",
    type=click.IntRange(0, 1000),
    default=0,
    help="Put so many photos of yours into the page that it calls otherwise.",
)
@service_options
@json_option("the report")
def shadow_report(model: str, *, out: Path | None, photos: int, url: str, key: str, as_json: bool) -> None:
    """Compare what a shadow said with the answers that stand."""
    with Service(url, key) as service:
        found = service.shadow_report(model)
        if out is not None:
            wanted = [one["image"] for one in found["disagreements"][:photos]]
            shown = {image: service.photo(image) for image in wanted}
            save_whole([page(found, shown).encode()], out)
    if as_json:
        print_json(found)
        return
    for rate in (found["total"], *found["by_label"], *found["by_confidence"]):
        click.echo(_rate_line(rate))
    click.echo(f"{len(found['disagreements'])} photos of yours would have another label")


@models.command(
    epilog=example(
        "poxvisio data synth unseen/ --patients 190 --copies 1 --seed 13",
        "poxvisio models quantise models/demo --photos unseen/ --out models/demo-int8",
    )
)
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--photos",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    required=True,
    help="A data set in a layout that `data check` knows; 500 photos or more, none of them trained on.",
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="New folder for the bundle.")
@click.option("--id", "model_id", help="Of the new bundle; by default the old one's and -int8.")
@json_option("the figures of the proof")
def quantise(*, folder: Path, photos: Path, out: Path, model_id: str | None, as_json: bool) -> None:
    """Make a bundle that may serve in int8, if int8 stays close enough to float32 on photos that neither was fitted on.

    Labels must agree on 99.5 % of them, and no probability may move by more than 0.03. Nothing is written otherwise.
    """
    from training.layouts import recognise  # noqa: PLC0415 - training loads seconds of libraries
    from training.quantise import quantise as quantised  # noqa: PLC0415

    named = model_id or f"{load_bundle(folder).id}-int8"
    with progress("reading", len(recognise(photos).originals), "photos", quiet=as_json) as advance:
        record = quantised(folder, photos, out, named, advance=advance)
    if as_json:
        print_json(record)
        return
    click.echo(
        f"{named}: {record['agreement']:.2%} of {record['photos']['proof']} labels agree, no probability moves by more "
        f"than {record['max_probability_difference']:.3g}; {record['exact_convolutions']} of 53 convolutions stay exact"
    )


@models.command(epilog=example("poxvisio models bench models/demo", "poxvisio models bench models/demo --out bench"))
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Write bench.json and bench.md here.")
@click.option("--photos", type=click.IntRange(1, 10_000), default=32, show_default=True, help="Photos of each turn.")
@click.option(
    "--turns", type=click.IntRange(1, 100), default=3, show_default=True, help="Turns of each engine and size."
)
@click.option("--threads", type=click.IntRange(0, 256), default=0, show_default=True, help="Threads; 0: one per core.")
@json_option("what was measured, and the choice")
def bench(*, folder: Path, out: Path | None, photos: int, turns: int, threads: int, as_json: bool) -> None:
    """Measure the engines that can run the bundle in FOLDER here, at batches of 1 to 16, and say which one to take.

    It loads this machine for a minute or more: better not where photos are answered.
    """
    load_bundle(folder)
    with (
        tempfile.TemporaryDirectory(prefix="poxvisio-bench-") as cache,
        progress("measuring", engine_bench.steps(turns), "steps") as advance,
    ):
        found = engine_bench.measure(
            folder.resolve(), Path(cache), threads=threads, photos=photos, turns=turns, advance=advance
        )
    chosen = engine_bench.choose(found)
    said = {
        "bundle": load_bundle(folder).digest,
        "machine": engine_bench.machine(),
        "photos": photos,
        "turns": turns,
        "threads": threads,
        "measured": [one.as_json() for one in found],
        "chosen": chosen,
    }
    rows = engine_bench.table(found)
    if out is not None:
        with saving(out):
            out.mkdir(parents=True, exist_ok=True)
            (out / "bench.json").write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")
            (out / "bench.md").write_text(_as_markdown(rows, said), encoding="utf-8")
    if as_json:
        print_json(said)
        return
    for row in rows:
        click.echo(line(row, (16, *[9] * len(engine_bench.SIZES), 10, 8, 6)))
    click.echo("Photos per second of the processor's time, medians. " + str(chosen["why"]))
    click.echo(f"POXVISIO_ENGINE={chosen['engine']} POXVISIO_PRECISION={chosen['precision']}")


@models.command(epilog=example("poxvisio models rollback second"))
@_ID
@service_options
@json_option("the change")
def rollback(model: str, url: str, key: str, as_json: bool) -> None:
    """Take a model back: what was live before is live again, or its canary ends."""
    _change(url, key, model, "rollback", {}, as_json=as_json)


def _change(url: str, key: str, model: str, kind: str, body: Mapping[str, Any], *, as_json: bool) -> None:
    """Ask for a change, and wait until it is made or refused."""
    with Service(url, key) as service:
        change = service.post(f"/v1/models/{model}/{kind}", body)
        end = time.monotonic() + _WAIT_SECONDS
        while change["state"] == "waiting":
            if time.monotonic() > end:
                raise Unavailable(f"the change {change['id']} still waits; it is made without us")
            time.sleep(_LOOK_SECONDS)
            change = service.model_change(change["id"])
    print_json(change) if as_json else click.echo(f"{kind} {model}: {change['state']}")
    if change["state"] == "refused":
        raise Refused(f"{kind} {model}: {change['reason']}")


def _as_markdown(rows: Sequence[Sequence[str]], said: Mapping[str, Any]) -> str:
    head, *body = rows
    here = said["machine"]
    lines = [
        f"Photos per second of the processor's time, medians of {said['turns']} turns of {said['photos']} photos.",
        "",
        f"Engines in turn, on {here['processor']}, {here['cores']} cores, load {here['load']}.",
        "",
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
        *("| " + " | ".join(row) + " |" for row in body),
        "",
        f"{said['chosen']['why']}.",
    ]
    return "\n".join(lines) + "\n"


def _found(service: Service, model: str) -> dict[str, Any]:
    for each in service.models():
        if each["id"] == model:
            return each
    raise Refused(f"there is no model {model!r}; see: poxvisio models list")


def _rate_line(rate: Mapping[str, Any]) -> str:
    said = str(rate["data"])
    if rate["rate"] is not None:
        said = f"{rate['rate']:.1%} ({rate['low']:.1%} to {rate['high']:.1%})"
    return line((str(rate["name"]), f"{rate['agreeing']} of {rate['photos']}", said), (32, 16))


def _model_line(model: Mapping[str, Any]) -> str:
    role = "live" if model["live"] else f"canary {model['canary_share']:g}" if model["canary_share"] else ""
    if model["shadow_share"]:
        role = f"shadow {model['shadow_share']:g}"
    cells = (str(model["id"]), str(model["state"]), role, str(model["digest"])[:12], str(model["problem"] or ""))
    return line(cells, (32, 8, 11, 12))

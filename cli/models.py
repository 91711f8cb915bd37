"""``poxvisio models``: publish bundles, and choose which of them answers."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import click

from cli.bundle_form import BundleForm
from cli.listing import line
from cli.options import example, json_option, print_json, service_options
from cli.progress import progress
from cli.service import Service
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


@models.command(epilog=example("poxvisio models show demo-synthetic --json"))
@_ID
@service_options
@json_option("the model with its card")
def show(model: str, url: str, key: str, as_json: bool) -> None:
    """Show one model."""
    with Service(url, key) as service:
        found = _found(service, model)
    print_json(found) if as_json else click.echo(_model_line(found))


@models.command(epilog=example("poxvisio models publish models/second"))
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@service_options
@json_option("the model")
def publish(folder: Path, url: str, key: str, as_json: bool) -> None:
    """Verify the bundle in FOLDER, send it, and wait until a worker has checked it."""
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
@click.option("--share", type=click.FloatRange(0, 1, min_open=True), required=True, help="Share of jobs, above 0 to 1.")
@service_options
@json_option("the change")
def canary(model: str, share: float, url: str, key: str, as_json: bool) -> None:
    """Let a model answer a share of jobs."""
    _change(url, key, model, "canary", {"share": share}, as_json=as_json)


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


def _found(service: Service, model: str) -> dict[str, Any]:
    for each in service.models():
        if each["id"] == model:
            return each
    raise Refused(f"there is no model {model!r}; see: poxvisio models list")


def _model_line(model: Mapping[str, Any]) -> str:
    role = "live" if model["live"] else f"canary {model['canary_share']:g}" if model["canary_share"] else ""
    cells = (str(model["id"]), str(model["state"]), role, str(model["digest"])[:12], str(model["problem"] or ""))
    return line(cells, (32, 8, 11, 12))

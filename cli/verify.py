"""``poxvisio verify``: a folder against a receipt, without the service where its public keys are at hand."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from cli.listing import printable
from cli.options import example, json_option, print_json, url_option
from cli.photos import listing
from cli.service import Service
from shared import verification
from shared.names import display_name


@click.command(epilog=example("poxvisio verify photos/ receipt.json --keys poxvisio-keys.json"))
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("receipt", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--keys",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="JWK set of the service, saved from /.well-known/poxvisio-keys.json; then nothing is asked over the network.",
)
@url_option(default=None)
@json_option("the verdict")
def verify(folder: Path, receipt: Path, keys: Path | None, url: str | None, as_json: bool) -> None:
    """Hold a folder against a receipt.

    Checks the signature and the sums of the receipt, and that the folder holds exactly its photos, byte for byte. It
    proves accounting, not that an answer is right. Exit code 1 if anything is unaccounted for.
    """
    if (keys is None) == (url is None):
        raise click.UsageError("give the public keys as a file (--keys) or the service to fetch them from (--url)")
    document = _read(receipt)
    report = verification.verify(document, _read(keys) if keys else _fetch(str(url)))
    try:
        names = frozenset(entry["name"] for entry in document["payload"]["entries"] if entry["name"])
        held = listing(folder, names)
        compared = verification.compare(placed(document, held), held)
    except (KeyError, TypeError) as error:
        raise click.UsageError(f"{receipt} is no receipt") from error
    found = compared.found if report.stage == "accepted" else min(compared.found, report.accounted)
    told = [f"{found:,} of {report.total:,} accounted for"]
    told += [f"signature and sums: {'hold' if report.ok else 'DO NOT HOLD'}, {report.stage} receipt of {report.job}"]
    told += [*report.lines()[1:], *compared.lines()[1:]]
    _end(as_json, report.ok and compared.ok, told)


def placed(document: dict[str, Any], held: Mapping[str, str]) -> dict[str, Any]:
    """Return the receipt with each photo under the path where the folder holds it.

    A receipt knows a photo by the last part of its name, and a folder may hold several of one name in folders below it.
    A photo goes to a file of its name and bytes, else to one of its name; one sent without a name goes by its bytes. No
    file is given away twice, and what finds none keeps its name.
    """
    entries = document["payload"]["entries"]
    free: dict[tuple[str | None, str | None], list[str]] = {}
    for path, digest in sorted(held.items(), reverse=True):
        name = display_name(path)
        free.setdefault((name, digest), []).append(path)
        free.setdefault((name, None), []).append(path)
        free.setdefault((None, digest), []).append(path)
    taken: set[str] = set()
    found: dict[int, str] = {}
    for exact in (True, False):
        for place, entry in enumerate(entries):
            candidates = free.get((entry["name"], entry["sha256"] if exact else None), [])
            while place not in found and candidates:
                path = candidates.pop()
                if path not in taken:
                    taken.add(path)
                    found[place] = path
    named = [{**entry, "name": found.get(place, entry["name"])} for place, entry in enumerate(entries)]
    return {"payload": {**document["payload"], "entries": named}}


def _end(as_json: bool, sound: bool, lines: list[str]) -> None:
    if as_json:
        print_json({"ok": sound, "report": lines})
    else:
        for line in lines:
            click.echo(printable(line))
    raise click.exceptions.Exit(0 if sound else 1)


def _read(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise click.UsageError(f"{path} is no JSON: {error}") from error
    if not isinstance(document, dict):
        raise click.UsageError(f"{path} is no JSON object")
    return document


def _fetch(url: str) -> dict[str, Any]:
    with Service(url, "") as service:
        return service.keys()

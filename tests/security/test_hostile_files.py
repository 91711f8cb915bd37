"""Hostile files and archives through the API and a real worker: no answer of 500, no stuck job, no neighbour harmed."""

import random
import time
from collections.abc import Sequence
from typing import Any

import pytest

from shared.database import Database
from shared.vocabulary import OUTCOMES
from tests.integration.ledger.factories import check_invariants
from tests.integration.web.conftest import Caller
from tests.integration.worker.conftest import Receive, Worker, photo
from tests.security.archives.attacks import ENTRIES, FIRST, LAST, WHOLE, Attack
from tests.security.conftest import Extent
from tests.security.forms import TYPE, form
from tests.security.photos import fuzz
from tests.security.photos.bombs import BOMBS
from tests.security.photos.mutants import mutant

CPU_SECONDS = 0.25
A_JOB = 100
ANSWERED = ("classified", "abstained")


def answered(clinic: Caller, job: str) -> list[dict[str, Any]]:
    """Return every photo's answer, once the job is closed; nothing that is asked about them may be a 500."""
    body = clinic.get(f"/v1/jobs/{job}").json
    assert body is not None
    assert body["state"] == "completed"
    assert sum(body["counts"].values()) == body["total"]
    assert body["counts"]["waiting"] == 0
    found: list[dict[str, Any]] = []
    path = f"/v1/jobs/{job}/results"
    while path:
        page = clinic.get(path)
        assert page.json is not None
        found += page.json["results"]
        path = f"/v1/jobs/{job}/results?cursor={page.json['next']}" if page.json["next"] else ""
    assert [row["ordinal"] for row in found] == list(range(body["total"]))
    assert {row["outcome"] for row in found} <= set(OUTCOMES)
    for way in ("csv", "ndjson"):
        stream = clinic.get(f"/v1/jobs/{job}/results?format={way}")
        assert (stream.status_code, stream.data.count(b"\n") >= body["total"]) == (200, True)
    assert clinic.get(f"/v1/jobs/{job}/receipt").status_code == 200
    return found


def send_all(clinic: Caller, worker: Any, files: Sequence[tuple[str, bytes]]) -> dict[str, int]:
    """Send files as jobs with a good photo in the midst of each; return how many were answered with each outcome."""
    outcomes: dict[str, int] = {}
    for start in range(0, len(files), A_JOB):
        some = list(files[start : start + A_JOB])
        middle = len(some) // 2
        some.insert(middle, ("good.jpg", photo(1)))
        sent = clinic.post("/v1/jobs", data=form(some), content_type=TYPE)
        assert sent.status_code == 202, sent.text
        assert sent.json is not None
        worker.drain()
        found = answered(clinic, sent.json["id"])
        assert found[middle]["outcome"] in ANSWERED
        assert len(found) == len(some)
        for row in found[:middle] + found[middle + 1 :]:
            outcomes[row["outcome"]] = outcomes.get(row["outcome"], 0) + 1
            if row["outcome"] in ANSWERED:
                assert clinic.get(f"/v1/images/{row['image']}/photo").status_code == 200
                assert clinic.get(f"/v1/images/{row['image']}/heatmap").status_code == 200
            else:
                assert row["reasons"]
    return outcomes


def test_mutants_and_bombs_are_each_answered_and_harm_no_neighbour(
    clinic: Caller, make_worker: Worker, owner_db: Database, extent: Extent
) -> None:
    count = 20_000 if extent.is_long else 60
    files = [(f"{number}.jpg", mutant(extent.seed, number)) for number in range(count)]
    files += [(f"{bomb.name}.jpg", bomb.make()) for bomb in (BOMBS if extent.is_long else BOMBS[::6])]
    random.Random(extent.seed).shuffle(files)
    outcomes = send_all(clinic, make_worker(), files)
    assert sum(outcomes.values()) == len(files)
    assert outcomes["rejected"] > len(files) / 20, f"seed {extent.seed}"
    check_invariants(owner_db)


def test_pillow_s_own_test_images_are_each_answered(
    clinic: Caller, make_worker: Worker, owner_db: Database, extent: Extent
) -> None:
    """Among them are its named crashes and bombs; they come from its source distribution, which is fetched once."""
    if not extent.is_long and not fuzz.has_corpus():
        pytest.skip("Pillow's source distribution is not here; `make fuzz` fetches it")
    files = fuzz.corpus()
    if not extent.is_long:
        named = [file for file in files if any(word in file[0] for word in ("crash", "oom", "timeout", "bomb"))]
        files = named[::3] + random.Random(extent.seed).sample(files, 40)
    outcomes = send_all(clinic, make_worker(), [(name.rpartition("/")[2], data) for name, data in files])
    assert sum(outcomes.values()) == len(files)
    check_invariants(owner_db)


def test_each_hostile_archive_is_refused_soon_and_the_rest_of_it_is_answered(
    clinic: Caller, make_receiver: Receive, make_worker: Worker, owner_db: Database
) -> None:
    """What hostile entries cost, their rows in the database included, is the processor's time of this process."""
    receiver, worker = make_receiver(), make_worker()
    assert len(ENTRIES) + len(WHOLE) >= 12
    slow: dict[str, float] = {}
    for name, make in (ENTRIES | WHOLE).items():
        attack = make()
        if not attack.archive:
            continue  # an empty body is refused at once
        sent = clinic.post("/v1/jobs", data=attack.archive, content_type="application/zip")
        assert sent.status_code == 202, (name, sent.text)
        assert sent.json is not None
        started = time.process_time()
        while receiver.work_once():
            pass
        spent = time.process_time() - started
        if spent > CPU_SECONDS:
            slow[name] = spent
        worker.drain()
        judge(name, attack, answered(clinic, sent.json["id"]))
    assert not slow
    check_invariants(owner_db)


def judge(name: str, attack: Attack, found: list[dict[str, Any]]) -> None:
    """Assert that all that is hostile was refused for its reason, and the good photos before and behind answered."""
    reasons = [row["reasons"][0] for row in found if row["outcome"] == "rejected"]
    assert [reason for reason in reasons if reason in attack.refused] == list(attack.refused), name
    if not attack.is_whole:
        good = {row["file_name"] for row in found if row["outcome"] in ANSWERED}
        assert good >= {FIRST.name.decode(), LAST.name.decode()}, name

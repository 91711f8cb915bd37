"""Photos that were under a worker when it died: each runs alone, so that a deadly one takes nobody with it."""

from collections.abc import Sequence
from uuid import UUID

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from shared.database import Database
from shared.ledger.claim import claim
from shared.ledger.reap import release
from tests.integration.worker.conftest import Submit, Worker, photo
from worker.inference.answers import Answer
from worker.inference.classifier import Classifier
from worker.inference.preprocess import Quality


class Witness:
    """A network that notes at every batch what its worker has on lease, as (photos, crashes) of each unit."""

    def __init__(self, network: Classifier, database: Database) -> None:
        self.bundle = network.bundle
        self.leased: list[list[tuple[int, int]]] = []
        self._network = network
        self._database = database

    def classify(self, pixels: NDArray[np.uint8], quality: Sequence[Quality]) -> list[Answer]:
        with self._database.transaction() as session:
            found = session.execute(sa.text("SELECT n, crashes FROM unit WHERE state = 'leased' ORDER BY n, crashes"))
            self.leased.append([(row.n, row.crashes) for row in found])
        return self._network.classify(pixels, quality)


def test_a_suspect_is_under_a_worker_alone_and_all_is_done_in_one_go(
    submit_photos: Submit,
    make_worker: Worker,
    network: Classifier,
    worker_db: Database,
    owner_db: Database,
    tenant: UUID,
) -> None:
    submit_photos([photo(seed) for seed in range(6)])
    submit_photos([photo(seed % 6) for seed in range(40)])
    with worker_db.transaction() as session:
        claim(session, "host/dead/1", units=1, lease_seconds=60)
    with worker_db.transaction() as session:
        assert release(session, "host/dead/1").split == 1
    witness = Witness(network, owner_db)

    assert make_worker(network=witness).drain() == 46

    with_suspects = [leased for leased in witness.leased if any(crashes for _, crashes in leased)]
    assert with_suspects == [[(1, 1)]] * 6
    assert len(witness.leased) > len(with_suspects)

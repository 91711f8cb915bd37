"""Every accepted photo has exactly one result, and nothing is accepted that is not kept, whatever the bucket does."""

import time
from collections.abc import Iterator
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from tests.chaos import promise
from tests.chaos.fleet import Fleet, fleet
from tests.chaos.promise import Reference, Sampler, undisturbed
from tests.chaos.proxy import Proxy
from tests.chaos.running import LONG, until
from tests.chaos.samples import SAMPLES

pytestmark = LONG

FEW = SAMPLES[:6]
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_DEFAULT_REGION": "us-east-1",
}


@pytest.fixture(scope="module")
def bucket(s3_server: str) -> Iterator[Proxy]:
    """Return the proxy before a bucket named ``photos``."""
    import boto3  # every process of tests reads this file, and none of them runs it but in the long form

    client = boto3.client(
        "s3",
        endpoint_url=s3_server,
        region_name="us-east-1",
        aws_access_key_id="testing",
        aws_secret_access_key="testing",
    )
    client.create_bucket(Bucket="photos")
    address = urlsplit(s3_server)
    with Proxy((str(address.hostname), address.port or 0)) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def ships(tmp_path_factory: pytest.TempPathFactory, bucket: Proxy) -> Iterator[Fleet]:
    """Return a service whose photos lie in the bucket."""
    storage = {
        **CREDENTIALS,
        "STORAGE_URL": "s3://photos/chaos",
        "POXVISIO_S3_ENDPOINT": f"http://127.0.0.1:{bucket.port}",
    }
    with fleet(tmp_path_factory.mktemp("bucket"), storage=storage) as started:
        yield started


@pytest.fixture(scope="module")
def answers(ships: Fleet) -> Reference:
    """Return the answers to the samples when nobody disturbs."""
    return undisturbed(ships)


@pytest.fixture(autouse=True)
def _books(ships: Fleet, bucket: Proxy, answers: Reference) -> Iterator[None]:
    with Sampler(lambda: str(ships.facts["database_url"])) as sampler:
        yield
        bucket.delay = 0
        bucket.mend()
    assert sampler.broken == []
    assert promise.books(ships.rows) == []


def test_the_bucket_is_cut_off_while_photos_are_read_and_copies_written(
    ships: Fleet, bucket: Proxy, answers: Reference
) -> None:
    job = ships.submit(SAMPLES * 2)
    until(lambda: ships.rows("SELECT count(*) FROM unit WHERE state = 'leased'") > [(0,)], "a worker is at it")
    for _ in range(3):
        bucket.cut()
        time.sleep(1)
        bucket.mend()
        time.sleep(0.5)
    promise.await_closed(ships, [job], 120)
    assert promise.answers(ships.rows, job, SAMPLES * 2, answers) == []


def test_a_bucket_that_says_nothing_delays_and_loses_nothing(ships: Fleet, bucket: Proxy, answers: Reference) -> None:
    job = ships.submit(FEW)
    bucket.half_open()
    time.sleep(6)  # longer than a lease, which is prolonged meanwhile
    bucket.mend()
    promise.await_closed(ships, [job], 120)
    assert promise.answers(ships.rows, job, FEW, answers) == []


def test_nothing_is_accepted_that_the_bucket_does_not_keep(ships: Fleet, bucket: Proxy, answers: Reference) -> None:
    [(before,)] = ships.rows("SELECT count(*) FROM job")
    key = str(uuid4())
    bucket.cut()
    refused = ships.post(FEW, key)
    assert refused.status_code == 503, refused.text
    assert ships.rows("SELECT count(*) FROM job") == [(before,)]
    bucket.mend()
    job = ships.insist(FEW, key)
    promise.await_closed(ships, [job], 120)
    assert promise.answers(ships.rows, job, FEW, answers) == []
    assert ships.rows("SELECT count(*) FROM job") == [(before + 1,)]


def test_a_slow_bucket_is_slow_and_nothing_else(ships: Fleet, bucket: Proxy, answers: Reference) -> None:
    bucket.delay = 0.05
    job = ships.submit(FEW)
    promise.await_closed(ships, [job], 120)
    assert promise.answers(ships.rows, job, FEW, answers) == []

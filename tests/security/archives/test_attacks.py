"""Hostile archives: each is refused within a quarter of a second, and whatever is good in it is taken all the same."""

import io
import random
import struct
import time
import tracemalloc
import zipfile
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.security.archives.attacks import ENTRIES, FIRST, GOOD, LAST, WHOLE, Attack
from tests.security.archives.packing import DEFLATED, Packed, end_record, end_record_64, pack
from worker.unzipping.contents import read_entry
from worker.unzipping.directory import read_directory
from worker.unzipping.judging import judge
from worker.unzipping.reasons import REASONS, ArchiveRefused, EntryRefused, Limits

LIMITS = Limits(photos=50_000, photo_bytes=50 << 20, expanded_bytes=20 << 30)
CPU_SECONDS = 0.25
MEMORY = 64 << 20


@dataclass(frozen=True)
class Bytes:
    """An archive in memory."""

    data: bytes

    @property
    def size(self) -> int:
        return len(self.data)

    def read_at(self, offset: int, length: int) -> bytes:
        return self.data[offset : offset + length]


def expand(archive: bytes, limits: Limits = LIMITS) -> list[tuple[str, bytes | str]]:
    """Return each entry's name, and its bytes or the reason why it is refused."""
    source = Bytes(archive)
    found: list[tuple[str, bytes | str]] = []
    for judged in judge(read_directory(source, limits), limits):
        try:
            content = judged.reason or b"".join(read_entry(source, judged))
        except EntryRefused as error:
            content = error.reason
        found.append((judged.entry.name, content))
    return found


def zipped(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


@pytest.mark.parametrize("make", ENTRIES.values(), ids=ENTRIES)
def test_what_is_hostile_is_refused_alone(make: Callable[[], Attack]) -> None:
    attack = make()
    started = time.process_time()
    found = expand(attack.archive)
    spent = time.process_time() - started
    contents = [content for _, content in found]
    assert [content for content in contents if isinstance(content, str)] == list(attack.refused)
    assert contents.count(FIRST.data) >= 1
    assert contents.count(LAST.data) == 1
    assert set(attack.refused) <= set(REASONS)
    assert spent < CPU_SECONDS


@pytest.mark.parametrize("make", WHOLE.values(), ids=WHOLE)
def test_an_archive_that_contradicts_itself_is_refused_whole(make: Callable[[], Attack]) -> None:
    attack = make()
    started = time.process_time()
    with pytest.raises(ArchiveRefused) as raised:
        expand(attack.archive)
    assert time.process_time() - started < CPU_SECONDS
    assert (raised.value.reason,) == attack.refused


@pytest.mark.parametrize("name", ["sizes that are too small", "a bomb that says so", "entries that overlap"])
def test_no_attack_takes_more_memory_than_a_piece(name: str) -> None:
    archive = ENTRIES[name]().archive
    tracemalloc.start()
    expand(archive)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < MEMORY


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_what_a_usual_tool_packs_comes_out_as_it_went_in(method: int) -> None:
    files = {f"ward {n}/größe {n}.jpg": GOOD * (n + 1) for n in range(40)} | {
        "empty.jpg": b"",
        "big.jpg": random.Random(7).randbytes(3 << 20),
    }
    assert expand(zipped(files, method)) == list(files.items())


def test_an_archive_written_to_a_pipe_comes_out_too() -> None:
    """Its sizes stand behind the data, and nothing in the headers before it."""

    class Pipe(io.RawIOBase):
        def __init__(self) -> None:
            self.data = bytearray()

        def writable(self) -> bool:
            return True

        def write(self, piece: bytes) -> int:  # type: ignore[override]
            self.data += bytes(piece)
            return len(piece)

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.jpg", GOOD)
        archive.writestr("b.jpg", GOOD * 3)
    assert expand(bytes(pipe.data)) == [("a.jpg", GOOD), ("b.jpg", GOOD * 3)]


def test_long_sizes_that_tell_the_truth_are_taken() -> None:
    long = struct.pack("<2H2Q", 1, 16, len(GOOD), len(GOOD))
    full = 0xFFFFFFFF
    entry = Packed(b"long.jpg", GOOD, size=full, packed_size=full, extra=long,
                   local={"size": full, "packed_size": full, "extra": long})  # fmt: skip
    archive = pack(entry)
    count, size, start = struct.unpack_from("<HLL", archive, len(archive) - 12)
    body = archive[:-22]
    longer = body + end_record_64(count, size, start, len(body)) + end_record(0xFFFF, full, full)
    for each in (archive, longer):
        assert expand(each) == [("long.jpg", GOOD)]


def test_nobodys_photos_take_no_place() -> None:
    files = {
        "a/": b"",
        "a/1.jpg": GOOD,
        "__MACOSX/a/._1.jpg": b"x",
        "a/.DS_Store": b"x",
        "Thumbs.db": b"x",
        "2.jpg": GOOD,
    }
    assert [name for name, _ in expand(zipped(files))] == ["a/1.jpg", "2.jpg"]


def test_what_expands_too_far_in_all_is_refused_from_there_on() -> None:
    files = {f"{n}.jpg": GOOD for n in range(6)}
    limits = Limits(photos=10, photo_bytes=1 << 20, expanded_bytes=3 * len(GOOD))
    found = [content for _, content in expand(zipped(files), limits)]
    assert found == [GOOD] * 3 + ["archive_expands_too_far"] * 3


def test_more_photos_than_a_job_may_have_are_refused_whole() -> None:
    limits = Limits(photos=3, photo_bytes=1 << 20, expanded_bytes=1 << 30)
    with pytest.raises(ArchiveRefused, match="more entries"):
        expand(zipped({f"{n}.jpg": GOOD for n in range(4)}), limits)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_no_damage_brings_about_anything_but_a_reason_or_the_true_bytes(data: st.DataObject) -> None:
    archive = bytearray(pack(FIRST, Packed(b"mid.jpg", GOOD * 2, DEFLATED), LAST))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(archive) - 1))
        archive[place] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del archive[data.draw(st.integers(0, len(archive))) :]
    try:
        contents = [content for _, content in expand(bytes(archive))]
    except ArchiveRefused as error:
        contents = [error.reason]
    true = {FIRST.data, GOOD * 2, LAST.data}
    assert all(content in (true if isinstance(content, bytes) else REASONS) for content in contents)

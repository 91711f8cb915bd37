"""One decoding child and the worker's side of it: death, silence, lies, confinement."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from tests.unit.worker import photo_files as files
from worker.decoding import child, decoder
from worker.decoding.decoder import HEAP, Decoder, DecoderAway
from worker.decoding.inbox import Inbox
from worker.decoding.outbox import Outbox
from worker.decoding.outcomes import REASONS, UNREADABLE, Decoded, Limits, Rejected, Unreadable

LIMITS = Limits(max_bytes=20 << 20, max_pixels=40_000_000, copy_side=768)
ROOT = Path(child.__file__).parents[2]
GOOD = files.encoded(files.photo())
SLOW = files.png_bomb(6000, 6000, is_colour=True)  # takes a few hundred milliseconds, and memory that can be watched
WAITS = Unreadable("decoder_unavailable", UNREADABLE["decoder_unavailable"])
LARGE = GOOD + bytes(4 << 20)  # more than a pipe holds


@pytest.fixture
def one() -> Iterator[Decoder]:
    made = Decoder(LIMITS, seconds=60)
    yield made
    made.close()


def _until(condition: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.002)


def _process(of: Decoder) -> psutil.Process:
    assert of.pid
    return psutil.Process(of.pid)


def _is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _end_at_work(of: Decoder, *signals: int) -> threading.Thread:
    """Send the next children a signal each, one after the other, while it decodes ``SLOW``."""

    def is_at_work(seen: set[int]) -> bool:
        try:
            return bool(of.pid) and of.pid not in seen and _process(of).memory_info().rss > 100 << 20
        except psutil.NoSuchProcess:
            return False

    def act() -> None:
        seen: set[int] = set()
        for number in signals:
            _until(lambda: is_at_work(seen))
            pid = _process(of).pid
            os.kill(pid, number)
            seen.add(pid)

    thread = threading.Thread(target=act)
    thread.start()
    return thread


def test_a_child_decodes_many_files_one_after_the_other(one: Decoder) -> None:
    assert one.pid is None
    first = one.decode(GOOD)
    pid = one.pid
    assert isinstance(first, Decoded)
    assert (first.pixels.shape, first.pixels.dtype.name) == ((224, 224, 3), "uint8")
    assert (first.width, first.height, first.format, first.quality.size) == (800, 600, "JPEG", 600)
    assert first.copy.startswith(b"\xff\xd8")
    assert first.seconds > 0
    assert one.decode(b"no photo") == Rejected("unknown_type", REASONS["unknown_type"])
    again = one.decode(LARGE)
    assert isinstance(again, Decoded)
    assert (again.pixels == first.pixels).all()
    assert again.copy == first.copy
    assert one.pid == pid


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_file_over_which_a_child_died_once_is_tried_again(one: Decoder, number: int) -> None:
    killer = _end_at_work(one, number)
    assert isinstance(one.decode(SLOW), Decoded)
    killer.join()


@pytest.mark.parametrize("signals", [(signal.SIGKILL, signal.SIGKILL), (signal.SIGSEGV, signal.SIGKILL)])
def test_a_file_whose_child_was_killed_from_outside_waits_and_the_next_one_is_fine(
    one: Decoder, signals: tuple[int, ...]
) -> None:
    killer = _end_at_work(one, *signals)
    assert one.decode(SLOW) == WAITS
    killer.join()
    assert isinstance(one.decode(GOOD), Decoded)


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGSYS])
def test_a_file_that_crashes_two_children_is_rejected_and_the_next_one_is_fine(one: Decoder, number: int) -> None:
    killer = _end_at_work(one, number, number)
    answer = one.decode(SLOW)
    killer.join()
    assert isinstance(answer, Rejected)
    assert answer.reason == "decoder_died"
    assert isinstance(one.decode(GOOD), Decoded)


def test_a_child_that_died_while_idle_costs_no_photo(one: Decoder) -> None:
    one.decode(GOOD)
    process = _process(one)
    process.kill()
    _until(lambda: _is_gone(process.pid))
    assert isinstance(one.decode(GOOD), Decoded)
    assert one.pid != process.pid


@pytest.mark.parametrize("data", [GOOD, LARGE])
def test_a_child_that_hangs_is_replaced_when_its_time_is_up(data: bytes) -> None:
    one = Decoder(LIMITS, seconds=1.5)
    try:
        _until(lambda: isinstance(one.decode(GOOD), Decoded))
        process = _process(one)
        process.suspend()
        assert isinstance(one.decode(data), Decoded)  # by the next child
        assert _is_gone(process.pid)
        _until(lambda: isinstance(one.decode(GOOD), Decoded))
    finally:
        one.close()


def test_a_file_waits_where_every_child_had_no_moment_of_the_processor(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    one = _child_that(monkeypatch, tmp_path, f"{_READY}\ntime.sleep(600)")
    one._seconds = 0.3
    assert one.decode(GOOD) == WAITS
    assert one.pid is None


def test_a_file_is_rejected_where_its_processor_time_and_the_clock_run_out_together(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    one = _child_that(monkeypatch, tmp_path, f"{_READY}\nwhile True: pass")
    one._seconds, one._cpu_seconds = 1.0, 0.01
    assert one.decode(GOOD) == Rejected("timed_out", REASONS["timed_out"])


def test_running_out_of_memory_is_the_files_fault_and_the_child_lives_on(one: Decoder) -> None:
    one.decode(GOOD)
    process = _process(one)
    room = process.memory_info().vms + (60 << 20)
    process.rlimit(psutil.RLIMIT_AS, (room, room))
    answer = one.decode(SLOW)
    assert isinstance(answer, Rejected)
    assert answer.reason == "decoder_died"
    assert isinstance(one.decode(GOOD), Decoded)
    assert one.pid == process.pid


def test_closing_ends_the_child_and_may_be_done_twice(one: Decoder) -> None:
    one.decode(GOOD)
    pid = _process(one).pid
    one.close()
    one.close()
    assert _is_gone(pid)
    assert one.pid is None


def test_signals_for_the_whole_group_leave_the_child_at_work(one: Decoder) -> None:
    one.decode(GOOD)
    pid = _process(one).pid
    os.kill(pid, signal.SIGINT)
    os.kill(pid, signal.SIGTERM)
    assert isinstance(one.decode(GOOD), Decoded)
    assert one.pid == pid


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_child_is_confined_before_its_first_file(one: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_KEY", "the worker's own")
    one.decode(GOOD)
    process = _process(one)
    room = process.rlimit(psutil.RLIMIT_AS)[1] - process.memory_info().vms
    assert LIMITS.memory - (64 << 20) < room <= LIMITS.memory == 512 << 20
    assert process.rlimit(psutil.RLIMIT_NOFILE) == (16, 16)
    assert process.rlimit(psutil.RLIMIT_FSIZE) == (0, 0)
    assert process.rlimit(psutil.RLIMIT_CORE) == (0, 0)
    assert set(process.environ()) <= {"PYTHONPATH", "OPENBLAS_NUM_THREADS", "LC_ALL", "LC_CTYPE", *HEAP}
    opened = {str(entry.readlink()) for entry in Path(f"/proc/{process.pid}/fd").iterdir()}
    assert {name.split(":")[0] for name in opened} == {"/dev/null", "pipe", "/memfd"}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_child_may_read_its_inbox_write_its_outbox_and_nothing_else(one: Decoder) -> None:
    one.decode(GOOD)
    pid = _process(one).pid
    opened = {}
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        if "memfd" in (name := str(entry.readlink())):
            said = Path(f"/proc/{pid}/fdinfo/{entry.name}").read_text(encoding="ascii")
            flags = next(int(line.split()[1], 8) for line in said.splitlines() if line.startswith("flags:"))
            opened[name.split(maxsplit=1)[0]] = flags & os.O_ACCMODE
    assert opened == {"/memfd:photo": os.O_RDONLY, "/memfd:picture": os.O_RDWR}
    lines = [line.split() for line in Path(f"/proc/{pid}/maps").read_text().splitlines() if "memfd" in line]
    assert {line[5]: line[1] for line in lines} == {"/memfd:photo": "r--s", "/memfd:picture": "rw-s"}


def test_a_file_above_the_limit_reaches_no_child(one: Decoder) -> None:
    answer = one.decode(bytes(LIMITS.max_bytes + 1))
    assert isinstance(answer, Rejected)
    assert (answer.reason, one.pid) == ("too_large", None)


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux to end the child")
def test_a_child_ends_with_a_worker_that_is_killed() -> None:
    program = (
        "import sys, time\n"
        "from worker.decoding.decoder import Decoder\n"
        "from worker.decoding.outcomes import Limits\n"
        "one = Decoder(Limits(1 << 20, 1000, 768), seconds=60)\n"
        "one.decode(b'x')\n"
        "print(one.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    worker = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert worker.stdout
    pid = int(worker.stdout.readline())
    os.kill(pid, signal.SIGSTOP)  # so that it cannot notice the end of its pipe
    worker.kill()
    worker.wait()
    worker.stdout.close()
    _until(lambda: _is_gone(pid))


def test_a_child_whose_parent_is_gone_already_ends_at_once() -> None:
    inbox, outbox = Inbox(1), Outbox(1)
    boxes = [inbox.descriptor, outbox.descriptor]
    arguments = ['{"max_bytes": 1, "max_pixels": 1000, "copy_side": 768}', "1", *map(str, boxes)]
    done = subprocess.run(
        [sys.executable, "-m", "worker.decoding.child", *arguments],
        capture_output=True,
        pass_fds=boxes,
        cwd=ROOT,
        check=False,
    )
    inbox.close()
    outbox.close()
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_a_child_imports_neither_an_engine_nor_a_service() -> None:
    program = "import sys, worker.decoding.child; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    heavy = {"tensorflow", "keras", "openvino", "celery", "kombu", "sqlalchemy", "psycopg2", "boto3", "botocore"}
    heavy |= {"flask", "pydantic", "multiprocessing", "structlog", "redis"}
    assert not heavy & set(done.stdout.split())


def _child_that(monkeypatch: pytest.MonkeyPatch, folder: Path, says: str) -> Decoder:
    """A decoder whose child is the program ``says`` instead."""
    program = folder / "worker/decoding/child.py"
    program.parent.mkdir(parents=True)
    (folder / "worker/__init__.py").touch()
    (program.parent / "__init__.py").touch()
    program.write_text(f"import json, os, struct, sys, time\n{says}\n")
    monkeypatch.setattr(decoder, "_ROOT", folder)
    return Decoder(LIMITS, seconds=60)


@pytest.mark.parametrize("says", ["sys.exit(3)", "os.write(1, bytes(8))", "os.write(1, b'Traceback (most recent')"])
def test_a_child_that_cannot_start_is_the_machines_fault(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, says: str
) -> None:
    one = _child_that(monkeypatch, tmp_path, says)
    with pytest.raises(DecoderAway):
        one.decode(GOOD)
    assert one.pid is None


_READY = """
def say(head, body=b""):
    head = json.dumps(head).encode()
    os.pwrite(int(sys.argv[4]), body, 0)
    os.write(1, struct.pack("!II", len(head), len(body)) + head)
say({"ready": True})
os.read(0, 1)
good = {"format": "JPEG", "width": 1, "height": 1, "seconds": 1,
        "quality": {"blur": 1, "exposure": 1, "size": 1, "flat": 1}}
picture = bytes(224 * 224 * 3) + bytes([255, 216])
"""


@pytest.mark.parametrize(
    "lie",
    [
        "os.write(1, struct.pack('!II', 1 << 31, 0))",
        "os.write(1, struct.pack('!II', 2, 1 << 31) + b'{}')",
        "head = json.dumps(good).encode(); os.write(1, struct.pack('!II', len(head), len(picture)) + head)",
        "os.write(1, struct.pack('!II', 4, 0) + b'\\xff{}}')",
        "os.write(1, struct.pack('!II', 60_000, 0) + b'[' * 60_000)",
        "os.write(1, struct.pack('!II', 2, 0) + b'{}{}')",
        "say([])",
        "say({})",
        "say({'reason': 'because', 'detail': ''})",
        "say({'reason': 'damaged', 'detail': ''}, b'more')",
        "say(good, b'')",
        "say(good, picture[:-1])",
        "say({**good, 'format': '<script>'}, picture)",
        "say({**good, 'width': 'wide'}, picture)",
        "say({**good, 'width': 10**400}, picture)",
        "say({**good, 'seconds': float('nan')}, picture)",
        "say({**good, 'quality': {'blur': 1}}, picture)",
        "say({**good, 'quality': None}, picture)",
    ],
)
def test_a_child_that_lies_is_taken_for_dead(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lie: str) -> None:
    one = _child_that(monkeypatch, tmp_path, f"{_READY}\n{lie}\ntime.sleep(600)")
    answer = one.decode(GOOD)
    assert isinstance(answer, Rejected)
    assert answer.reason == "decoder_died"
    assert one.pid is None


def test_a_child_that_tells_the_truth_is_believed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    one = _child_that(monkeypatch, tmp_path, f"{_READY}\nsay(good, picture)\ntime.sleep(600)")
    answer = one.decode(GOOD)
    one.close()
    assert isinstance(answer, Decoded)
    assert answer.copy == b"\xff\xd8"


def test_an_answer_that_comes_in_pieces_is_read_to_its_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    slowly = (
        "write = os.write\n"
        "def os_write(to, data):\n"
        "    for n in range(0, len(data), 50): write(to, data[n : n + 50]); time.sleep(0.02)\n"
        "os.write = os_write"
    )
    one = _child_that(monkeypatch, tmp_path, f"{slowly}\n{_READY}\nsay(good, picture)\ntime.sleep(600)")
    answer = one.decode(GOOD)
    one.close()
    assert isinstance(answer, Decoded)


def test_a_child_that_waits_is_not_charged_and_one_that_works_without_end_is_given_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    waiting = _child_that(
        monkeypatch, tmp_path / "waiting", f"{_READY}\ntime.sleep(1)\nsay(good, picture)\ntime.sleep(600)"
    )
    waiting._cpu_seconds = 0.5
    assert isinstance(waiting.decode(GOOD), Decoded)
    waiting.close()
    working = _child_that(monkeypatch, tmp_path / "working", f"{_READY}\nwhile True: pass")
    working._cpu_seconds = 0.5
    assert working.decode(GOOD) == Rejected("timed_out", REASONS["timed_out"])
    assert working.pid is None


@pytest.mark.parametrize("data", [GOOD, files.encoded(files.photo(), "PNG"), GOOD[:2000]])
def test_a_photo_alone_is_read_by_two_threads_to_the_same_outcome(one: Decoder, data: bytes) -> None:
    def outcome(*, is_alone: bool) -> object:
        one.inbox.put(data)
        found = one.decode_laid(len(data), is_alone=is_alone)
        return (found.pixels.tobytes(), found.copy, found.quality) if isinstance(found, Decoded) else found

    assert outcome(is_alone=True) == outcome(is_alone=False)
    assert _process(one).num_threads() == 2


@pytest.mark.parametrize("error", [MemoryError(), ValueError("a codec's")])
def test_what_is_done_aside_is_over_when_the_rest_fails(error: Exception) -> None:
    begun, go, done = threading.Event(), threading.Event(), threading.Event()

    def first() -> None:
        assert begun.wait(60)
        threading.Timer(0.1, go.set).start()
        raise error

    def second() -> None:
        begun.set()
        assert go.wait(60)
        done.set()

    with ThreadPoolExecutor(1) as aside:
        with pytest.raises(type(error)):
            child._both(aside, first, second)
        assert done.is_set()

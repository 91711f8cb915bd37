"""What a decoding child can still do once it is confined: decode, and nothing else."""

import errno
import json
import platform
import signal
import struct
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import structlog
from PIL import Image

from tests.security.photos import probe
from tests.unit.worker import heif_files
from tests.unit.worker import photo_files as files
from worker.decoding import child, decoder, seccomp
from worker.decoding.decoder import Decoder
from worker.decoding.outcomes import Decoded, Limits

ROOT = Path(__file__).parents[3]
LIMITS = Limits(max_bytes=20 << 20, max_pixels=40_000_000, copy_side=768)
KILL, EPERM, ALLOW = 0x80000000, 0x00050000 | errno.EPERM, 0x7FFF0000
linux = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in seccomp._MACHINES, reason="there is no filter for this system"
)


def _probe(how: str, deadly: str = "") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "tests.security.photos.probe", how, deadly], cwd=ROOT, capture_output=True, check=False
    )


def _found(how: str) -> tuple[str, dict[str, str]]:
    done = _probe(how)
    assert done.returncode == 0, done.stderr.decode()
    said = json.loads(done.stdout)
    return said["holds"], said["found"]


@linux
@pytest.mark.parametrize("how", ["confined", "confined as nobody"])
def test_a_confined_child_can_decode_and_nothing_else(how: str) -> None:
    holds, found = _found(how)
    assert holds == "seccomp"
    assert {name: found[name] for name in probe.STILL_WORKS} == dict.fromkeys(probe.STILL_WORKS, "done")
    refused = {name: found[name] for name in probe.REFUSED}
    assert refused == dict.fromkeys(refused, "EPERM")


@linux
def test_without_the_filter_the_same_program_can_do_all_of_it() -> None:
    holds, found = _found("free")
    assert (holds, set(found.values())) == ("nothing", {"done"})
    assert set(found) == {*probe.REFUSED, *probe.STILL_WORKS}


@linux
@pytest.mark.parametrize("attempt", list(probe.DEADLY))
def test_what_only_an_intruder_calls_ends_the_child(attempt: str) -> None:
    assert _probe("confined", attempt).returncode == -signal.SIGSYS
    free = _probe("free", attempt)
    assert free.returncode == 0
    if attempt == "be traced":  # the others need no word of success, or a privilege besides
        assert json.loads(free.stdout) == {attempt: "done"}


def _verdict(program: bytes, number: int, arch: int, third: int = 0, first: int = 0) -> int:
    """What the program answers, by an interpreter of the few instructions it may use."""
    steps = [struct.unpack_from("<HBBI", program, at) for at in range(0, len(program), 8)]
    data = struct.pack("<IIQQQQ", number, arch, 0, first, 0, third)
    at = loaded = 0
    while True:
        code, if_true, if_false, operand = steps[at]
        at += 1
        if code == 0x06:
            return int(operand)
        if code == 0x20:
            loaded = int.from_bytes(data[operand : operand + 4], "little")
        else:
            assert code in {0x15, 0x45}
            at += if_true if (loaded == operand if code == 0x15 else loaded & operand) else if_false


@pytest.mark.parametrize("machine", seccomp._MACHINES.values(), ids=list(seccomp._MACHINES))
def test_the_filter_answers_each_call_as_its_list_says_on_every_machine(machine: seccomp._Machine) -> None:
    program = seccomp._filter(machine)
    expected = dict.fromkeys(range(1100), EPERM)
    expected |= {calls[machine.column]: ALLOW for calls in seccomp._ALLOWED.values()}
    expected |= {calls[machine.column]: KILL for calls in seccomp._DEADLY.values()}
    conditional = {calls[machine.column] for calls in seccomp._ALLOWED_UNLESS_EXECUTABLE.values()}
    expected[seccomp._CLONE3[machine.column]] = 0x00050000 | errno.ENOSYS
    for flags, verdict in ((0x3D0F00, ALLOW), (0x7D0F00, ALLOW), (0x3D0F00 | 0x20000000, EPERM), (17, EPERM)):
        assert _verdict(program, seccomp._CLONE[machine.column], machine.arch, first=flags) == verdict
    for number, verdict in expected.items():
        if number in conditional:
            assert _verdict(program, number, machine.arch, 3) == ALLOW
            assert _verdict(program, number, machine.arch, 7) == EPERM
        else:
            assert _verdict(program, number, machine.arch) == verdict, number
        assert _verdict(program, number, 0x40000003) == KILL  # the 32-bit calls of the same processor
        assert _verdict(program, number | 0x40000000, machine.arch) == EPERM  # x32
    assert len(program) // 8 < 64
    assert len(expected) == 1100


def _in_fresh_python(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@linux
def test_a_kernel_that_takes_no_filter_is_named_and_does_not_stop_the_child() -> None:
    twice = (
        "from worker.decoding.seccomp import SandboxMissing, install_filter\n"
        "install_filter()\n"
        "try: install_filter()\n"  # what installs a filter is on no list either
        "except SandboxMissing as error: print(error)\n"
    )
    assert _in_fresh_python(twice) == "prctl: Operation not permitted"
    elsewhere = (
        "import os, platform, sys\n"
        "platform.machine = lambda: 'riscv64'\n"
        "from worker.decoding.confinement import confine\n"
        "print(confine(memory=1 << 29, parent=os.getppid()))\n"
        "print(open('/proc/self/limits').read().count('16                   16'))\n"
    )
    assert _in_fresh_python(elsewhere) == "limits only: no filter for Linux on riscv64\n1"


def test_a_missing_sandbox_is_told_once_and_photos_are_decoded_all_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "worker/decoding/child.py"
    program.parent.mkdir(parents=True)
    for folder in (program.parent, program.parent.parent):
        (folder / "__init__.py").touch()
    program.write_text(
        f"import sys, platform\n__path__ = []\nsys.path[:0] = [{str(ROOT)!r}]\nplatform.machine = lambda: 'riscv64'\n"
        "for name in [n for n in sys.modules if n.partition('.')[0] == 'worker']: del sys.modules[name]\n"
        "from worker.decoding.child import main\nmain(sys.argv[1:])\n"
    )
    monkeypatch.setattr(decoder, "_ROOT", tmp_path)
    monkeypatch.setattr(decoder, "_is_told", threading.Event())
    with structlog.testing.capture_logs() as logs:
        for _ in range(2):
            one = Decoder(LIMITS, seconds=60)
            assert isinstance(one.decode(files.encoded(files.photo(90, 90))), Decoded)
            one.close()
            assert one.confinement.startswith("limits only: no filter for ")
    assert [(line["event"], line["log_level"]) for line in logs] == [("sandbox_missing", "warning")]
    assert logs[0]["reason"] == one.confinement


@linux
def test_a_worker_knows_that_its_children_are_confined() -> None:
    one = Decoder(LIMITS, seconds=60)
    assert one.confinement == ""
    one.decode(b"x")
    status = Path(f"/proc/{one.pid}/status").read_text(encoding="ascii")
    one.close()
    assert one.confinement == "seccomp"
    assert "\nSeccomp:\t2\n" in status
    assert "\nNoNewPrivs:\t1\n" in status


def test_a_confined_child_answers_every_kind_of_photo_as_an_unconfined_one() -> None:
    photo = files.photo(1700, 1300)
    contents = [files.oriented(turn, kind) for turn in range(1, 9) for kind in ("JPEG", "PNG", "WEBP")]
    contents += [
        files.canary_jpeg(),
        files.png_bomb(6000, 6000),
        files.encoded(photo, "MPO", save_all=True, append_images=[files.photo(seed=2)]),
        *(files.encoded(photo, progressive=True, restart_marker_rows=rows) for rows in (0, 1)),
        *(files.encoded(photo.convert(mode)) for mode in ("L", "CMYK")),
        *(files.encoded(photo.convert(mode), "PNG") for mode in ("1", "L", "LA", "P", "RGBA")),
        files.encoded(Image.fromarray(np.asarray(photo.convert("L")).astype(np.uint16) * 257), "PNG"),
        *(files.encoded(photo.convert(mode), "WEBP", lossless=mode == "RGBA") for mode in ("RGB", "RGBA")),
        files.encoded(photo.convert("P"), "PNG", transparency=3),
        *(heif_files.stored(name) for name in ("photo", "deep", "alpha", "grey", "two")),
        heif_files.tiled(3, 4, turned=(heif_files.irot(1),)),
        *(files.zeroed(files.encoded(photo, kind)) for kind in ("JPEG", "PNG", "WEBP")),
    ]
    one = Decoder(LIMITS, seconds=60)
    for data in contents:
        head, parts = child.answer(data, LIMITS)
        got = one.decode(data)
        if isinstance(got, Decoded):
            assert (got.width, got.height, got.format) == (head["width"], head["height"], head["format"])
            assert (got.pixels.tobytes(), got.copy) == parts
        else:
            assert (got.reason, got.detail) == (head["reason"], head["detail"])
    one.close()


@linux
def test_no_file_makes_the_child_load_anything() -> None:
    """Modules that load late would be refused, and honest photos with them."""
    program = (
        "import sys\n"
        "from worker.decoding import child\n"
        "from worker.decoding.outcomes import Limits\n"
        "child._try_codecs()\n"
        "before = set(sys.modules)\n"
        "from tests.security.photos import bombs\n"
        "from tests.unit.worker import photo_files as files\n"
        "contents = [bomb.make() for bomb in bombs.BOMBS] + [files.canary_jpeg()]\n"
        "for name in set(sys.modules) - before: del sys.modules[name]\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None): print(name)\n"
        "sys.meta_path.insert(0, Refuse())\n"
        "for data in contents: child.answer(data, Limits(20 << 20, 40_000_000, 768))\n"
    )
    assert _in_fresh_python(program) == ""

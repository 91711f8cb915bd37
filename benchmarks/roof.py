"""The machine's roof: multiply-accumulates on registers alone, by a small C program compiled when it is needed."""

import platform
import shutil
import statistics
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("roof.c")
ARITHMETICS = ("f32", "bf16", "int8")
_ABSENT = 3


class NoRoof(Exception):
    """The roof cannot be measured on this machine. Trying again changes nothing."""


class Roof:
    """The compiled program, in ``folder``. Raises ``NoRoof`` with the reason."""

    def __init__(self, folder: Path) -> None:
        compiler = next((found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), None)
        if compiler is None:
            raise NoRoof("this machine has no C compiler")
        if platform.machine() not in ("x86_64", "AMD64"):
            raise NoRoof(f"the loops are written for x86-64, and this is {platform.machine()}")
        self._program = folder / "roof"
        done = subprocess.run(
            [compiler, "-O2", "-o", str(self._program), str(SOURCE)], check=False, capture_output=True, text=True
        )
        if done.returncode:
            last = done.stderr.strip().splitlines()[-1:] or ["nothing"]
            raise NoRoof(f"the C compiler refuses roof.c: {last[0].replace(str(SOURCE), SOURCE.name)}")

    def gmac_per_cpu_second(self, arithmetic: str, seconds: float, at_once: int = 1) -> float:
        """Return 10^9 multiply-accumulates a CPU second of one core while ``at_once`` of them work."""
        command = [str(self._program), arithmetic, str(seconds)]
        running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(at_once)]
        said = [process.communicate()[0] for process in running]
        if any(process.returncode == _ABSENT for process in running):
            raise NoRoof(f"this processor has no instruction that multiplies and adds in {arithmetic}")
        return statistics.mean(float(text) for text in said)

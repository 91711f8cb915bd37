"""The web side runs without worker, network or picture parser."""

import subprocess
import sys

FORBIDDEN = (
    "worker", "tensorflow", "keras", "openvino", "celery.worker", "boto3", "pyarrow", "numpy", "PIL", "alembic",
)  # fmt: skip


def test_a_web_process_loads_neither_worker_nor_network() -> None:
    program = "import sys, web.app; print('\\n'.join(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.split()
    assert "web.intake.submission" in loaded
    for name in FORBIDDEN:
        assert not [module for module in loaded if module == name or module.startswith(name + ".")], name

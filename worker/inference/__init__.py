"""The network as served: preprocessing, engines, answers. Knows no Celery, database or bucket."""

import sys

# OpenVINO reports each import of itself to a statistics server; where this module cannot be imported, it does not.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # Python's documented way to block an import

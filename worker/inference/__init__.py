"""The network as served: preprocessing, engines, answers. Knows no Celery, database or bucket."""

import sys

# OpenVINO reports every import of itself to a statistics server. Where this module cannot be imported it reports nothing.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # Python's documented way to block an import

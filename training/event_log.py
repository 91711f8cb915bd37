"""Owns the figures of a training as TensorBoard reads them.

The package `tensorboard`, which only shows them, is not needed: `tf.summary.scalar` would want it, `tf.summary.write`
does not.
"""

# ruff: noqa: PLC0415 - TensorFlow takes seconds to import
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

_SCALARS: Final = "scalars"


class EventLog:
    """The log of one network in a folder of its own; a training that goes on begins a new file there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: Any = None

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        """Adds one point to the curve of each figure, and sees it to the disk."""
        import tensorflow as tf

        if self._writer is None:
            self._writer = tf.summary.create_file_writer(str(self._folder))
        plugin = tf.compat.v1.SummaryMetadata.PluginData(plugin_name=_SCALARS)
        metadata = tf.compat.v1.SummaryMetadata(plugin_data=plugin)
        with self._writer.as_default():
            for name, value in figures.items():
                tf.summary.write(name, tf.constant(value, tf.float32), step=step, metadata=metadata)
        self._writer.flush()

"""Owns the configuration of a training run: a TOML file, checked whole before anything begins."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from shared.errors import TrainingRefused
from training.manifest_form import NAMES
from training.runs import REST

_Rate = Annotated[float, Field(gt=0, le=1)]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Data(_Table):
    """Which photos, under which labels. `classes`: manifest labels in the order of the logits, the positive first.

    `split`: every fold in turn, or the data set's own split (one network), as published.
    """

    folder: Path
    manifest: Path | None = None
    classes: list[str] = Field(default=["Monkeypox", REST], min_length=2, max_length=32)
    names: list[str] | None = None
    licence: str = Field(min_length=1)
    split: Literal["folds", "named"] = "folds"

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if len(set(self.classes)) != len(self.classes) or REST in self.classes[:-1]:
            raise ValueError('classes are named once each, and "*" (all others) stands last')
        if self.names is not None and (len(self.names) != len(self.classes) or len(set(self.names)) != len(self.names)):
            raise ValueError("names are one for each of classes, each once")
        return self


class Network(_Table):
    """What training begins with: "imagenet", "file:PATH" with its SHA-256, "bundle:PATH" or "scratch"."""

    id: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{1,62}$")
    weights: str = Field(pattern=r"^(imagenet|scratch|file:.+|bundle:.+)$")
    weights_sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")

    @model_validator(mode="after")
    def _proved(self) -> Self:
        if self.weights.startswith("file:") and self.weights_sha256 is None:
            raise ValueError("weights from a file need weights_sha256: what is loaded must be what was meant")
        return self


class Stage(_Table):
    """Some epochs at one side in pixels; the learning rate falls from `rate` to `last_rate` along a cosine."""

    side: int = Field(ge=32, le=224)
    epochs: int = Field(ge=1)
    rate: _Rate
    last_rate: float = Field(default=0.0, ge=0, le=1)


class Recipe(_Table):
    """How it learns: the head on a frozen base first, then conv5 without its BatchNorm; from scratch all at once.

    From scratch it may go through `stages` instead, on small pictures first and at 224 px last.
    """

    side: int = Field(default=224, ge=32, le=224)
    batch: int = Field(default=32, ge=2)
    seeds: list[int] = Field(default=[7], min_length=1)
    head_epochs: int = Field(default=15, ge=1)
    head_rate: _Rate = 1e-3
    tune_epochs: int = Field(default=30, ge=1)
    tune_rate: _Rate = 1e-5
    patience: int = Field(default=5, ge=1)
    label_smoothing: float = Field(default=0.05, ge=0, lt=1)
    dropout: float = Field(default=0.3, ge=0, lt=1)
    weight_decay: float = Field(default=1e-4, ge=0)
    warmup_steps: int = Field(default=0, ge=0)
    stages: list[Stage] = []
    precision: Literal["auto", "float32", "mixed_bfloat16", "mixed_float16"] = "auto"


class Config(_Table):
    """The whole file."""

    data: Data
    network: Network
    recipe: Recipe = Recipe()

    @model_validator(mode="after")
    def _staged(self) -> Self:
        if self.recipe.stages and self.network.weights != "scratch":
            raise ValueError('recipe.stages are for weights = "scratch": what is transferred was learnt at 224 px')
        return self

    @property
    def manifest(self) -> Path:
        """Where the manifest lies: by default beside the photos."""
        beside = [self.data.folder / name for name in NAMES]
        return self.data.manifest or next((path for path in beside if path.is_file()), beside[-1])


def read_config(path: Path) -> Config:
    """Raises TrainingRefused with every fault of the file, each with its place."""
    try:
        return Config.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise TrainingRefused(f"{path} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        faults = [f"{'.'.join(str(part) for part in fault['loc'])}: {fault['msg']}" for fault in error.errors()]
        raise TrainingRefused(f"{path}: {'; '.join(faults)}") from error
    except ValueError as error:
        raise TrainingRefused(f"{path} is no TOML: {error}") from error

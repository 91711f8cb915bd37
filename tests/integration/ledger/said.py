"""An answer as a network would give it, packed for the ledger."""

from typing import Any

from shared.answers import scheme

EVIDENCE = [round(0.1 * n - 2, 4) for n in range(49)]
ANSWER: dict[str, Any] = {
    "probabilities": {"mpox": 0.93, "other": 0.07},
    "thresholds": {"mpox": 0.4, "other": 0.4},
    "prediction_set": ["mpox"],
    "quality": {"blur": 120.5, "exposure": 0.5, "size": 900, "flat": 30.0},
    "in_distribution": True,
    "evidence": EVIDENCE,
}


def said(answer: dict[str, Any] = ANSWER, model_id: str = "demo", model_digest: str = "ab" * 32) -> dict[str, Any]:
    """Return the fields of an outcome that hold this answer of this model."""
    by = scheme(model_id, model_digest, tuple(answer["thresholds"].items()), tuple(answer["quality"]))
    numbers = by.pack(
        answer["probabilities"],
        answer["prediction_set"],
        answer["quality"],
        answer["evidence"],
        in_distribution=answer["in_distribution"],
    )
    return {"scheme": by, "numbers": numbers}

"""Answers as packed numbers, and what is the same for every answer of a model as a row that results name.

The packing is that of ``shared/answers.py`` on the day of this revision: a byte of flags (1: in distribution), 32 bits
of the prediction set, a float a label, a double a quality figure, floats of evidence; big-endian.
"""

import json
from collections.abc import Mapping
from hashlib import sha256
from struct import Struct
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_BATCH = 2_000

SCHEME = """
CREATE TABLE answer_scheme (
  id UUID NOT NULL,
  model_id TEXT NOT NULL,
  model_digest TEXT NOT NULL,
  labels TEXT[] NOT NULL,
  thresholds DOUBLE PRECISION[] NOT NULL,
  quality TEXT[] NOT NULL,
  CONSTRAINT pk_answer_scheme PRIMARY KEY (id)
)
"""
ADDED = {"scheme_id": "UUID", "numbers": "BYTEA", "decode_ms": "REAL", "network_ms": "REAL"}
REPLACED = {"answer": "JSONB", "model_id": "TEXT", "model_digest": "TEXT", "timings": "JSONB"}


def upgrade() -> None:
    """Pack every answer there is; only then drop what it was."""
    op.execute(SCHEME)
    op.execute("GRANT SELECT ON answer_scheme TO poxvisio_app")
    op.execute("GRANT SELECT, INSERT ON answer_scheme TO poxvisio_worker")
    for name, kind in ADDED.items():
        op.execute(f"ALTER TABLE result ADD COLUMN {name} {kind}")
    op.execute("ALTER TABLE result ADD CONSTRAINT ck_result_numbers CHECK ((scheme_id IS NULL) = (numbers IS NULL))")
    op.execute("""
        UPDATE result SET decode_ms = CAST(timings ->> 'decode_ms' AS real),
          network_ms = CAST(timings ->> 'network_ms' AS real)
        WHERE timings IS NOT NULL
    """)
    _rewrite("SELECT image_id, model_id, model_digest, answer FROM result WHERE answer IS NOT NULL", _pack)
    for name in REPLACED:
        op.execute(f"ALTER TABLE result DROP COLUMN {name}")
    op.execute("ALTER TABLE result_history DROP COLUMN timings")


def downgrade() -> None:
    """Spell every answer out again."""
    for name, kind in REPLACED.items():
        op.execute(f"ALTER TABLE result ADD COLUMN {name} {kind}")
    op.execute("ALTER TABLE result_history ADD COLUMN timings JSONB")
    op.execute("""
        UPDATE result SET timings = jsonb_strip_nulls(jsonb_build_object(
          'decode_ms', round(CAST(decode_ms AS numeric), 2), 'network_ms', round(CAST(network_ms AS numeric), 2)))
        WHERE num_nonnulls(decode_ms, network_ms) > 0
    """)
    _rewrite(
        "SELECT r.image_id, r.numbers, s.* FROM result r JOIN answer_scheme s ON s.id = r.scheme_id "
        "WHERE r.answer IS NULL",
        _unpack,
    )
    op.execute("ALTER TABLE result DROP CONSTRAINT ck_result_numbers")
    for name in ADDED:
        op.execute(f"ALTER TABLE result DROP COLUMN {name}")
    op.execute("DROP TABLE answer_scheme")


def _rewrite(query: str, rewrite: Any) -> None:
    """Rewrite what a query finds, a batch of rows at a time."""
    connection, last = op.get_bind(), UUID(int=0)
    batch = sa.text(f"SELECT * FROM ({query}) x WHERE image_id > :last ORDER BY image_id LIMIT :batch")
    while rows := connection.execute(batch, {"last": last, "batch": _BATCH}).all():
        rewrite(connection, rows)
        last = rows[-1].image_id


def _pack(connection: sa.Connection, rows: Any) -> None:
    schemes, packed = {}, []
    for row in rows:
        scheme = _scheme(row.model_id or "", row.model_digest or "", row.answer)
        schemes[scheme["id"]] = scheme
        packed.append({"image": row.image_id, "scheme": scheme["id"], "numbers": _numbers(scheme, row.answer)})
    connection.execute(
        sa.text("""
            INSERT INTO answer_scheme (id, model_id, model_digest, labels, thresholds, quality)
            VALUES (:id, :model_id, :model_digest, :labels, CAST(:thresholds AS float8[]), CAST(:quality AS text[]))
            ON CONFLICT (id) DO NOTHING
        """),
        list(schemes.values()),
    )
    connection.execute(
        sa.text("UPDATE result SET scheme_id = :scheme, numbers = :numbers WHERE image_id = :image"), packed
    )


def _scheme(model_id: str, model_digest: str, answer: Mapping[str, Any]) -> dict[str, Any]:
    labels, quality = list(answer["probabilities"]), list(answer.get("quality") or {})
    known = answer.get("thresholds") or {}
    thresholds = [float(known.get(label, 0.0)) for label in labels]
    said = json.dumps([model_id, model_digest, labels, thresholds, quality])
    return {
        "id": UUID(bytes=sha256(said.encode()).digest()[:16]),
        "model_id": model_id,
        "model_digest": model_digest,
        "labels": labels,
        "thresholds": thresholds,
        "quality": quality,
    }


def _layout(scheme: Mapping[str, Any], evidence: int) -> Struct:
    return Struct(f">BI{len(scheme['labels'])}f{len(scheme['quality'])}d{evidence}f")


def _numbers(scheme: Mapping[str, Any], answer: Mapping[str, Any]) -> bytes:
    evidence = answer.get("evidence") or []
    fitting = sum(1 << scheme["labels"].index(label) for label in answer.get("prediction_set") or [])
    return _layout(scheme, len(evidence)).pack(
        int(bool(answer.get("in_distribution"))),
        fitting,
        *answer["probabilities"].values(),
        *(answer.get("quality") or {}).values(),
        *evidence,
    )


def _unpack(connection: sa.Connection, rows: Any) -> None:
    spelled = []
    for row in rows:
        scheme = {"labels": row.labels, "quality": row.quality}
        evidence = (len(row.numbers) - _layout(scheme, 0).size) // 4
        flags, fitting, *values = _layout(scheme, evidence).unpack(bytes(row.numbers))
        labels, figures = len(row.labels), len(row.quality)
        answer = {
            "probabilities": {label: round(p, 6) for label, p in zip(row.labels, values[:labels], strict=True)},
            "thresholds": dict(zip(row.labels, row.thresholds, strict=True)),
            "prediction_set": [label for place, label in enumerate(row.labels) if fitting >> place & 1],
            "quality": dict(zip(row.quality, values[labels : labels + figures], strict=True)),
            "in_distribution": bool(flags & 1),
            "evidence": [round(value, 4) for value in values[labels + figures :]],
        }
        spelled.append(
            {"image": row.image_id, "answer": json.dumps(answer), "id": row.model_id, "digest": row.model_digest}
        )
    connection.execute(
        sa.text("""
            UPDATE result SET answer = CAST(:answer AS jsonb), model_id = :id, model_digest = :digest
            WHERE image_id = :image
        """),
        spelled,
    )

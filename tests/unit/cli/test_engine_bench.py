"""Which engine a measurement chooses, and what it says of those that cannot be had."""

from pathlib import Path

import pytest

from cli import engine_bench
from cli.engine_bench import SIZES, Candidate, Measured, candidates, choose, measure, steps, table
from shared.errors import Unavailable
from worker.inference.devices import gpu_seen_by

DEMO = Path(__file__).parents[3] / "models" / "demo"
FAST, SLOW = Candidate("openvino", "bf16"), Candidate("tensorflow", "f32")


def measured(candidate: Candidate, cpu: dict[int, float]) -> Measured:
    """Return three turns whose median is ``cpu`` seconds a photo; one of them was disturbed."""
    turns = {size: [(each * 2, each), (each * 2, each), (each * 9, each * 9)] for size, each in cpu.items()}
    return Measured(candidate, load_seconds=1.0, memory_mib=500, turns=turns)


def test_the_cheapest_engine_is_chosen_with_the_smallest_batch_that_is_near_its_best() -> None:
    fast = measured(FAST, {1: 0.05, 2: 0.0412, 4: 0.041, 8: 0.04, 16: 0.04})
    slow = measured(SLOW, dict.fromkeys(SIZES, 0.08))
    refused = Measured(Candidate("torch", "f32"), refused="not installed")
    chosen = choose([slow, refused, fast])
    assert (chosen["engine"], chosen["precision"], chosen["batch"]) == ("openvino", "bf16", 2)
    assert "2.00 times what tensorflow f32 does" in chosen["why"]
    rows = table([slow, refused, fast])
    assert [row[0] for row in rows] == ["engine", "tensorflow f32", "torch f32", "openvino bf16"]
    assert rows[2][-1] == "not installed"
    assert rows[3][1:6] == ("20.0", "24.3", "24.4", "25.0", "25.0")
    assert {len(row) for row in rows} == {len(rows[0])}


def test_where_an_engine_has_a_gpu_photos_per_second_decide() -> None:
    """Its processor only waits, and would seem to cost next to nothing, or, where it waits busily, too much."""
    on_processor = Measured(FAST, load_seconds=1.0, turns={1: [(0.02, 0.04)], 8: [(0.02, 0.04)]})
    on_gpu = Measured(
        Candidate("torch", "f16"), load_seconds=9.0, gpu="one", turns={1: [(0.01, 0.09)], 8: [(0.001, 0.09)]}
    )
    chosen = choose([on_processor, on_gpu])
    assert (chosen["engine"], chosen["precision"], chosen["batch"]) == ("torch", "f16", 8)
    assert "torch f16 answers 1000.0 photos a second, 20.00 times what openvino bf16 does" in chosen["why"]
    on_gpu.gpu = None
    assert choose([on_processor, on_gpu])["engine"] == "openvino"


def test_every_precision_that_an_engine_has_is_tried_and_float16_on_a_gpu_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried = {(one.engine, one.precision) for one in candidates()}
    assert {("tensorflow", "bf16"), ("torch", "bf16"), ("openvino", "int8")} < tried
    assert (Candidate("torch", "f16") in candidates()) == gpu_seen_by("torch")
    candidates.cache_clear()
    monkeypatch.setattr(engine_bench, "gpu_seen_by", lambda library: library == "torch")
    assert {(one.engine, one.precision) for one in candidates()} == tried | {("torch", "f16")}
    candidates.cache_clear()


def test_no_engine_at_all_is_said_with_the_reasons() -> None:
    with pytest.raises(Unavailable, match="torch f32: not installed"):
        choose([Measured(Candidate("torch", "f32"), refused="not installed")])


def test_a_real_engine_is_measured_in_a_process_of_its_own_beside_one_that_cannot_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pair = (Candidate("openvino", "f32"), Candidate("openvino", "f16"))
    monkeypatch.setattr(engine_bench, "candidates", lambda: pair)
    monkeypatch.setattr(engine_bench, "SIZES", (1, 2))
    done: list[int] = []
    able, refused = measure(DEMO, tmp_path, threads=1, photos=2, turns=1, advance=done.append)
    assert done == list(range(1, steps(1) + 1))
    assert "not in f16" in str(refused.refused)
    assert sorted(able.turns) == [1, 2]
    assert able.memory_mib > 100
    assert [each["turns"] for each in able.as_json()["batches"]] == [1, 1]
    assert able.per_cpu_second(2) > 0

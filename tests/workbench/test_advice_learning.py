"""What runs teach of a machine's speed, with machines whose true speeds are known."""

from __future__ import annotations

import pytest

from quantdeck.workbench.advice.fit import Budget, Footprint
from quantdeck.workbench.advice.machine import Machine, Rate
from quantdeck.workbench.advice.repack import better_read, repacked_bytes
from quantdeck.workbench.advice.speed import CPU_EFFICIENCY, Corrections, efficiency, learn
from quantdeck.workbench.model import read_model
from quantdeck.workbench.sample import SAMPLE
from support import llama_quantize

MACHINE = Machine("cpu", Budget(8 << 30), True, False, Rate(20e9, "measured"), None)
TRUE = {"Q8_0": 0.9, "Q6_K": 0.8, "Q4_K": 0.7, "Q2_K": 0.3}


def footprint(**shares: int) -> Footprint:
    sizes = {kind: share << 20 for kind, share in shares.items()}
    total = sum(sizes.values())
    return Footprint((total,), (total,), 0, 0, False, 0, sizes)


MODELS = {
    "Q8_0": footprint(Q8_0=600),
    "Q4_K_M": footprint(Q4_K=250, Q6_K=120, F32=1),
    "Q6_K": footprint(Q6_K=450),
    "Q2_K": footprint(Q2_K=150, Q4_K=40),
}


def speed(weights: Footprint, rates: dict[str, float]) -> float:
    return 20e9 / sum(n / rates.get(kind, 0.5) for kind, n in weights.read_by_type.items())


def estimated(weights: Footprint, learned: Corrections) -> float:
    return 20e9 * efficiency(weights, MACHINE, learned, False) / sum(weights.read_by_type.values())


def test_one_run_makes_its_own_estimate_right() -> None:
    weights = MODELS["Q4_K_M"]
    measured = speed(weights, TRUE)
    learned = learn(weights, estimated(weights, Corrections()), measured, MACHINE, Corrections(), False)
    assert estimated(weights, learned) == pytest.approx(measured, rel=0.02)
    assert set(learned.types) == {"Q4_K", "Q6_K"}


def test_runs_of_many_levels_agree_in_the_end() -> None:
    learned = Corrections()
    for _ in range(16):
        for weights in MODELS.values():
            learned = learn(weights, estimated(weights, learned), speed(weights, TRUE), MACHINE, learned, False)
    for weights in MODELS.values():
        assert estimated(weights, learned) == pytest.approx(speed(weights, TRUE), rel=0.03)
    assert learned.types["Q2_K"] == pytest.approx(TRUE["Q2_K"], rel=0.1)


def test_one_odd_run_spoils_little() -> None:
    weights = MODELS["Q8_0"]
    learned = Corrections(cpu=0.9, types={"Q8_0": 0.9})
    odd = learn(weights, estimated(weights, learned), speed(weights, TRUE) / 1.5, MACHINE, learned, False)
    assert estimated(weights, odd) == pytest.approx(speed(weights, TRUE), rel=0.25)


def test_types_that_no_run_has_met_follow_the_others() -> None:
    weights = MODELS["Q8_0"]
    learned = learn(weights, estimated(weights, Corrections()), speed(weights, TRUE) / 2, MACHINE, Corrections(), False)
    assert learned.cpu == pytest.approx(TRUE["Q8_0"] / 2, rel=0.01)
    assert efficiency(MODELS["Q6_K"], MACHINE, learned, False) == pytest.approx(learned.cpu)
    assert efficiency(MODELS["Q6_K"], MACHINE, Corrections(), False) == pytest.approx(CPU_EFFICIENCY)


def test_small_models_and_nonsense_teach_nothing() -> None:
    before = Corrections(cpu=0.5, types={"Q8_0": 0.5})
    assert learn(footprint(Q8_0=8), 100, 900, MACHINE, before, False) is before
    assert learn(MODELS["Q8_0"], 100, 0.0, MACHINE, before, False) is before


def test_what_is_laid_out_anew(tmp_path) -> None:
    for level in ("Q4_0", "Q8_0"):
        llama_quantize.quantize(SAMPLE.model, tmp_path / level, level)
    q4, q8 = read_model(tmp_path / "Q4_0"), read_model(tmp_path / "Q8_0")
    x86 = ("AVX2", "REPACK")
    assert repacked_bytes(q4, x86) > q4.n_bytes / 2 and repacked_bytes(q8, x86) == 0
    assert repacked_bytes(q4, ("AVX2",)) == 0
    assert better_read(q4, x86, 1 << 30) and not better_read(q4, x86, q4.n_bytes) and not better_read(q8, x86, 1 << 30)
    assert repacked_bytes(q8, ("DOTPROD", "REPACK")) > 0

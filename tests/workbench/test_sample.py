"""The built-in sample is whole and says so itself."""

from __future__ import annotations

from quantdeck.workbench.model import read_model
from quantdeck.workbench.sample import SAMPLE, Question


def test_the_model_is_a_real_file():
    assert SAMPLE.model.is_file() and SAMPLE.model.is_absolute()
    assert SAMPLE.model.stat().st_size == 8_987_328
    assert SAMPLE.model == SAMPLE.model


def test_it_knows_itself():
    model = read_model(SAMPLE.model)
    assert SAMPLE.is_sample(model.metadata)
    assert SAMPLE.is_sample({"general.name": "Quantdeck sample 4M"})
    assert not SAMPLE.is_sample({"general.name": "Another"}) and not SAMPLE.is_sample({})


def test_texts():
    assert len(SAMPLE.questions) == 200
    assert Question("What does a sheep say?", "A sheep says baa.") in SAMPLE.questions
    assert len(SAMPLE.eval_text) > 50_000 and "<|im_start|>" in SAMPLE.eval_text
    assert len(SAMPLE.calibration_text) > 50_000 and SAMPLE.calibration_text != SAMPLE.eval_text
    assert "Apache" in SAMPLE.licence and SAMPLE.card.startswith("# ")

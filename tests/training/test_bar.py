"""The lines that training shows."""

import logging
import math

import pytest

from pyro_vae.training.bar import TrainingBar

ROW = {"epoch": 3, "step": 30, "train/elbo": -90.5, "train/kl": 20.25, "train/log_likelihood": -70.25, "seconds": 1.5}


@pytest.mark.parametrize(("val_elbo", "shown"), [(-95.125, "val/elbo   -95.125  "), (math.nan, "")])
def test_val_elbo_is_shown_if_there_is_validation_data(
    val_elbo: float, shown: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO), TrainingBar(logging.getLogger("training"), 5, 50, 20) as bar:
        bar.epoch({**ROW, "val/elbo": val_elbo})
    assert caplog.messages == [f"epoch    3 of 5  train/elbo   -90.500  train/kl  20.250  {shown}1.5 s"]

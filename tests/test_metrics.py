import pytest

from pyro_vae import metrics
from pyro_vae.metrics import COLUMNS, Metrics


def row(epoch):
    return {name: epoch + i / 8 if "/" in name or name == "seconds" else epoch for i, name in enumerate(COLUMNS)}


def test_rows_are_on_disk_at_once_and_in_tensorboard(tmp_path):
    with Metrics(tmp_path) as file:
        for epoch in (1, 2):
            file.write(row(epoch))
            assert metrics.read(tmp_path) == [row(e) for e in range(1, epoch + 1)]
    assert (tmp_path / "metrics.csv").read_text().splitlines()[0] == ",".join(COLUMNS)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path)).Reload()
    assert set(events.Tags()["scalars"]) == {name for name in COLUMNS if "/" in name}
    assert [e.value for e in events.Scalars("val/elbo")] == pytest.approx([row(1)["val/elbo"], row(2)["val/elbo"]])


def test_resuming_drops_rows_of_lost_work(tmp_path):
    with Metrics(tmp_path) as file:
        for epoch in (1, 2, 3):
            file.write(row(epoch))
    with Metrics(tmp_path, epoch=1) as file:
        assert metrics.read(tmp_path) == [row(1)]
        file.write(row(2))
    assert [r["epoch"] for r in metrics.read(tmp_path)] == [1, 2]
    with (tmp_path / "metrics.csv").open("a") as torn:
        torn.write("3,3,1.2")  # a power cut
    assert [r["epoch"] for r in metrics.read(tmp_path)] == [1, 2]
    lines = (tmp_path / "metrics.csv").read_text().splitlines()
    assert lines[1].startswith("1,1,")  # whole numbers stay so

import os

import pytest

from pyro_vae.runs import metrics
from pyro_vae.runs.metrics import COLUMNS, Metrics


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


DAMAGE = {
    "missing": (None, []),
    "empty": (b"", []),
    "a text in a number": (lambda lines: [lines[0], lines[1].replace(b"1.25", b"many"), *lines[2:]], [2, 3]),
    "an epoch that is NaN": (lambda lines: [lines[0], lines[1].replace(b"1,", b"nan,", 1), *lines[2:]], [2, 3]),
    "a huge number": (lambda lines: [lines[0], lines[1].replace(b"1.25", b"1e308"), *lines[2:]], [2, 3]),
    "a column gone": (lambda lines: [line.rpartition(b",")[0] + b"\n" for line in lines], []),
    "bytes": (b"\xff\xfe\0" * 1000, []),
    "a field without end": (b'"' + b"x" * 200_000, []),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_rows_are_left_out_with_a_warning(kind, tmp_path, caplog):
    with Metrics(tmp_path) as file:
        for epoch in (1, 2, 3):
            file.write(row(epoch))
    path, (change, epochs) = tmp_path / "metrics.csv", DAMAGE[kind]
    if change is None:
        path.unlink()
    else:
        path.write_bytes(change if isinstance(change, bytes) else b"".join(change(path.read_bytes().splitlines(True))))
    with Metrics(tmp_path, epoch=3) as file:
        file.write(row(4))
    assert len(caplog.records) == 1
    assert "left out of figures" in caplog.text
    caplog.clear()
    assert [r["epoch"] for r in metrics.read(tmp_path)] == [*epochs, 4]
    assert not caplog.records


def test_a_run_without_validation_data_has_nan(tmp_path, caplog):
    with Metrics(tmp_path) as file:
        file.write(row(1) | {"val/elbo": float("nan")})
    assert len(metrics.read(tmp_path)) == 1
    assert not caplog.records


def test_a_pipe_in_place_of_the_file_is_not_waited_for(tmp_path, caplog):
    os.mkfifo(tmp_path / "metrics.csv")
    assert metrics.read(tmp_path) == []
    assert "not a regular file" in caplog.text


def test_a_file_that_cannot_be_read_is_set_aside(tmp_path, monkeypatch):
    with Metrics(tmp_path) as file:
        for epoch in (1, 2):
            file.write(row(epoch))
    before = (tmp_path / "metrics.csv").read_text()
    monkeypatch.setattr(metrics, "MAX_BYTES", 10)
    with Metrics(tmp_path, epoch=2) as file:
        file.write(row(3))
    assert (tmp_path / "metrics.csv.unreadable").read_text() == before

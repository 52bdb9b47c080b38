"""The library: fit and load."""

from itertools import product

import numpy as np
import pytest
import torch
from conftest import every

import pyro_vae
from pyro_vae.errors import BadInput
from pyro_vae.marginal import AIS, Refined
from pyro_vae.runs import checkpoint, metrics


@pytest.fixture
def x():
    rng = np.random.default_rng(0)
    prototypes = rng.random((2, 3, 4)) < 0.5
    return (prototypes[rng.integers(2, size=150)] ^ (rng.random((150, 3, 4)) < 0.05)).astype(np.float32)


QUICK = {"latent_dim": 2, "max_epochs": 3, "overrides": ["network.hidden=[16]"]}


def test_fit_is_the_same_code_as_the_command(command, x, tmp_path):
    np.save("x.npy", x)
    options = ["data=array", "data.path=x.npy", "data.test_fraction=0.1", "network.hidden=[16]", "latent_dim=2"]
    outcome = command("train", *options, "trainer.max_epochs=3", "estimator=elbo", f"hydra.run.dir={tmp_path / 'run'}")
    assert outcome.code == 0, outcome.err
    vae = pyro_vae.fit(x, **{**QUICK, "overrides": [*QUICK["overrides"], "data.test_fraction=0.1"]})
    loaded = pyro_vae.load(tmp_path / "run")
    for name, value in vae.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name])


def test_fit_starts_from_the_data(x):
    options = ["network.hidden=[16]", "prior=vamp", "prior.num_pseudo_inputs=5"]
    vae = pyro_vae.fit(x, guide="diagonal", latent_dim=2, max_epochs=1, lr=1e-9, overrides=options)
    data = torch.tensor(x).flatten(1)
    assert torch.cdist(vae.prior.pseudo_inputs.detach().flatten(1), data).amin(1).max() < 1e-2


def test_fit_without_a_validation_set_and_of_a_mapped_array(x, tmp_path):
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    one, other = (pyro_vae.fit(data, val_fraction=0, **QUICK, run_dir=tmp_path / str(id(data))) for data in (x, mapped))
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name])
    rows = metrics.read(tmp_path / str(id(x)))
    assert all(np.isnan(row["val/elbo"]) for row in rows)
    assert (tmp_path / str(id(x)) / "checkpoints" / "best.pt").is_file()


def test_fit_improves_log_px_and_serves_its_users(x):
    start = pyro_vae.fit(x, **{**QUICK, "max_epochs": 1}, lr=1e-9)
    vae = pyro_vae.fit(x, **{**QUICK, "max_epochs": 100}, lr=1e-2)
    assert vae.log_prob(x, estimator="importance").mean() > start.log_prob(x, estimator="importance").mean() + 2
    assert vae.encode(x).shape == (150, 2)
    assert vae.decode(np.zeros((5, 2))).shape == vae.sample(5).shape == (5, 3, 4)
    assert vae.reconstruct(x).shape == (150, 3, 4)
    assert not vae.training
    assert ((vae.reconstruct(x) > 0.5).numpy() == x).mean() > 0.8


def test_fit_takes_tensors_bytes_and_booleans_and_writes_nothing_unless_asked(x, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for array in (torch.tensor(x), (x * 255).astype(np.uint8), x > 0.5):
        assert pyro_vae.fit(array, **QUICK).sample(2).shape == (2, 3, 4)
    assert not list(tmp_path.iterdir())
    vae = pyro_vae.fit(x, **QUICK, run_dir=tmp_path / "kept")
    torch.testing.assert_close(pyro_vae.load(tmp_path / "kept").encode(x), vae.encode(x))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"guide": "banana"}, "guide=banana is unknown"),
        ({"latent_dim": 0}, "latent_dim=0"),
        ({"lr": -1.0}, "lr=-1.0 must be at least 0"),
        ({"max_epochs": 0}, "^max_epochs=0"),
        ({"binarize": "maybe"}, "^binarize=maybe"),
        ({"overrides": ["trainer.banana=1"]}, "trainer.banana is not a key"),
        ({"overrides": ["likelihood=gaussian", "likelihood.scale=banana"]}, "likelihood.scale=banana"),
    ],
)
def test_fit_refuses_bad_settings_in_one_line(x, settings, message):
    with pytest.raises(BadInput, match=message) as caught:
        pyro_vae.fit(x, **{**QUICK, **settings})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("setting", ["latent_dim", "max_epochs", "batch_size", "seed"])
def test_numbers_without_bound_are_refused(x, setting):
    for number in (2**32, 10**30, 10**5000):
        with pytest.raises(BadInput, match=f"{setting}=.* (must be at most|is too large)") as caught:
            pyro_vae.fit(x, **{**QUICK, setting: number})
        assert len(str(caught.value)) < 200


def test_options_without_bound_are_refused(x, small_run):
    for option in ("network.hidden", "trainer.patience", "optimizer.lr", "trainer.clip_norm"):
        for digits in (4000, 5000):  # Python reads 4,300
            number = "9" * digits
            value = f"[{number}]" if option == "network.hidden" else number
            with pytest.raises(BadInput) as caught:
                pyro_vae.fit(x, **{**QUICK, "overrides": [f"{option}={value}"]})
            assert len(str(caught.value)) < 500, option
    vae = pyro_vae.load(small_run)
    for call in (
        lambda: vae.sample(10**30),
        lambda: vae.log_prob(np.zeros((1, 12)), num_samples=10**30),
        lambda: vae.impute(np.zeros((1, 12)), num_samples=10**30),
        lambda: Refined([10, 10**30]),
        lambda: AIS(num_temperatures=10**30),
    ):
        with pytest.raises(BadInput, match="=1000.* must be at most 4294967295"):
            call()


def test_fit_does_not_overwrite_a_run(x, tmp_path):
    pyro_vae.fit(x, **QUICK, run_dir=tmp_path / "kept")
    with pytest.raises(BadInput, match="already holds a run"):
        pyro_vae.fit(x, **QUICK, run_dir=tmp_path / "kept")


def test_load_needs_the_directory_alone_and_picks_the_best_epoch(small_run, tmp_path, monkeypatch):
    moved = small_run.rename(tmp_path / "elsewhere")
    monkeypatch.chdir("/")
    vae = pyro_vae.load(moved)
    best = checkpoint.load(moved / "checkpoints" / "best.pt")
    assert all(torch.equal(best["vae"][name], value) for name, value in vae.state_dict().items())
    assert pyro_vae.load(str(moved), which="last").data_shape == (12,)


def test_load_refuses_weights_that_do_not_fit(small_run):
    path = small_run / "checkpoints" / "best.pt"
    content = checkpoint.load(path)
    content["config"]["latent_dim"] = 3
    torch.save(content, path)
    with pytest.raises(BadInput, match="do not fit") as caught:
        pyro_vae.load(small_run)
    assert "\n" not in str(caught.value)
    del content["optim"]
    torch.save(content, path)
    with pytest.raises(BadInput, match="not a checkpoint"):
        pyro_vae.load(small_run)


def test_load_names_a_device_that_is_not_there(small_run):
    with pytest.raises(BadInput, match="device=meta is not available here"):
        pyro_vae.load(small_run, device="meta")
    with pytest.raises(BadInput, match="device=gpu is not available here"):
        pyro_vae.load(small_run, device="gpu")


TARGETS = ["os.mkdir", "pyro_vae.runs.files.os.mkdir", "pyro_vae.runs.files.write"]
PLACES = [("network", "activation"), ("guide",), ("data",)]


@pytest.mark.parametrize(("target", "place"), every(4, product(TARGETS, PLACES), several=True))
def test_a_configuration_in_a_checkpoint_calls_nothing_but_options(small_run, command, tmp_path, target, place):
    for name in ("best", "last"):
        path = small_run / "checkpoints" / f"{name}.pt"
        content = checkpoint.load(path)
        node = content["config"]
        for key in place[:-1]:
            node = node[key]
        node[place[-1]] = {"_target_": target, "path": str(tmp_path / "owned"), "content": "x"}
        torch.save(content, path)
    if place != ("data",):  # which load has no need of
        with pytest.raises(BadInput, match=f"would call {target}"):
            pyro_vae.load(small_run)
    outcome = command("evaluate", f"run={small_run}")
    assert outcome.code == 2
    assert f"would call {target}" in outcome.err
    assert command("train", f"resume={small_run}").code == 2
    assert not (tmp_path / "owned").exists()


def test_a_configuration_in_a_checkpoint_makes_no_targets_by_interpolation(small_run, tmp_path):
    path = small_run / "checkpoints" / "best.pt"
    content = checkpoint.load(path)
    content["config"]["guide"] = "${oc.create:'{_target_: os.mkdir, path: " + str(tmp_path / "owned") + "}'}"
    torch.save(content, path)
    with pytest.raises(BadInput, match="interpolation"):
        pyro_vae.load(small_run)
    assert not (tmp_path / "owned").exists()


def test_checkpoint_holds_what_resuming_and_loading_need(small_run):
    content = checkpoint.load(small_run / "checkpoints" / "last.pt")
    assert set(content) == {"format", "config", "data_shape", "num_classes", "data", "vae", "optim", "rng", "state"}
    assert content["state"]["epoch"] == 2
    assert content["data_shape"] == [12]


def test_package_names_are_listed_and_others_are_refused():
    assert set(dir(pyro_vae)) >= {"VAE", "BadInput", "fit", "load"}
    with pytest.raises(AttributeError, match="banana"):
        pyro_vae.banana  # noqa: B018


@pytest.mark.parametrize("session", [torch.no_grad, torch.inference_mode, "double"])
def test_fit_does_not_depend_on_the_callers_session(x, session, tmp_path):
    """Within `torch.inference_mode()` nothing can be learnt, with another default type nothing fits together."""
    expected = pyro_vae.fit(x, **QUICK).state_dict()
    if session == "double":
        torch.set_default_dtype(torch.float64)
        try:
            vae = pyro_vae.fit(x, **QUICK)
            assert torch.get_default_dtype() == torch.float64
        finally:
            torch.set_default_dtype(torch.float32)
    else:
        with session():
            vae = pyro_vae.fit(x, **QUICK)
    for name, value in vae.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_fit_takes_several_layers_as_a_tuple_and_says_what_it_does_not_take(x, tmp_path):
    assert pyro_vae.fit(x, **{**QUICK, "latent_dim": (3, 2)}).latent_dim == (3, 2)
    with pytest.raises(BadInput, match=r'overrides="network=conv" must be a list of options: \["network=conv"\]'):
        pyro_vae.fit(x, **{**QUICK, "overrides": "network=conv"})


def test_a_damaged_best_checkpoint_is_noticed_when_a_run_goes_on(command, small_run, caplog):
    best, last = (small_run / "checkpoints" / f"{name}.pt" for name in ("best", "last"))
    content = checkpoint.load(last)
    content["state"]["best_elbo"] = 0.0  # which nothing exceeds
    torch.save(content, last)
    best.write_bytes(best.read_bytes()[:-100])
    outcome = command("train", f"resume={small_run}", "trainer.max_epochs=3")
    assert outcome.code == 0, outcome.err
    assert "best.pt is damaged" in outcome.out
    assert "the best epoch is lost, the next one takes its place" in outcome.out
    assert pyro_vae.load(small_run).sample(2).shape[0] == 2
    assert checkpoint.load(best)["state"]["best_epoch"] == 3

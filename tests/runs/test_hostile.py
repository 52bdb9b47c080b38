"""A run directory from a stranger: nothing in it is executed, fetched or written elsewhere, nor fills the memory."""

from __future__ import annotations

import io
import pickle
import struct
import time
import warnings
import zipfile
from pathlib import Path

import pytest
import torch

import pyro_vae
from pyro_vae.errors import BadInput, memory
from pyro_vae.runs import archive, checkpoint
from pyro_vae.runs.fence import Fence
from pyro_vae.runs.plain import read_yaml, require_plain, with_references
from pyro_vae.runs.targets import OF_THE_DATA, OF_THE_MODEL, OF_TRAINING, check_sections

CALL = {"_target_": "os.mkdir", "path": "owned"}


def itself() -> list:
    inner: list = []
    inner.append(inner)
    return inner


def laughs() -> list:
    inner: list = ["ha"] * 10
    for _ in range(12):
        inner = [inner] * 10
    return inner


def rewrite(run: Path, change) -> None:
    """Change the content of a run's checkpoints."""
    for path in (run / "checkpoints").iterdir():
        content = checkpoint.load(path)
        change(content)
        torch.save(content, path)


def setting(*place, to):
    def change(content):
        *keys, last = place
        for key in keys:
            content = content[key]
        content[last] = to

    return change


def require_refused(outcome) -> None:
    assert outcome.code == 2, outcome.err + outcome.out
    assert outcome.err.startswith("error: ")
    assert outcome.err.count("\n") == 1
    assert "Traceback" not in outcome.err


WHAT_OMEGACONF_OR_HYDRA_WOULD_MAKE_SOMETHING_OF = {
    "a call in a tuple": (CALL,),
    "a call in a list": [[CALL]],
    "a call in a dict": {"a": {"b": CALL}},
    "an interpolation": "${oc.env:HOME}",
    "an interpolation in a key": {"${oc.env:HOME}": 1},
    "an escaped interpolation": "\\${oc.env:HOME}",
    "a list that contains itself": itself(),
    "a billion laughs": laughs(),
    "a long list": [5] * 200_000,
    "a long string": "x" * 100_000,
    "a huge number": 10**30,
    "a complex number": 1j,
    "a set": {1},
    "bytes": b"x",
    "a tensor": torch.zeros(2),
    "a dict with other keys": {1: 2},
    "a missing value": "???",
}
PLACES = [("network", "hidden"), ("latent_dim",), ("guide",), ("prior", "_target_"), ("conditioning",)]


@pytest.mark.slow
@pytest.mark.parametrize("what", WHAT_OMEGACONF_OR_HYDRA_WOULD_MAKE_SOMETHING_OF)
def test_load_takes_plain_values_only(small_run, what, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    value = WHAT_OMEGACONF_OR_HYDRA_WOULD_MAKE_SOMETHING_OF[what]
    whole = {path: path.read_bytes() for path in (small_run / "checkpoints").iterdir()}
    for place in PLACES:
        rewrite(small_run, setting("config", *place, to=value))
        with pytest.raises(BadInput) as caught:
            pyro_vae.load(small_run)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 600
        for path, content in whole.items():
            path.write_bytes(content)
    assert not Path("owned").exists()


@pytest.mark.parametrize("section", ["data", "optimizer", "scheduler", "trainer", "objective", "estimator"])
@pytest.mark.parametrize("what", ["a call in a tuple", "a call in a dict", "an interpolation"])
def test_what_is_instantiated_later_is_checked_as_well(small_run, command, section, what):
    value = WHAT_OMEGACONF_OR_HYDRA_WOULD_MAKE_SOMETHING_OF[what]
    rewrite(small_run, lambda content: content["config"][section].update(device=value))
    require_refused(command("train", f"resume={small_run}"))
    if section == "data":
        require_refused(command("evaluate", f"run={small_run}"))
    assert not Path("owned").exists()


@pytest.mark.parametrize("config", [None, "network: {hidden: [1]}", 3, [], {}, {"network": None}])
def test_a_configuration_that_is_none(small_run, config):
    rewrite(small_run, setting("config", to=config))
    with pytest.raises(BadInput):
        pyro_vae.load(small_run)


@pytest.mark.parametrize(
    ("group", "target"),
    [
        ("network", "pyro_vae.data.mnist"),
        ("guide", "pyro_vae.networks.MLP"),
        ("prior", "torch.optim.Adam"),
        ("optimizer", "torch.optim.lr_scheduler.StepLR"),
        ("optimizer", "torch.optim.sgd.os.system"),
        ("optimizer", "torch.optim.Tensor"),
        ("scheduler", "torch.optim.lr_scheduler.Any"),
        ("data", "pyro_vae.data.from_array"),
        ("data", "pyro_vae.data.vision._load"),
        ("trainer", "pyro_vae.marginal.Refined"),
        ("estimator", ["pyro_vae.marginal.Refined"]),
        ("objective", None),
    ],
)
def test_a_section_calls_its_own_options(finished_run, group, target):
    config = checkpoint.load(finished_run / "checkpoints" / "best.pt")["config"]
    config[group] = {**config[group], "_target_": target}
    with pytest.raises(BadInput, match="would call"):
        check_sections(config, [group], Path("best.pt"))


def test_a_section_has_its_targets_keys(finished_run):
    config = checkpoint.load(finished_run / "checkpoints" / "best.pt")["config"]
    check_sections(config, (*OF_THE_MODEL, *OF_TRAINING, *OF_THE_DATA), Path("best.pt"))
    for key in ("_args_", "_convert_", "_partial_", "root", "hiden"):
        changed = {**config, "network": {**config["network"], key: [1]}}
        with pytest.raises(BadInput, match=f"network.{key} is unknown to pyro_vae.networks.MLP"):
            check_sections(changed, OF_THE_MODEL, Path("best.pt"))


def test_trust_is_for_the_names_given(finished_run):
    config = checkpoint.load(finished_run / "checkpoints" / "best.pt")["config"]
    config["guide"] = {"_target_": "mine.Guide", "inner": [{"_target_": "pyro_vae.guides.Diagonal"}]}
    check_sections(config, OF_THE_MODEL, Path("best.pt"), trust=["mine.Guide"])
    check_sections(config, OF_THE_MODEL, Path("best.pt"), trust="mine.Guide")
    config["guide"]["inner"][0]["_target_"] = "os.mkdir"
    with pytest.raises(BadInput, match=r"would call os\.mkdir"):
        check_sections(config, OF_THE_MODEL, Path("best.pt"), trust=["mine.Guide"])


def test_evaluate_and_resume_fetch_nothing(small_run, command, tmp_path, monkeypatch):
    pytest.importorskip("torchvision")

    def fetch(*args, **kwargs):
        raise AssertionError("a download was tried")

    monkeypatch.setattr("urllib.request.urlopen", fetch)
    data = {"_target_": "pyro_vae.data.mnist", "root": str(tmp_path / "elsewhere")}
    rewrite(small_run, setting("config", "data", to=data))
    pyro_vae.load(small_run)  # has no need of them
    for outcome in (command("evaluate", f"run={small_run}"), command("train", f"resume={small_run}")):
        require_refused(outcome)
        assert "should hold" in outcome.err
        assert "data.root=DIR" in outcome.err
    assert not (tmp_path / "elsewhere").exists()


LARGE = [
    (("network", "hidden"), [40_000, 40_000]),
    (("network", "hidden"), [16] * 900),
    (("network", "hidden"), [2**62]),
    (("latent_dim",), [5] * 900),
    (("latent_dim",), 10**9),
    (("prior",), {"_target_": "pyro_vae.priors.Mixture", "num_components": 10**10}),
    (("prior",), {"_target_": "pyro_vae.priors.Vamp", "num_pseudo_inputs": 10**9}),
    (("guide",), {"_target_": "pyro_vae.guides.Mixture", "num_components": 10**9}),
    (("guide",), {"_target_": "pyro_vae.guides.SemiAmortized", "num_particles": 10**6}),
    pytest.param(("guide",), {"_target_": "pyro_vae.guides.SemiAmortized", "num_steps": 10**9}, marks=pytest.mark.slow),
    pytest.param(
        ("guide",),
        {"_target_": "pyro_vae.guides.InverseAutoregressive", "num_transforms": 10**9},
        marks=pytest.mark.slow,
    ),
    (("likelihood",), {"_target_": "pyro_vae.likelihoods.Categorical", "num_levels": 10**10}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("place", "value"), LARGE)
def test_a_configuration_larger_than_its_weights_is_not_built(small_run, place, value):
    import resource

    rewrite(small_run, setting("config", *place, to=value))
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    with pytest.raises(BadInput):
        pyro_vae.load(small_run)
    assert time.monotonic() - started < 60
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # KiB


def test_the_fence_counts_before_it_makes():
    with Fence(numbers=1000, tensors=10):
        assert torch.nn.Linear(10, 10)(torch.zeros(1, 10)).shape == (1, 10)
        with pytest.raises(MemoryError):
            torch.zeros(10**14)
    with Fence(numbers=1000, tensors=10):
        for _ in range(10):
            torch.zeros(1)
        with pytest.raises(MemoryError):
            torch.zeros(1)


MALFORMED = [
    ("data_shape", "abc"),
    ("data_shape", []),
    ("data_shape", [10**15]),
    ("data_shape", [-1]),
    ("data_shape", [True]),
    ("num_classes", "ten"),
    ("num_classes", -1),
    ("covariates", "abc"),
    ("covariates", [3]),
    ("vae", 3),
    ("vae", {"a": 3}),
    ("optim", []),
    ("rng", {}),
    ("rng", [3]),
    ("state", []),
    ("data", 3),
    ("format", "1"),
]


@pytest.mark.parametrize(("key", "value"), MALFORMED)
def test_malformed_checkpoints(small_run, key, value):
    rewrite(small_run, setting(key, to=value))
    with pytest.raises(BadInput, match=r"best\.pt"):
        pyro_vae.load(small_run)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("state", "epoch"), -1),
        (("state", "epoch"), "two"),
        (("state", "best_elbo"), None),
        (("state", "banana"), 1),
        (("data",), {}),
        (("data", "sizes"), {"train": "many"}),
        (("data", "val", "x"), [1.0]),
        (("optim", "names"), []),
        (("optim", "optimizer"), None),
        (("optim", "optimizer", "param_groups"), []),
        (("optim", "optimizer", "param_groups", 0, "lr"), "fast"),
        (("optim", "optimizer", "param_groups", 0, "lr"), float("nan")),
        (("optim", "optimizer", "state", 0, "exp_avg"), torch.zeros(3)),
        (("optim", "scheduler"), {"step": 3}),
        (("rng", 0, "cpu"), torch.zeros(3, dtype=torch.uint8)),
    ],
)
def test_malformed_training_states(small_run, command, place, value):
    rewrite(small_run, setting(*place, to=value))
    require_refused(command("train", f"resume={small_run}", "trainer.max_epochs=3"))


def test_weights_must_be_finite_and_of_their_own_type(small_run):
    for wrong in (torch.full((16,), float("nan")), torch.zeros(16, dtype=torch.int64)):
        rewrite(small_run, lambda content, wrong=wrong: content["vae"].update({"encoder.1.bias": wrong}))
        with pytest.raises(BadInput, match=r"best\.pt: its weight encoder\.1\.bias"):
            pyro_vae.load(small_run)


def test_load_opens_no_other_file(small_run):
    with pytest.raises(BadInput, match="which=../../best is unknown: choose one of best, last"):
        pyro_vae.load(small_run, which="../../best")


# The archive itself ---------------------------------------------------------------------------------------


def repack(path: Path, **changes: bytes) -> None:
    """Replace entries of the archive, with checksums that hold."""
    with zipfile.ZipFile(path) as old:
        entries = {name: old.read(name) for name in old.namelist()}
    folder = next(iter(entries)).partition("/")[0]
    with zipfile.ZipFile(path, "w") as new:
        for name, content in entries.items():
            new.writestr(name, changes.get(name.removeprefix(f"{folder}/").partition(".")[0], content))


def opcodes(*parts: bytes) -> bytes:
    return b"\x80\x02" + b"".join(parts) + b"."


def int4(n: int) -> bytes:
    return b"J" + struct.pack("<i", n)


PICKLES = {
    "bytearray(1e9)": opcodes(b"cbuiltins\nbytearray\n", int4(10**9), b"\x85R"),
    "bytearray by an instruction": b"\x80\x05\x96" + struct.pack("<Q", 10**10) + b".",
    "os.mkdir": opcodes(b"cos\nmkdir\n", b"X\x05\0\0\0owned", b"\x85R"),
    "a new object": opcodes(b"ccollections\nOrderedDict\n", b")\x81"),
    "a sparse tensor": opcodes(b"ctorch._utils\n_rebuild_sparse_tensor\n", b")R"),
    "an extension": opcodes(b"\x82\x01"),
    "nothing on the stack": opcodes(b"0"),
    "a mark too few": opcodes(b"}u"),
    "a name that is not there": opcodes(b"h\x07"),
    "deep tuples": opcodes(b")" + b"\x85" * 200_000),
    "tuples as keys": opcodes(b"}" + b")" + b"\x85" * 100_000 + b"Ns"),
    "a long index of the memo": opcodes(b"}r\xff\xff\xff\x7f"),
    "not a pickle": b"hello",
    "empty": b"",
    "too long": b"\x80\x02" + b"N0" * 2**22 + b"N.",
}


@pytest.mark.parametrize("what", PICKLES)
def test_pickles(small_run, what, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = small_run / "checkpoints" / "best.pt"
    repack(path, data=PICKLES[what])
    with pytest.raises(BadInput):
        pyro_vae.load(small_run)
    assert not Path("owned").exists()


def test_tensors_need_the_numbers_they_claim(small_run):
    path = small_run / "checkpoints" / "best.pt"
    whole = path.read_bytes()
    content = torch.load(path, weights_only=True)
    for claim in (torch.zeros(1).expand(10**6, 10**6), torch.zeros(1).expand(2)):
        content["vae"]["encoder.1.bias"] = claim
        torch.save(content, path)
        with pytest.raises(BadInput, match="needs more than its"):
            pyro_vae.load(small_run)
    path.write_bytes(whole)
    with zipfile.ZipFile(path) as file:
        name = next(name for name in file.namelist() if name.endswith("data/0"))
        record = file.read(name)
    with zipfile.ZipFile(path) as file, zipfile.ZipFile(small_run / "cut.pt", "w") as cut:
        for entry in file.namelist():
            cut.writestr(entry, record[:4] if entry == name else file.read(entry))
    (small_run / "cut.pt").replace(path)
    with pytest.raises(BadInput, match="a tensor's storage is missing"):
        pyro_vae.load(small_run)


def test_archives_that_unpack_to_more_than_they_are(small_run):
    path = small_run / "checkpoints" / "best.pt"
    with zipfile.ZipFile(path) as file:
        entries = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in entries.items():
            packed.writestr(name, content)
    with pytest.raises(BadInput, match="its entries are not as torch.save writes them"):
        pyro_vae.load(small_run)
    with zipfile.ZipFile(path, "w") as twice, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of duplicate names
        for name, content in [*entries.items(), *entries.items()]:
            twice.writestr(name, content)
    with pytest.raises(BadInput, match="its entries are not as torch.save writes them"):
        pyro_vae.load(small_run)


def test_a_sparse_file_is_not_read(small_run, monkeypatch):
    monkeypatch.setattr(memory, "physical_memory", lambda: 1e6)
    path = small_run / "checkpoints" / "best.pt"
    with path.open("r+b") as file:
        file.truncate(10**12)
    with pytest.raises(BadInput, match="best.pt takes 931.3 GiB: too much for"):
        pyro_vae.load(small_run)


def test_the_outline_of_what_torch_saves():
    content = {
        "a": [1, -(2**40), 2.5, None, True, "x", (1, "y", 3.0, None)],
        "b": {0: torch.zeros(2, 3), "t": torch.zeros(4, dtype=torch.bool)[1:], "scalar": torch.tensor(1.0)},
        "c": torch.nn.Linear(2, 3).state_dict(),
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with zipfile.ZipFile(buffer) as file:
        records = {name: file.read(name) for name in file.namelist()}
    outline = archive.Outline(records, next(iter(records)).partition("/")[0]).content
    assert outline["a"] == content["a"]
    shapes = {name: shape.sizes for name, shape in {**outline["b"], **outline["c"]}.items()}
    assert shapes == {0: (2, 3), "t": (3,), "scalar": (), "weight": (3, 2), "bias": (3,)}
    assert pickle.dumps(outline)


# .hydra/ --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"a: &a [1, 2]\nb: [*a, *a]\n",
        b"a: \xff\xfe\n",
        b"a: [1\n",
        b"[" * 5000,
        b"a: !!python/object/apply:os.mkdir [owned]\n",
        b"a: " + b"x" * 2**21,
        b"? [1, 2]\n: 3\n",
    ],
)
def test_yaml_is_read_with_limits(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_bytes(content)
    with pytest.raises(BadInput, match=r"config\.yaml"):
        read_yaml(tmp_path / "config.yaml")
    assert not Path("owned").exists()


def test_references_of_conf_are_resolved_and_nothing_else():
    config = with_references({"data": {"n": 3, "evil": "${oc.env:HOME}"}, "likelihood": {"n": "${data.n}"}})
    assert config["likelihood"] == {"n": 3}
    with pytest.raises(BadInput, match=r"interpolation \$\{oc.env:HOME\}"):
        require_plain(config, Path("config.yaml"))


def test_a_run_without_checkpoints_resolves_nothing_of_a_strangers(small_run, command, monkeypatch):
    monkeypatch.setenv("SECRET", "hush")
    for path in (small_run / "checkpoints").iterdir():
        path.unlink()
    path = small_run / ".hydra" / "config.yaml"
    whole = path.read_text()
    path.write_text(whole.replace("latent_dim: 2", "latent_dim: ${oc.env:SECRET}"))
    outcome = command("train", f"resume={small_run}")
    require_refused(outcome)
    assert "hush" not in outcome.err
    path.write_bytes(b"\xff" + whole.encode())
    require_refused(command("train", f"resume={small_run}"))
    path.write_text(whole)
    assert command("train", f"resume={small_run}").code == 0


def test_weights_too_large_for_their_networks_end_in_one_line(small_run, command):
    def change(content):
        content["config"]["likelihood"] = {"_target_": "pyro_vae.likelihoods.Gaussian"}
        fresh = pyro_vae.fit(
            torch.rand(20, 12), likelihood="gaussian", latent_dim=2, max_epochs=1, overrides=["network.hidden=[16]"]
        )
        content["vae"] = {name: value.clamp(min=1e38) for name, value in fresh.state_dict().items()}

    rewrite(small_run, change)
    for arguments in (("evaluate", f"run={small_run}", "analysis=all"), ("train", f"resume={small_run}")):
        outcome = command(*arguments)
        require_refused(outcome)
        assert "its weights are so large" in outcome.err

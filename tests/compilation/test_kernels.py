"""Products of float32 matrices: oneDNN's results, the choice of a kernel for each, and what remembers it."""

import json
import re
from copy import deepcopy
from functools import partial

import pytest
import torch
from torch import nn
from torch._inductor.utils import run_and_get_code
from torch.fx.experimental.proxy_tensor import make_fx

from pyro_vae.compilation import kernels, onednn, products
from pyro_vae.compilation.backend import Backend
from pyro_vae.compilation.compiled import Compiled
from pyro_vae.compilation.gradients import with_gradients
from pyro_vae.compilation.kernels import ONEDNN, TORCH, Kernels, fastest
from pyro_vae.compilation.products import Layout, Product
from pyro_vae.data import Dataset, Split
from pyro_vae.errors import BadInput
from pyro_vae.guides import Diagonal
from pyro_vae.likelihoods import Bernoulli
from pyro_vae.networks import MLP
from pyro_vae.objectives import TraceMeanField_ELBO
from pyro_vae.parallel import collectives
from pyro_vae.priors import StandardNormal
from pyro_vae.training import dry_run
from pyro_vae.training.optim import JointOptim
from pyro_vae.training.trainer import State, Trainer
from pyro_vae.vae import VAE

HAS_ONEDNN, WHY = torch.backends.cpu.get_cpu_capability() == "AVX512", "without AVX-512 oneDNN refuses float32 products"
needs_onednn = pytest.mark.skipif(not HAS_ONEDNN, reason=WHY)


def only(kernel):
    """A choice of one kernel for all products."""
    return lambda wanted: {str(product): kernel for product in wanted}


@pytest.fixture
def always(monkeypatch):
    """oneDNN computes all products, also those that are too small to gain from it."""
    if not HAS_ONEDNN:
        pytest.skip(WHY)
    assert onednn.kernel()
    monkeypatch.setattr(products, "MIN_SIZE", 1)


@pytest.fixture
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    return tmp_path


# Results


def operands(M, K, N, *batch):
    """Operands by the ways they lie in memory."""
    a, b = torch.randn(*batch, M, K), torch.randn(*batch, K, N)
    return {
        "plain": (a, b),
        "forward": (a, b.mT.contiguous().mT),
        "gradient of weights": (a.mT.contiguous().mT, b),
        "both transposed": (a.mT.contiguous().mT, b.mT.contiguous().mT),
        "parts of larger ones": (
            torch.randn(*batch, M, K + 3)[..., 1 : K + 1],
            torch.randn(*batch, K, 2 * N)[..., ::2],
        ),
    }


@needs_onednn
@pytest.mark.parametrize("sizes", [(100, 784, 200), (37, 53, 101), (1, 300, 7), (300, 1, 5), (17, 31, 13, 4)], ids=str)
def test_products_are_accurate(sizes):
    torch.manual_seed(0)
    for a, b in operands(*sizes).values():
        exact = a.double() @ b.double()
        result = onednn.kernel()(a, b, out=torch.full(exact.shape, torch.nan))
        assert ((result - exact).abs() <= 1e-6 * (a.abs() @ b.abs())).all()  # as the bound for rounding errors
    a = torch.randn(2, 5, 6)
    b = torch.randn(6, 3).expand(2, 6, 3)  # one matrix for the whole batch
    torch.testing.assert_close(onednn.kernel()(a, b, out=torch.empty(2, 5, 3)), a @ b)


@needs_onednn
def test_an_error_of_onednn_is_an_exception():
    with pytest.raises(RuntimeError, match="could not create"):
        onednn.kernel()(torch.ones(2, 3), torch.ones(4, 2), out=torch.ones(2, 2))


# Graphs


def loss(net, x):
    return net(x).square().sum()


def network(dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 5)).to(dtype), torch.randn(7, 12, dtype=dtype)


def graph_of(fn, *args):
    graph = make_fx(fn)(*args)
    products.split_biases(graph)
    return graph, lambda: [str(node.target) for node in graph.graph.nodes].count("pyro_vae.product.default")


def test_every_product_of_a_graph_is_replaced(always, as_traced):
    net, x = network()
    graph, count = graph_of(lambda x: with_gradients(partial(loss, net))(x)[2], x)
    Kernels({}, only(TORCH)).assign(graph)
    assert count() == 0
    chosen = Kernels({}, only(ONEDNN))
    chosen.assign(graph)
    assert (count(), len(chosen.chosen)) == (5, 5)  # forward, and the gradients but that of the data
    fast, exact = Compiled(with_gradients(loss), kernels=chosen), deepcopy(net).double()
    for _ in range(4):
        (value,), _, gradients = fast(net, x)
        (expected,), _, others = with_gradients(loss)(exact, x.double())
        torch.testing.assert_close([value, *gradients], [t.float() for t in (expected, *others)])


def test_batches_and_sums_with_factors(always):
    a, b = torch.randn(3, 4, 5), torch.randn(3, 5, 6)
    graph, count = graph_of(lambda a, b: torch.addmm(torch.ones(6), a[0], b[0], alpha=2) + a @ b, a, b)
    Kernels({}, only(ONEDNN)).assign(graph)
    assert count() == 1  # the batch
    torch.testing.assert_close(graph(a, b), 1 + 2 * a[0] @ b[0] + a @ b)


def test_other_products_stay(always, monkeypatch):
    net, x = network(torch.float64)
    graph, count = graph_of(partial(loss, net), x)
    bf16, count_bf16 = graph_of(partial(loss, net.bfloat16()), x.bfloat16())
    empty, count_empty = graph_of(lambda x: x @ x.T + x[:, :0] @ x.T[:0], torch.ones(0, 3))
    monkeypatch.setattr(products, "MIN_SIZE", 300)
    small, count_small = graph_of(lambda x: (x @ x.T, x[:5] @ x.T), torch.ones(7, 7))  # 343 and 245
    for each in (graph, bf16, empty, small):
        Kernels({}, only(ONEDNN)).assign(each)
    assert [count(), count_bf16(), count_empty(), count_small()] == [0, 0, 0, 1]


def test_inductor_calls_onednn_without_copies_and_fuses_the_bias(always, cache):
    net, x = network()
    graph, _ = graph_of(lambda x: net[1](net[0](x)).T @ x, x)
    Kernels({}, only(ONEDNN)).assign(graph)
    with torch.no_grad():
        result, (code,) = run_and_get_code(lambda: torch._inductor.compile(graph, [x])(x))
    torch.testing.assert_close(result, net[1](net[0](x)).T @ x)
    calls = re.findall(r"^ +(cpp_fused|extern_kernels\.\w+)", code.partition("def call")[2], re.MULTILINE)
    assert calls == ["extern_kernels.pyro_vae_product", "cpp_fused", "extern_kernels.pyro_vae_product"]


@pytest.mark.parametrize("kernels", [None, Kernels({}, only(TORCH))], ids=["torch", "chosen"])
def test_biases_are_added_by_the_code_that_follows(kernels):
    net, x = network()
    graph = make_fx(lambda x: net[1](net[0](x)))(x)
    backend = Backend("inductor", kernels)
    with torch.no_grad():
        result, (code,) = run_and_get_code(lambda: backend.compile(graph, [x], on_gpu=False)(x))
    exact = deepcopy(net).double()
    torch.testing.assert_close(result.double(), exact[1](exact[0](x.double())), rtol=0, atol=1e-6)
    calls = re.findall(r"^ +(cpp_fused|extern_kernels\.\w+)", code.partition("def call")[2], re.MULTILINE)
    assert calls == ["extern_kernels.mm", "cpp_fused"]


# The choice


SMALL = Product("mm", Layout((6, 8), (8, 1)), Layout((8, 4), (1, 8)))


@needs_onednn
def test_the_median_of_comparisons_decides(cache, monkeypatch):
    slow = Product("mm", SMALL.b, SMALL.a)
    gains = {SMALL: iter([1.2, 0.5, 1.1]), slow: iter([1.02, 5.0, 1.01])}  # with other work on the machine
    monkeypatch.setattr(Product, "gain", lambda self, kernel: next(gains[self]))
    assert fastest([SMALL, slow]) == {"mm 6x8:8,1 8x4:1,8": ONEDNN, "mm 8x4:1,8 6x8:8,1": TORCH}


def test_memory_that_is_too_small_for_the_operands(cache, monkeypatch):
    def fail(self, kernel):
        raise RuntimeError("not enough memory")

    monkeypatch.setattr(Product, "gain", fail)
    assert fastest([SMALL]) == {str(SMALL): TORCH}


@needs_onednn
@pytest.mark.parametrize("operation", ["mm", "bmm"])
def test_the_gain_is_measured_without_using_up_noise(monkeypatch, operation):
    monkeypatch.setattr(products, "SECONDS", 1e-3)
    batch = (((2,), (0,)),) if operation == "bmm" else ()
    layouts = [Layout((*(b[0][0] for b in batch), *n), (*(b[1][0] for b in batch), *s)) for n, s in (SMALL.a, SMALL.b)]
    before, kernel = torch.get_rng_state(), onednn.kernel()

    def late(a, b, out):
        for _ in range(20):
            kernel(a, b, out=out)

    assert Product(operation, *layouts).gain(late) < 0.5
    assert torch.equal(torch.get_rng_state(), before)


@needs_onednn
def test_products_are_timed_once_and_a_damaged_memory_is_replaced(cache, monkeypatch):
    timed = []
    monkeypatch.setattr(kernels, "_is_faster", lambda kernel, product: timed.append(product) or True)
    for _ in range(2):
        assert fastest([SMALL]) == {str(SMALL): ONEDNN}
    assert timed == [SMALL]
    (file,) = (cache / "pyro_vae").iterdir()
    for damaged in ("", "{", "[1]", "null", json.dumps({str(SMALL): "magic"}), json.dumps({str(SMALL): {}})):
        file.write_text(damaged)
        assert fastest([SMALL]) == {str(SMALL): ONEDNN}
        assert json.loads(file.read_text()) == {str(SMALL): ONEDNN}
    assert len(timed) == 7
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        fastest([SMALL])
    finally:
        torch.set_num_threads(threads)
    assert len(timed) == 8
    assert len([*file.parent.iterdir()]) == 2


@needs_onednn
def test_a_folder_that_cannot_be_written(cache, monkeypatch):
    monkeypatch.setattr(Product, "gain", lambda self, kernel: 2.0)
    (cache / "pyro_vae").write_text("")
    assert fastest([SMALL]) == {str(SMALL): ONEDNN}


@pytest.mark.parametrize("missing", ["symbol", "compiler"])
def test_without_onednn_torch_computes_the_products(missing, always, cache, monkeypatch, caplog):
    monkeypatch.setattr(onednn, "_SOURCE", onednn._SOURCE + "// not built before")
    if missing == "symbol":
        monkeypatch.setattr(onednn, "_SYMBOL", "no_such_function")
    compilers = {"cpp.cxx": ("no-such-compiler",)} if missing == "compiler" else {}
    with caplog.at_level("INFO"), torch._inductor.config.patch(compilers):
        assert onednn._kernel.__wrapped__() is None
    assert [record.levelname for record in caplog.records if record.name == onednn.log.name] == ["INFO"]
    monkeypatch.setattr(onednn, "kernel", lambda: None)
    assert fastest([SMALL]) == {str(SMALL): TORCH}
    graph, count = graph_of(lambda x: x @ x.T, torch.ones(2, 3))
    Kernels({}, only(ONEDNN)).assign(graph)  # chosen on another machine
    assert count() == 0
    assert "may round differently" in caplog.text


# Trainings


def training(vae, state, choose, monkeypatch, epochs):
    """Parameters after some epochs."""
    monkeypatch.setattr(dry_run, "fastest", choose)
    x = torch.rand(40, 6, generator=torch.Generator().manual_seed(0)).round()
    data, optim = Dataset(Split(x), Split(x[:0]), Split(x[:0])), JointOptim(partial(torch.optim.SGD, lr=0.01))
    torch.manual_seed(state.epoch)
    trainer = Trainer(batch_size=20, max_epochs=epochs, compile=True)
    trainer.fit(vae, data, TraceMeanField_ELBO(), optim, state, lambda row, best: None)
    return torch.nn.utils.parameters_to_vector(vae.parameters()).detach()


def test_a_resumed_run_keeps_its_kernels(always, as_traced, monkeypatch, tmp_path):
    torch.manual_seed(0)
    vae, state = VAE.build([6], 2, MLP([600]), StandardNormal, Bernoulli, Diagonal), State()
    training(vae, state, only(ONEDNN), monkeypatch, 1)
    assert set(state.kernels.values()) == {ONEDNN}
    saved = {**vars(state), "kernels": dict(state.kernels)}
    now = partial(training, monkeypatch=monkeypatch, epochs=8)
    expected = now(deepcopy(vae), State.of(deepcopy(saved), tmp_path), only(ONEDNN))
    assert torch.equal(now(deepcopy(vae), State.of(deepcopy(saved), tmp_path), only(TORCH)), expected)
    others = {**saved, "kernels": dict.fromkeys(saved["kernels"], TORCH)}
    torchs = now(deepcopy(vae), State.of(others, tmp_path), only(ONEDNN))
    assert not torch.equal(torchs, expected)  # rounded otherwise
    old = State.of({name: value for name, value in saved.items() if name != "kernels"}, tmp_path)
    assert torch.equal(now(deepcopy(vae), old, only(ONEDNN)), torchs)
    assert old.kernels is None


@pytest.mark.parametrize("wrong", [{"mm": "magic"}, {1: TORCH}, {"mm": []}, [TORCH]])
def test_kernels_of_a_state_are_checked(wrong, tmp_path):
    with pytest.raises(BadInput, match="not written by pyro_vae: its state has"):
        State.of({"kernels": wrong}, tmp_path)


def test_all_processes_use_the_choices_of_the_first(monkeypatch):
    other, sent = Product("mm", SMALL.a, SMALL.b), []
    monkeypatch.setattr(collectives, "gather", lambda wanted: [wanted, [other]])
    monkeypatch.setattr(collectives, "from_rank_0", lambda value: sent.append(value) or value)
    monkeypatch.setattr(dry_run, "fastest", only(ONEDNN))
    assert dry_run.agreed([SMALL]) == {str(SMALL): ONEDNN, str(other): ONEDNN}
    monkeypatch.setattr(collectives, "rank", lambda: 1)
    dry_run.agreed([SMALL])
    assert sent[1] == {}

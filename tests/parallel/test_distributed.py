"""Two real processes train as one does."""

import copy
import multiprocessing
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import time
from functools import partial

import numpy as np
import pyro
import pytest
import torch
from conftest import PRELOADED, SMALL, assert_same, make_ppca, outcome

from pyro_vae.data import Dataset, Split
from pyro_vae.errors import BadInput
from pyro_vae.guides import Diagonal, Point
from pyro_vae.likelihoods import Bernoulli
from pyro_vae.marginal import Refined
from pyro_vae.networks import MLP
from pyro_vae.objectives import Trace_ELBO
from pyro_vae.parallel import collectives
from pyro_vae.priors import StandardNormal
from pyro_vae.runs import metrics
from pyro_vae.runs.estimation import estimate
from pyro_vae.training.optim import JointOptim
from pyro_vae.training.svi import SVI
from pyro_vae.training.trainer import State, Trainer, reported_loss
from pyro_vae.vae import VAE

WORLD = 2


def child(rank, port, fn, path):
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(WORLD), LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1")
    os.environ["MASTER_PORT"] = str(port)
    with collectives.process_group():
        result = fn()
    path.write_bytes(pickle.dumps(result))


def in_two_processes(fn, folder):
    """What `fn()` returns in either."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    paths = [folder / f"{rank}.pickle" for rank in range(WORLD)]
    children = [context.Process(target=child, args=(rank, port, fn, path)) for rank, path in enumerate(paths)]
    for process in children:
        process.start()
    for process in children:
        process.join(120)
        assert process.exitcode == 0
    return [pickle.loads(path.read_bytes()) for path in paths]


def make_data():
    x = (torch.rand(91, 6, generator=torch.Generator().manual_seed(1)) < 0.4).double()
    return Dataset(Split(x[:71]), Split(x[71:84]), Split(x[84:]))


def train(guide, epochs, record=None):
    """Parameters and rows after some epochs of plain SGD, which would not hide a wrong factor as Adam does."""
    pyro.clear_param_store()
    pyro.set_rng_seed(3)
    vae = VAE.build([6], 2, MLP([8]), StandardNormal, Bernoulli, guide).double()
    torch.manual_seed(100 + collectives.rank())
    rows, data, objective = [], make_data(), Trace_ELBO()
    batches = data.batches
    data.batches = lambda indices: (record.extend(indices) if record is not None else None) or batches(indices)
    optim = JointOptim(partial(torch.optim.SGD, lr=0.1))
    trainer = Trainer(max_epochs=epochs, batch_size=30, compile=False)  # the last batch of 11: shares of 6 and 5
    trainer.fit(vae, data, objective, optim, State(), lambda row, best: rows.append(row))
    for row in rows:
        del row["seconds"]
    return torch.nn.utils.parameters_to_vector(vae.parameters()).detach(), rows


def test_a_step_is_that_of_one_process_with_the_whole_batch(tmp_path):
    """Without noise: an autoencoder. Parameters, and what is reported on the way, are those of one process."""
    (first, rows), (second, others) = in_two_processes(partial(train, Point, 3), tmp_path)
    alone, expected = train(Point, 3)
    assert torch.equal(first, second)
    torch.testing.assert_close(first, alone, rtol=1e-10, atol=1e-12)
    assert rows == others
    assert [row["step"] for row in rows] == [3, 6, 9]
    for row, one in zip(rows, expected, strict=True):
        assert row == pytest.approx(one, rel=1e-10)


def noisy():
    record = []
    parameters, rows = train(Diagonal, 2, record)
    return parameters, rows, record[1:], torch.get_rng_state()  # without the dry run's


def test_shares_are_disjoint_noise_differs_and_parameters_do_not(tmp_path):
    (first, rows, mine, noise), (second, others, yours, other_noise) = in_two_processes(noisy, tmp_path)
    assert torch.equal(first, second)
    assert rows == others
    assert not torch.equal(noise, other_noise)
    assert [(len(a), len(b)) for a, b in zip(mine, yours, strict=True)] == [(15, 15), (15, 15), (6, 5)] * 2
    for epoch in (slice(0, 3), slice(3, 6)):
        seen = torch.cat([*mine[epoch], *yours[epoch]])
        assert torch.equal(seen.sort().values, torch.arange(71))


def one_step():
    """The averaged gradient of a batch of 11, the share and the noise it has been made with."""
    pyro.set_rng_seed(3)
    vae = VAE.build([6], 2, MLP([8]), StandardNormal, Bernoulli, Diagonal).double()
    whole = copy.deepcopy(vae)
    torch.manual_seed(100 + collectives.rank())
    x = collectives.share(make_data().train.x[:11])
    svi = SVI(vae.model, vae.guide, JointOptim(partial(torch.optim.SGD, lr=1.0)), reported_loss(Trace_ELBO()))
    noise = torch.get_rng_state()
    svi.step(x, None, None, weight=len(x) / 11)
    pairs = zip(whole.parameters(), vae.parameters(), strict=True)
    return torch.cat([(before - after).detach().flatten() for before, after in pairs]), x, noise, whole.state_dict()


def test_with_noise_the_gradient_is_that_of_the_whole_batch_with_the_noise_of_both(tmp_path):
    results = in_two_processes(one_step, tmp_path)
    vae = VAE.build([6], 2, MLP([8]), StandardNormal, Bernoulli, Diagonal).double()
    vae.load_state_dict(results[0][3])
    loss = 0
    for _, x, noise, _ in results:
        torch.set_rng_state(noise)
        loss = loss + Trace_ELBO().differentiable_loss(vae.model, vae.guide, x, None)
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(loss / 11, list(vae.parameters()))])
    for gradient, _, _, _ in results:
        torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-12)
    assert not torch.equal(results[0][2], results[1][2])


def evidence():
    ppca = make_ppca()
    ppca.set_exact_guide(shift=1.0)
    x = ppca.evidence.sample((11,)) if collectives.rank() == 0 else torch.zeros(11, 5).double()
    x = collectives.from_rank_0(x)
    found, summary = estimate(ppca.vae, Dataset(Split(x), Split(x), Split(x)), Split(x), Refined(20), seed=0)
    return x, found.log_px, summary.num_data


def test_evaluation_is_shared_and_gathered_in_order(tmp_path):
    for x, log_px, num_data in in_two_processes(evidence, tmp_path):
        assert num_data == 11
        torch.testing.assert_close(log_px, make_ppca().evidence.log_prob(x), rtol=1e-6, atol=1e-6)


def too_few():
    data, vae = make_data(), VAE.build([6], 2, MLP([8]), StandardNormal, Bernoulli, Point).double()
    data.held_out["val"] = Split(data.val.x[:1])
    optim = JointOptim(partial(torch.optim.SGD, lr=0.1))
    with pytest.raises(BadInput, match="leaves some of 2 processes no datapoint"):
        Trainer().fit(vae, data, Trace_ELBO(), optim, State(), lambda row, best: None)


def test_too_few_datapoints_are_refused(tmp_path):
    in_two_processes(too_few, tmp_path)


def test_alone_nothing_is_sent():
    assert (collectives.rank(), collectives.world_size()) == (0, 1)
    x = torch.arange(5.0)
    assert torch.equal(collectives.share(x), x)
    assert collectives.gather(x) == [x]
    assert collectives.from_rank_0(x) is x
    with collectives.process_group():
        assert not torch.distributed.is_initialized()


def torchrun(*arguments, cwd, restarts=0):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HYDRA_")}
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--max-restarts={restarts}"]
    return subprocess.Popen(
        [*command, "--standalone", "-m", *arguments],
        cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def finish(process):
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err[-3000:]
    return out


@pytest.mark.slow
def test_torchrun_trains_into_one_run_directory(small_data, tmp_path):
    out = finish(torchrun("pyro_vae.train", *SMALL, small_data, "trainer.batch_size=53", cwd=tmp_path))
    (run_dir,) = (tmp_path / "outputs" / "default").iterdir()
    assert out.count(f"run directory: {run_dir}") == 2  # first and last, of one process
    assert out.count("leaves out its last batch of 1") == 1  # 160 = 3 * 53 + 1
    assert [row["epoch"] for row in metrics.read(run_dir)] == [1, 2]
    for name in ("results.json", "plots/samples.png", "checkpoints/best.pt", ".hydra/config.yaml", "train.log"):
        assert (run_dir / name).stat().st_size > 0
    assert len(list(run_dir.glob("events*"))) == 1


@pytest.mark.slow
def test_torchrun_evaluates(small_run, tmp_path):
    out = finish(torchrun("pyro_vae.evaluate", f"run={small_run}", cwd=tmp_path))
    assert out.count("written:") == 1
    arrays = np.load(small_run / "evaluations" / "auto-1000.npz")
    assert [len(arrays[name]) for name in ("log_px", "stage", "status", "seconds")] == 4 * [20]


def workers(parent):
    """Processes that a torchrun has started."""
    children = f"/proc/{parent}/task/{parent}/children"
    return [int(pid) for pid in open(children).read().split()] if os.path.exists(children) else []


@pytest.mark.slow
def test_killed_workers_are_restarted_10_times_out_of_10_and_end_in_the_same_bits(small_data, tmp_path):
    small = [s for s in SMALL if not s.startswith("trainer.max_epochs")]
    arguments = [*small, small_data, "trainer.max_epochs=200", "trainer.batch_size=20", "trainer.compile=false"]
    finish(torchrun("pyro_vae.train", *arguments, "hydra.run.dir=whole", cwd=tmp_path))
    expected, rng = outcome(tmp_path / "whole"), np.random.default_rng(0)
    for attempt in range(10):
        run_dir = tmp_path / f"killed-{attempt}"
        process = torchrun("pyro_vae.train", *arguments, f"hydra.run.dir={run_dir}", cwd=tmp_path, restarts=3)
        while not (run_dir / "checkpoints" / "best.pt").exists():
            assert process.poll() is None
            time.sleep(0.05)
        time.sleep(rng.random())
        os.kill(workers(process.pid)[attempt % 2], signal.SIGKILL)
        finish(process)
        assert [row["epoch"] for row in metrics.read(run_dir)] == list(range(1, 201))
        assert_same(outcome(run_dir), expected)
        shutil.rmtree(run_dir)

"""Encoder and decoder as plain modules: what torch.export, ONNX and TorchScript make of them."""

from __future__ import annotations

import io
import warnings
from functools import partial

import onnxruntime
import pytest
import torch
from conftest import every

from pyro_vae import guides, likelihoods
from pyro_vae.errors import BadInput
from pyro_vae.networks import MLP, Conv
from pyro_vae.priors import Categorical, StandardNormal
from pyro_vae.vae import VAE

ROWS = {0: torch.export.Dim("N")}


def make(guide=guides.Diagonal, likelihood=likelihoods.Bernoulli, prior=StandardNormal, **kwargs):
    torch.manual_seed(0)
    vae = VAE.build([6], 3, MLP([5]), prior, likelihood, guide, **kwargs).eval()
    for parameter in vae.parameters():  # some start at zero
        parameter.data += 0.1 * torch.randn_like(parameter)
    return vae


def exported(module, *inputs):
    return torch.export.export(module, inputs, dynamic_shapes=(ROWS,) * len(inputs)).module()


def scripted(module, *inputs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates TorchScript
        return torch.jit.trace(module, inputs)


def in_onnx(module, *inputs):
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, inputs, dynamo=True, dynamic_shapes=(ROWS,) * len(inputs), verbose=False).save(file)
    session = onnxruntime.InferenceSession(file.getvalue())

    def run(*inputs):
        feed = {argument.name: x.numpy() for argument, x in zip(session.get_inputs(), inputs, strict=True)}
        return [torch.from_numpy(value) for value in session.run(None, feed)]

    return run


def assert_same(found, expected):
    found, expected = (value if isinstance(value, (tuple, list)) else [value] for value in (found, expected))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("guide", ["Diagonal", "FullCovariance", "LowRank", "Mixture", "Point"])
def test_encoders_give_mean_and_scale_of_q(guide):
    vae, x = make(getattr(guides, guide)), torch.rand(4, 6).round()
    with torch.no_grad():
        mean, scale = vae.encoder_module()(x)
        assert_same([mean, scale], [vae.encode(x), vae.q_z(x).stddev])
        for convert in (exported, scripted):
            assert_same(convert(vae.encoder_module(), x)(x[:3]), [mean[:3], scale[:3]])


def test_a_discrete_guides_mean_is_its_probabilities():
    vae, x = make(guides.Categorical, prior=Categorical), torch.rand(4, 6).round()
    assert_same(vae.encoder_module()(x)[0], vae.q_z(x).probs)


@pytest.mark.parametrize(
    "likelihood",
    [
        likelihoods.Bernoulli,
        likelihoods.Beta,
        partial(likelihoods.Categorical, num_levels=4),
        likelihoods.ContinuousBernoulli,
        likelihoods.Gaussian,
        partial(likelihoods.Gaussian, scale="per_pixel"),
        likelihoods.NegativeBinomial,
        likelihoods.Poisson,
        likelihoods.StudentT,
    ],
)
def test_decoders_give_the_mean_of_x(likelihood):
    vae, z = make(likelihood=likelihood), torch.randn(4, 3)
    with torch.no_grad():
        expected = vae.decoder_module()(z)
        assert_same(expected, vae.decode(z))
        for convert in (exported, scripted):
            assert_same(convert(vae.decoder_module(), z)(z[:3]), expected[:3])


@pytest.mark.parametrize("guide", every(3, ["FullCovariance", "LowRank", "Mixture"]))
def test_onnx_encodes_as_torch_does(guide):
    vae, x = make(getattr(guides, guide), likelihoods.Gaussian), torch.rand(4, 6)
    vae.initialize(x)
    assert_same(in_onnx(vae.encoder_module(), x)(x[:3]), [vae.encode(x[:3]), vae.q_z(x[:3]).stddev.detach()])


def test_onnx_decodes_as_torch_does():
    vae, z = make(), torch.randn(4, 3)
    assert_same(in_onnx(vae.decoder_module(), z)(z[:3]), vae.decode(z[:3]))


@pytest.mark.slow
def test_onnx_takes_images_and_labels():
    network = Conv([4, 8], 8)
    settings = {"conditioning": "concat", "num_classes": 3}
    vae = VAE.build([1, 8, 8], 2, network, StandardNormal, likelihoods.Bernoulli, guides.Diagonal, **settings).eval()
    x, y = torch.rand(4, 1, 8, 8).round(), torch.tensor([0, 1, 2, 0])
    mean = vae.encode(x, y=y)
    assert_same(in_onnx(vae.encoder_module(), x, y)(x, y)[0], mean)
    assert_same(in_onnx(vae.decoder_module(), mean, y)(mean, y), vae.decode(mean, y=y))


def test_labels_enter_as_a_second_input():
    vae = make(conditioning="concat", num_classes=3)
    x, y = torch.rand(4, 6).round(), torch.tensor([0, 1, 2, 0])
    assert_same(exported(vae.encoder_module(), x, y)(x, y)[0], vae.encode(x, y=y))
    z = torch.zeros(4, 3)
    assert_same(scripted(vae.decoder_module(), z, y)(z, y), vae.decode(z, y=y))
    with pytest.raises(BadInput, match="conditional: give y, labels from 0 to 2"):
        vae.encoder_module()(x)


def test_labels_that_a_module_would_ignore_are_refused():
    y = torch.tensor([0, 1])
    for module, size in ((make().encoder_module(), 6), (make().decoder_module(), 3)):
        with pytest.raises(BadInput, match="no input y"):
            module(torch.zeros(2, size), y)


@pytest.mark.parametrize(
    ("guide", "message"),
    [
        ("InverseAutoregressive", "has no mean in closed form: use vae.encode"),
        ("SemiAmortized", "evaluates the decoder"),
    ],
)
def test_guides_without_a_mean_in_closed_form_are_refused(guide, message):
    with pytest.raises(BadInput, match=f"the guide {guide} {message}"):
        make(getattr(guides, guide)).encoder_module()


def test_forward_reconstructs_with_gradients_and_exports():
    vae, x = make(), torch.rand(4, 6).round()
    assert_same(vae(x).detach(), vae.reconstruct(x))
    vae(x).sum().backward()
    assert all(parameter.grad is not None for parameter in [*vae.encoder.parameters(), *vae.decoder.parameters()])
    assert_same(exported(vae, x)(x[:3]).detach(), vae.reconstruct(x[:3]))


def test_modules_share_weights_and_leave_the_mode_alone():
    vae = make().train()
    encoder = vae.encoder_module()
    assert vae.encoder.training
    assert {id(parameter) for parameter in encoder.parameters()} <= {id(parameter) for parameter in vae.parameters()}
    assert len(encoder.state_dict()) < len(vae.state_dict())

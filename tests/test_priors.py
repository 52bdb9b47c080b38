import torch
from scipy import stats

from pyro_vae.priors import StandardNormal


def test_standard_normal():
    prior, z = StandardNormal(3).double(), torch.randn(5, 3, dtype=torch.float64)
    assert prior(None).event_shape == (3,)
    assert prior(None).batch_shape == ()
    expected = torch.tensor(stats.norm.logpdf(z.numpy()).sum(1))
    torch.testing.assert_close(prior(None).log_prob(z), expected)
    assert not prior.state_dict()

from __future__ import annotations

import pytest
import torch
from torch.distributions import Independent, Normal

import zoo

SHAPE = (1, 4, 4)


def model(**prior: object) -> zoo.VAE:
    torch.manual_seed(0)
    changes = {"encoder": {"upper": 2, "width": 8, "encoder": {"hidden": [8]}}, "prior": {"width": 8, **prior}}
    vae = zoo.create_model("top-down-vae", data_shape=SHAPE, latent_dim=3, **changes)
    return vae.double()


def clipped(parameters: torch.Tensor) -> Independent:
    mean, log_variance = parameters.chunk(2, -1)
    return Independent(Normal(mean, (log_variance.clamp(-6, 2) / 2).exp()), 1)


def test_the_joint_density_written_out():
    """q(z_2 | x) q(z_1 | x, z_2) and p(z_2) p(z_1 | z_2), z_1 first in the event (arXiv 1705.07120, eq. 10 and 11)."""
    vae = model(top="standard-normal")
    x = torch.rand(4, *SHAPE, dtype=torch.float64)
    q, p = vae.encode(x), vae.prior(vae.encoder)
    z = torch.randn(6, 4, 5, dtype=torch.float64)
    lower, upper = z[..., :3], z[..., 3:]
    network = vae.encoder.lower
    joint = torch.cat([network["x"](x.flatten(1)).expand(6, 4, 8), network["z"](upper)], -1)
    of_lower = clipped(network["head"].linear(network["joint"](joint))).log_prob(lower)
    of_upper = vae.encoder.top(x).log_prob(upper)
    torch.testing.assert_close(q.log_prob_by_level(z), torch.stack([of_lower, of_upper]))
    of_lower = clipped(vae.prior.lower[2].linear(vae.prior.lower[:2](upper))).log_prob(lower)
    of_upper = Independent(Normal(torch.zeros(2).double(), 1.0), 1).log_prob(upper)
    torch.testing.assert_close(p.log_prob_by_level(z), torch.stack([of_lower, of_upper]))


def test_the_top_of_the_prior_is_the_mixture_of_top_posteriors():
    vae = model(top={"use": "vamp", "pseudo_inputs": 7})
    z = torch.randn(5, 5, dtype=torch.float64)
    components = vae.encoder.top(vae.prior.top.pseudo_inputs.clamp(0, 1))
    expected = torch.stack([components.log_prob(one) for one in z[:, 3:]]).logsumexp(1) - torch.tensor(7.0).log()
    torch.testing.assert_close(vae.prior(vae.encoder).log_prob_by_level(z)[1], expected)
    assert vae.sample(6).shape == (6, *SHAPE)


def test_the_decoder_sees_both_levels():
    vae = model()
    z = torch.randn(1, 5, dtype=torch.float64, requires_grad=True)
    vae.decode(z).base_dist.logits.sum().backward()
    assert bool((z.grad[0] != 0).all())


def test_draws_come_with_their_density():
    vae = model()
    q = vae.encode(torch.rand(4, *SHAPE).double())
    z, log_density = q.rsample_and_log_prob(torch.Size((2, 3)))
    assert z.shape == (2, 3, 4, 5)
    torch.testing.assert_close(log_density, q.log_prob(z))


def test_another_encoder_is_refused():
    with pytest.raises(zoo.ComponentError, match="needs the encoder 'top-down'"):
        zoo.create_model("hierarchical-vae", data_shape=(1, 4, 4), prior="top-down")

"""Both frameworks compute the same, so that their speeds can be compared."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmarks.models import MODELS
from fluxseg.config import ModelConfig
from fluxseg.model.losses import weighted_cross_entropy
from fluxseg.model.unet import create_unet

torch = pytest.importorskip("torch", reason="PyTorch is in the extra bench only")


def shrunk(config: ModelConfig) -> ModelConfig:
    features = tuple(max(width // 8, 2) for width in config.features)
    return dataclasses.replace(config, features=features, dtype="float32")


@pytest.mark.parametrize("name", ["reference", "fluxseg"])
def test_logits_and_gradients_are_those_of_pytorch(name):
    from experiments.benchmarks.torch_unet import TorchUNet, load_flax

    config = shrunk(MODELS[name])
    rng = np.random.default_rng(0)
    image = rng.normal(size=(2, 32, 64, 1)).astype(np.float32)
    label = (rng.random((2, 32, 64)) < 0.2).astype(np.int32)
    weights = np.array([1.0, 3.0], np.float32)
    unet = create_unet(config, formulation="fast")
    params = unet.init(jax.random.key(0), image)["params"]
    # Biases start at zero; as random values they cannot hide.
    params = jax.tree.map(
        lambda p: p if p.ndim > 1 else p + 0.1 * rng.normal(size=p.shape).astype(np.float32), params
    )

    def loss(params):
        logits = unet.apply({"params": params}, image)
        valid = jnp.ones(label.shape)
        total, weight = weighted_cross_entropy(logits, label, valid, jnp.asarray(weights))
        return total / weight, logits

    (expected, logits), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    model = TorchUNet(config).eval()
    load_flax(model, jax.device_get(params))
    found = model(torch.from_numpy(image.transpose(0, 3, 1, 2).copy()))
    np.testing.assert_allclose(
        found.detach().numpy().transpose(0, 2, 3, 1), logits, rtol=1e-4, atol=1e-4
    )
    total = torch.nn.functional.cross_entropy(
        found, torch.from_numpy(label).long(), torch.from_numpy(weights)
    )
    np.testing.assert_allclose(total.item(), expected, rtol=1e-5)
    total.backward()
    reference = TorchUNet(config)
    load_flax(reference, jax.device_get(grads))
    for (key, ours), theirs in zip(reference.state_dict().items(), model.parameters(), strict=True):
        scale = float(theirs.grad.abs().max())
        np.testing.assert_allclose(
            ours.numpy(), theirs.grad.numpy(), rtol=1e-4, atol=1e-4 * scale, err_msg=key
        )

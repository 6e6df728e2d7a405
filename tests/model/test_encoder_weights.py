"""Weights of PyTorch get the places and the layout that our encoders want, or an error."""

import numpy as np
import pytest
from safetensors.numpy import save

from fluxseg.errors import FluxsegError
from fluxseg.model.encoder_weights import encoder_weights, read_tensors

RNG = np.random.default_rng(0)
RESNET = {
    "conv1/kernel": ("conv1.weight", (7, 7, 1, 4)),
    "norm1/scale": ("bn1.weight", (4,)),
    "norm1/bias": ("bn1.bias", (4,)),
    "norm1/mean": ("bn1.running_mean", (4,)),
    "norm1/var": ("bn1.running_var", (4,)),
    "layer2_0/conv3/kernel": ("layer2.0.conv3.weight", (1, 1, 4, 6)),
    "layer2_0/norm3/var": ("layer2.0.bn3.running_var", (6,)),
    "layer2_0/downsample_conv/kernel": ("layer2.0.downsample.0.weight", (1, 1, 4, 6)),
    "layer2_0/downsample_norm/mean": ("layer2.0.downsample.1.running_mean", (6,)),
}
LITE = {
    "stem_conv/kernel": ("_conv_stem.weight", "conv_stem.weight", (3, 3, 1, 8)),
    "stem_norm/scale": ("_bn0.weight", "bn1.weight", (8,)),
    "block_0/depthwise_conv/kernel": (
        "_blocks.0._depthwise_conv.weight", "blocks.0.0.conv_dw.weight", (3, 3, 1, 8),
    ),
    "block_0/depthwise_norm/mean": (
        "_blocks.0._bn1.running_mean", "blocks.0.0.bn1.running_mean", (8,),
    ),
    "block_0/project_conv/kernel": (
        "_blocks.0._project_conv.weight", "blocks.0.0.conv_pw.weight", (1, 1, 8, 4),
    ),
    "block_0/project_norm/bias": ("_blocks.0._bn2.bias", "blocks.0.0.bn2.bias", (4,)),
    "block_2/expand_conv/kernel": (
        "_blocks.2._expand_conv.weight", "blocks.1.1.conv_pw.weight", (1, 1, 4, 24),
    ),
    "block_2/expand_norm/var": (
        "_blocks.2._bn0.running_var", "blocks.1.1.bn1.running_var", (24,),
    ),
    "block_15/depthwise_norm/scale": ("_blocks.15._bn1.weight", "blocks.6.0.bn2.weight", (24,)),
    "block_15/project_conv/kernel": (
        "_blocks.15._project_conv.weight", "blocks.6.0.conv_pwl.weight", (1, 1, 24, 5),
    ),
    "block_15/project_norm/scale": ("_blocks.15._bn2.weight", "blocks.6.0.bn3.weight", (5,)),
}  # fmt: skip


def create(names_and_shapes, first):
    """Tensors as PyTorch has them, the first kernel for three channels."""
    found = {}
    for name, shape in names_and_shapes:
        values = RNG.uniform(0.1, 1, (*shape[:2], 3, *shape[3:]) if name == first else shape)
        found[name] = values.astype(np.float32)
        if len(shape) == 4:
            found[name] = found[name].transpose(3, 2, 0, 1)
    return found


def resnet():
    return create(RESNET.values(), "conv1.weight")


EXPECTED = {path: shape for path, (_, shape) in RESNET.items()}


def test_every_weight_of_a_resnet_finds_its_place():
    tensors = resnet()
    found = encoder_weights("resnet50", tensors, EXPECTED)
    assert set(found) == set(EXPECTED)
    for path, (name, shape) in RESNET.items():
        assert found[path].shape == shape
        assert found[path].dtype == np.float32
        wanted = tensors[name]
        if path == "conv1/kernel":
            wanted = 3 * wanted.mean(1, keepdims=True)
        if len(shape) == 4:
            wanted = np.moveaxis(wanted, (2, 3, 1, 0), (0, 1, 2, 3))
        np.testing.assert_allclose(found[path], wanted, rtol=1e-6)


@pytest.mark.parametrize("style", [0, 1], ids=["package", "timm"])
def test_both_names_of_an_efficientnet_are_known(style):
    first = LITE["stem_conv/kernel"][style]
    tensors = create([(row[style], row[2]) for row in LITE.values()], first)
    found = encoder_weights(
        "efficientnet_lite0", tensors, {path: row[2] for path, row in LITE.items()}
    )
    for path, row in LITE.items():
        wanted = tensors[row[style]]
        if row[style] == first:
            wanted = wanted.sum(1, keepdims=True)
        wanted = wanted.transpose(2, 3, 1, 0) if wanted.ndim == 4 else wanted
        np.testing.assert_allclose(found[path], wanted, rtol=1e-6)


def test_a_first_kernel_for_one_channel_is_taken_as_it_is():
    tensors = resnet()
    tensors["conv1.weight"] = tensors["conv1.weight"][:, :1]
    found = encoder_weights("resnet18", tensors, EXPECTED)["conv1/kernel"]
    np.testing.assert_array_equal(found, tensors["conv1.weight"].transpose(2, 3, 1, 0))


def test_a_missing_weight_is_named():
    for name, _ in RESNET.values():
        tensors = {key: tensor for key, tensor in resnet().items() if key != name}
        with pytest.raises(FluxsegError, match=rf"weight {name} of resnet34 is missing"):
            encoder_weights("resnet34", tensors, EXPECTED)


@pytest.mark.parametrize(
    "name",
    ["layer5.0.conv1.weight", "fc.weights", "afc.weight", "se.weight", "num_batches_tracked"],
)
def test_a_surplus_weight_is_named(name):
    with pytest.raises(FluxsegError, match=rf"weight {name} has no place in resnet34"):
        encoder_weights("resnet34", {**resnet(), name: np.zeros(1, np.float32)}, EXPECTED)


@pytest.mark.parametrize("name", [name for name, _ in RESNET.values()])
def test_a_weight_of_another_shape_or_type_is_named(name):
    tensors = resnet()
    right = tensors[name]
    # A view of 2^80 bytes costs nothing as long as its shape is looked at first.
    huge = np.lib.stride_tricks.as_strided(right, (2**20,) * 2, (0, 0), writeable=False)
    for wrong in (right[:-1], right[..., None], right.astype(np.int64), huge, right[:0]):
        with pytest.raises(FluxsegError, match=f"weight {name} is "):
            encoder_weights("resnet34", {**tensors, name: wrong}, EXPECTED)


@pytest.mark.parametrize("value", [np.nan, np.inf, -0.5])
def test_values_that_no_training_gives_are_refused(value):
    tensors = resnet()
    tensors["bn1.running_var"][2] = value
    with pytest.raises(FluxsegError, match=r"weight bn1\.running_var holds"):
        encoder_weights("resnet34", tensors, EXPECTED)
    tensors = resnet()
    tensors["bn1.running_mean"][2] = -0.5
    encoder_weights("resnet34", tensors, EXPECTED)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"PK\x03\x04" + bytes(60), r"no safetensors file.*weights_only=True"),
        ((2**40).to_bytes(8, "little") + b"{}", "damaged"),
        (save({"a": np.zeros(3, np.float32)})[:-2], "damaged"),
        (save({"a": np.zeros(3, np.float32)}).replace(b"F32", b"X32"), "damaged"),
    ],
)
def test_another_file_is_refused_with_the_reason(content, message, tmp_path):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    with pytest.raises(FluxsegError, match=message):
        read_tensors(path)


def test_a_file_that_is_too_large_is_not_read(tmp_path, monkeypatch):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(save({"a": np.zeros(3, np.float32)}))
    np.testing.assert_array_equal(read_tensors(path)["a"], np.zeros(3))
    monkeypatch.setattr("fluxseg.model.encoder_weights.MAX_BYTES", 20)
    with pytest.raises(FluxsegError, match="the limit is 20"):
        read_tensors(path)
    with pytest.raises(FluxsegError, match="folder"):
        read_tensors(tmp_path)

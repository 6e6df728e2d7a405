"""The reference protocol: the classic U-Net and its recipe, without its defects.

What: one 3x3 convolution per level, no normalisation, 4x4 transposed convolutions, 12,443,458
    parameters; cross-entropy weighted 1 : (background/neuron)/3, Adam at 1e-4, batches of 16,
    18 epochs, no augmentation. Unlike the reference, images are scaled by percentiles instead of
    wrapped into 8 bits, masks are lossless, the split is by group, every crop is scored, and the
    best epoch is chosen on validation. Reported for the original on Allen data, with its leaking
    split: test macro IoU 0.6875 (mean of background and neuron IoU).
Hardware: a GPU, or hours on a CPU.
Command: python -m fluxseg.main --config experiments/configs/reference.py --workdir runs/reference
    --config.data.source FOLDER
"""

from fluxseg.config import AugmentConfig, Config, LossConfig, TrainConfig, reference_model


def get_config() -> Config:
    """Return the settings of the reference protocol."""
    return Config(
        augment=AugmentConfig(flips=False, gain=0, offset=0, gamma=0, noise=0, blur=0),
        model=reference_model(),
        loss=LossConfig(class_weights="reference", dice=0.0),
        train=TrainConfig(
            epochs=18,
            steps=0,
            start="random",
            batch_size=16,
            learning_rate=1e-4,
            schedule="constant",
            warmup_steps=0,
            weight_decay=0.0,
            clip_norm=0.0,
        ),
    )

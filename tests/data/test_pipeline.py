import numpy as np
import pytest

from fluxseg.config import AugmentConfig, DataConfig, SimulatorConfig
from fluxseg.data.cache import read_crops
from fluxseg.data.pipeline import CropSource, iterate_evaluation, make_batches, steps_per_epoch
from fluxseg.data.prepare import prepare_cache
from fluxseg.simulation.sessions import SimulatedSource


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    source = SimulatedSource(SimulatorConfig(containers=5, sessions=2, size=48))
    return prepare_cache(source, tmp_path_factory.mktemp("cache"), DataConfig(tile=32, workers=1))


@pytest.fixture(scope="module")
def crops(index):
    # Some of the recordings, not in the order of the shards.
    keys = [entry.key for entry in index.entries]
    return [(key, number) for key in keys[:0:-2] for number in range(4)]


@pytest.fixture(scope="module")
def source(index, crops):
    return CropSource(index, crops)


def collect(batches):
    return [{name: np.array(array) for name, array in batch.items()} for batch in batches]


def assert_equal(first, second):
    assert len(first) == len(second)
    for left, right in zip(first, second, strict=True):
        for name in left:
            np.testing.assert_array_equal(left[name], right[name])


def test_the_source_reads_what_was_prepared(index, crops, source):
    entries = {entry.key: entry for entry in index.entries}
    for position, (key, number) in enumerate(crops):
        image, label, valid = list(read_crops(index, entries[key]))[number]
        crop = source[position]
        np.testing.assert_array_equal(crop["image"], image)
        np.testing.assert_array_equal(crop["label"], label)
        np.testing.assert_array_equal(crop["valid"], valid)
        assert crop["crop"] == position


@pytest.mark.parametrize("batch_size", [1, 3, 8, 50])
def test_evaluation_sees_every_crop_exactly_once_and_masks_the_padding(source, batch_size):
    batches = collect(iterate_evaluation(source, batch_size))
    assert len(batches) == steps_per_epoch(len(source), batch_size)
    for batch in batches:
        assert batch["image"].shape == (batch_size, 32, 32, 1)
        assert batch["image"].dtype == np.float32
        assert batch["label"].shape == batch["valid"].shape == (batch_size, 32, 32)
        assert not batch["valid"][batch["crop"] < 0].any()
    numbers = np.concatenate([batch["crop"] for batch in batches])
    np.testing.assert_array_equal(numbers[numbers >= 0], np.arange(len(source)))


def test_each_epoch_sees_every_crop_once_in_another_order(source):
    steps = steps_per_epoch(len(source), 3)
    batches = collect(make_batches(source, 3, seed=0, epochs=2))
    epochs = [
        np.concatenate([batch["crop"] for batch in batches[e * steps : (e + 1) * steps]])
        for e in (0, 1)
    ]
    orders = [epoch[epoch >= 0] for epoch in epochs]
    for order in orders:
        np.testing.assert_array_equal(np.sort(order), np.arange(len(source)))
    assert not np.array_equal(*orders)
    assert not np.array_equal(orders[0], np.arange(len(source)))


def test_content_depends_on_the_seed_and_not_on_threads(source):
    def train(seed, threads):
        return collect(
            make_batches(source, 4, augment=AugmentConfig(), seed=seed, epochs=2, threads=threads)
        )

    reference = train(0, 0)
    assert_equal(reference, train(0, 1))
    assert_equal(reference, train(0, 5))
    assert_equal(reference, train(0, -1))
    assert any(
        not np.array_equal(a["image"], b["image"])
        for a, b in zip(reference, train(1, 1), strict=True)
    )


def test_augmentation_differs_between_epochs(source):
    steps = steps_per_epoch(len(source), 4)
    batches = collect(make_batches(source, 4, augment=AugmentConfig(), seed=0, epochs=2))
    images = [
        {
            int(number): image
            for batch in batches[e * steps : (e + 1) * steps]
            for number, image in zip(batch["crop"], batch["image"], strict=True)
        }
        for e in (0, 1)
    ]
    for number in range(len(source)):
        assert not np.array_equal(images[0][number], images[1][number])


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_the_very_same_global_batches(source, processes):
    def train(process):
        return collect(
            make_batches(source, 4, augment=AugmentConfig(), seed=0, epochs=2, process=process)
        )

    whole = train((0, 1))
    parts = [train((rank, processes)) for rank in range(processes)]
    joined = [
        {name: np.concatenate([part[name] for part in batch]) for name in batch[0]}
        for batch in zip(*parts, strict=True)
    ]
    assert_equal(whole, joined)


@pytest.mark.parametrize("stop", [0, 1, 4, 7])
def test_a_restored_iterator_goes_on_exactly(source, stop):
    def make():
        return make_batches(source, 3, augment=AugmentConfig(), seed=2, epochs=3, threads=2)

    reference = collect(make())
    iterator = make()
    for _ in range(stop):
        next(iterator)
    state = iterator.get_state()
    restored = make()
    restored.set_state(state)
    assert_equal(reference[stop:], collect(restored))


def test_wrong_requests_are_named(source):
    with pytest.raises(ValueError, match="no multiple"):
        make_batches(source, 3, process=(0, 2))
    with pytest.raises(ValueError, match="seed"):
        make_batches(source, 4, augment=AugmentConfig())


def test_an_empty_split_gives_no_batch(index):
    assert list(iterate_evaluation(CropSource(index, []), 4)) == []

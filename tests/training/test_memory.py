"""The memory of a step is that of the compiled programs, and too much of it is refused."""

import dataclasses
import logging
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fluxseg.config import Config, DataConfig, ModelConfig, TrainConfig
from fluxseg.errors import ConfigError
from fluxseg.training import memory
from fluxseg.training.memory import (
    MemoryUse,
    advice,
    bytes_per_device,
    check_memory,
    device_capacity,
    host_memory,
    program_bytes,
)
from fluxseg.training.programs import make_eval_step
from fluxseg.training.sharding import make_mesh, make_train_step, replicate
from fluxseg.training.state import create_train_state
from tests.training.test_sharding import create_batch, create_config

CONFIG = create_config()


def measure(parts=1, config=CONFIG):
    mesh = make_mesh()
    state = replicate(create_train_state(config, np.array([1.0, 3.0]), 10), mesh)
    seen = []
    step = make_train_step(mesh, parts, seen.append)
    for _ in range(2):
        state, _ = step(state, create_batch())
    (use,) = seen
    return use, state


def test_the_state_is_counted_to_the_byte():
    use, state = measure()
    count = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    assert use.parameters == 4 * count
    # Two moments of each parameter, and two counters.
    assert use.optimizer == 8 * count + 8
    assert use.state == use.parameters + use.optimizer
    # What the first layer leaves of the whole batch alone is that large.
    assert use.step > 6 * 32 * 32 * 4
    assert use.total == use.state + use.step


def test_smaller_parts_need_less():
    whole, parts = measure()[0], measure(6)[0]
    assert parts.state == whole.state
    assert parts.step < 0.6 * whole.step


@pytest.mark.parametrize("parts", [1, 3])
def test_evaluation_is_counted_too(parts):
    class Greedy:
        """An evaluation that needs a hundred million bytes more."""

        def lower(self, state, batch):
            assert set(batch) == {"image", "label", "valid"}
            assert batch["image"].shape[0] == 6 // parts

            def use_much(params):
                much = jnp.tanh(jax.tree.leaves(params)[0].sum() * jnp.arange(25_000_000.0))
                return jnp.sort(much)[:3]

            return jax.jit(use_much).lower(state.eval_params)

    plain = measure(parts)[0]
    seen = []
    state = replicate(create_train_state(CONFIG, np.array([1.0, 3.0]), 10), make_mesh())
    make_train_step(make_mesh(), parts, seen.append, Greedy())(state, create_batch())
    assert seen[0].state == plain.state
    assert seen[0].step > plain.step + 90_000_000


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_evaluation_of_a_part_needs_no_more_than_its_gradient(ema):
    config = dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, ema_decay=ema))
    mesh = make_mesh()
    seen = []
    for evaluate in (None, make_eval_step(mesh)):
        state = replicate(create_train_state(config, np.array([1.0, 3.0]), 10), mesh)
        make_train_step(mesh, 3, seen.append, evaluate)(state, create_batch())
    assert seen[0] == seen[1]


def test_an_average_is_counted():
    config = dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, ema_decay=0.9))
    use = measure(config=config)[0]
    assert use.optimizer == 3 * use.parameters + 8


def test_looking_compiles_nothing_twice():
    compiled = []

    def on_duration(event, seconds, **about):
        if event.endswith("/backend_compile_duration"):
            compiled.append(about["fun_name"])

    jax.clear_caches()
    jax.monitoring.register_event_duration_secs_listener(on_duration)
    try:
        measure()
        measure(3)
    finally:
        jax.monitoring.unregister_event_duration_listener(on_duration)
    for name in ("train_step", "zero_sums", "add_gradients", "finish_step"):
        assert compiled.count(f"jit({name})") == 1, compiled


def test_an_error_of_the_check_comes_before_the_step():
    def refuse(use):
        raise ConfigError("too much")

    for parts in (1, 3):
        state = create_train_state(CONFIG, np.array([1.0, 3.0]), 10)
        with pytest.raises(ConfigError, match="too much"):
            make_train_step(make_mesh(), parts, refuse)(state, create_batch())
        # The state has not been consumed.
        assert int(state.step) == 0
        assert np.isfinite(jax.tree.leaves(state.params)[0]).all()


def test_a_program_is_its_arguments_results_and_temporaries():
    size = 1000
    x = jnp.zeros((size, size))
    kept = jax.jit(lambda x: x + 1).lower(x).compile()
    consumed = jax.jit(lambda x: x + 1, donate_argnums=0).lower(x).compile()
    assert program_bytes(kept) == 2 * x.nbytes
    assert program_bytes(consumed) == x.nbytes
    product = jax.jit(lambda x: (jnp.sin(x) @ jnp.cos(x)).sum()).lower(x).compile()
    assert program_bytes(product) >= 2 * x.nbytes


def test_bytes_of_a_tree_with_a_key():
    key = jax.random.key(0)
    tree = {"a": jnp.zeros((3, 5), jnp.bfloat16), "key": key, "none": None}
    assert bytes_per_device(tree) == 30 + jax.random.key_data(key).nbytes


def test_a_step_that_fits_is_logged(caplog):
    with caplog.at_level(logging.INFO):
        check_memory(MemoryUse(4_000_000, 8_000_000, 400_000_000), Config(), make_mesh(), 1)
    expected = "Memory per device: 412 MB (parameters 4, optimiser 8, step 400)"
    assert caplog.messages == [expected]


def test_a_step_that_does_not_fit_is_refused_with_advice(monkeypatch):
    monkeypatch.setattr(memory, "host_memory", lambda: 100_000_000)
    config = Config(data=DataConfig(tile=512), train=TrainConfig(batch_size=8, micro_batch=4))
    mesh = make_mesh(jax.devices()[:1])
    check_memory(MemoryUse(4_000_000, 8_000_000, 90_000_000), config, mesh, 2)
    with pytest.raises(ConfigError) as caught:
        check_memory(MemoryUse(4_000_000, 8_000_000, 110_000_000), config, mesh, 2)
    text = str(caught.value)
    # What the state takes is taken already.
    for part in ("122 MB", "which has 112 MB", "train.micro_batch 2", "model.remat", "data.tile"):
        assert part in text
    assert "shard_optimizer" not in text


def fake_mesh(platform, devices=4, limit=None):
    stats = None if limit is None else {"bytes_limit": limit}
    device = types.SimpleNamespace(platform=platform, memory_stats=lambda: stats)
    row = np.array([device] * devices)
    return types.SimpleNamespace(devices=row, local_devices=list(row), size=devices)


def test_advice_names_only_what_is_left_to_do():
    model = ModelConfig(dtype="float32")
    config = Config(model=model, train=TrainConfig(batch_size=16))
    several = advice(config, fake_mesh("gpu"), 1)
    names = [text.split()[0] for text in several]
    assert names[:4] == [
        "train.micro_batch", "model.remat", "train.shard_optimizer", "model.dtype"
    ]  # fmt: skip
    done = dataclasses.replace(
        config,
        model=ModelConfig(remat=True),
        train=TrainConfig(batch_size=16, micro_batch=1, shard_optimizer=True),
    )
    assert len(advice(done, fake_mesh("gpu"), 4)) == 2


def test_the_capacity_is_what_the_device_says():
    assert device_capacity(fake_mesh("gpu", limit=16_000_000_000)) == 16_000_000_000
    assert device_capacity(fake_mesh("gpu")) is None


def test_cpu_devices_share_the_memory_of_the_machine(monkeypatch):
    monkeypatch.setattr(memory, "host_memory", lambda: 1000)
    assert device_capacity(fake_mesh("cpu"), state=7) == 257
    monkeypatch.setattr(memory, "host_memory", lambda: None)
    assert device_capacity(fake_mesh("cpu")) is None


def test_the_memory_of_the_machine_and_of_the_control_group(tmp_path):
    assert host_memory(tmp_path) is None
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 9 kB\nMemAvailable:    8000 kB\n")
    assert host_memory(tmp_path) == 8_192_000
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (group / "memory.max").write_text("max\n")
    assert host_memory(tmp_path) == 8_192_000
    (group / "memory.max").write_text("5000000\n")
    (group / "memory.current").write_text("3000000\n")
    (group / "memory.stat").write_text("anon 7\ninactive_file 500000\n")
    assert host_memory(tmp_path) == 2_500_000
    (group / "memory.current").write_text("7000000\n")
    assert host_memory(tmp_path) == 0

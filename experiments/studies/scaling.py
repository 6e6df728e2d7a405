"""What devices tell each other in a training step, and an ESTIMATE of how far it scales.

What: (1) the gradients of one batch on 1 to 8 virtual devices through `jax.jit`, `jax.pmap` and
    `jax.shard_map` against those of one device; (2) the collectives in the step compiled for 8, 64
    and 512 virtual devices, their bytes, and the memory of a device by the compiled program's own
    analysis; (3) from those bytes and published bandwidths an estimate of the time and efficiency
    of a step where each device has 8 crops. (1) and (2) are measured. (3) is an ESTIMATE: no
    machine with these interconnects was used.
Assumed for (3): nothing is computed while devices talk; the all-reduce takes the better of a ring,
    2 (n - 1) (latency + bytes / n / bandwidth), and a tree, 2 log2(n) latency + 2 bytes /
    bandwidth; a chip computes at 40 % of its published peak and moves the compiled program's bytes,
    halved for bfloat16, at its published memory bandwidth, whichever takes longer, which is less
    time than a real step takes, so that the efficiency is low rather than high; latencies are
    guesses of the usual size; reading data and waiting for slower devices are left out.
Result: gradients deviate by 5e-7 at most, counts not at all. A step has one all-reduce for all
    floating sums, 3,797,544 bytes (classic network 49,773,840), and one of 16 bytes for the counts,
    on 8, 64 and 512 devices alike, also in parts. ESTIMATE of the throughput per device on 64
    devices, as a share of one alone: default network 0.97 (TPU v5e), 0.88 (NVLink), 0.71
    (InfiniBand), 0.50 and 0.13 (100 and 10 Gbit Ethernet); classic 0.99, 0.97, 0.83, 0.66, 0.17.
Hardware: 2 CPU cores, about 8 minutes.
Command: python experiments/studies/scaling.py
    It prints the tables and draws docs/figures/scaling.png.
"""

import argparse
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fluxseg.config import Config, DataConfig, ModelConfig, TrainConfig, reference_model

ROOT = Path(__file__).parents[2]
FIGURE = ROOT / "docs" / "figures" / "scaling.png"
DEVICES = (8, 64, 512)
CROPS = 8
"""Crops of each device in a step."""
UTILISATION = 0.4
"""Assumed share of a chip's published peak."""
MODELS = {
    "tiny": ModelConfig(features=(4, 8), convs=1),
    "default": ModelConfig(),
    "classic": reference_model(),
}
KINDS = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute|collective-broadcast"
BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4, "f64": 8}


class Collective(NamedTuple):
    """A message between devices in a compiled program.

    Attributes:
        kind: such as "all-reduce".
        dtype: of its values.
        values: how many values its results have on each device.
    """

    kind: str
    dtype: str
    values: int

    @property
    def bytes(self) -> int:
        """Bytes of its results on each device."""
        return self.values * BYTES[self.dtype]


class Network(NamedTuple):
    """A chip with the interconnect of its kind.

    Attributes:
        chip: name of the chip.
        peak: published peak, FLOP/s.
        memory: published memory bandwidth, bytes/s.
        link: name of the interconnect.
        bandwidth: published, bytes/s of a device in one direction.
        latency: assumed, s for each message.
    """

    chip: str
    peak: float
    memory: float
    link: str
    bandwidth: float
    latency: float


NETWORKS = (
    # NVIDIA H100 SXM data sheet: 989 TFLOP/s dense bfloat16, 3.35 TB/s, NVLink 900 GB/s both ways
    # together.
    Network("H100", 989e12, 3.35e12, "NVLink 4", 450e9, 3e-6),
    # InfiniBand NDR: 400 Gbit/s per port, one port for each GPU.
    Network("H100", 989e12, 3.35e12, "InfiniBand NDR", 50e9, 5e-6),
    # NVIDIA A100 80 GB SXM data sheet: 312 TFLOP/s bfloat16, 2.04 TB/s; PCIe 4.0 x16: 31.5 GB/s
    # each way.
    Network("A100", 312e12, 2.04e12, "PCIe 4.0 x16", 31.5e9, 10e-6),
    Network("A100", 312e12, 2.04e12, "100 Gbit Ethernet", 12.5e9, 20e-6),
    Network("A100", 312e12, 2.04e12, "10 Gbit Ethernet", 1.25e9, 50e-6),
    # Google's documentation of TPU v5e: 197 TFLOP/s, 819 GB/s, ICI 400 GB/s both ways together.
    Network("TPU v5e", 197e12, 0.82e12, "ICI", 200e9, 2e-6),
)


def list_collectives(program: str) -> list[Collective]:
    """List the messages between devices in the text of a compiled program.

    Args:
        program: HLO, from `compiled.as_text()`.

    Returns:
        One for each instruction and dtype, in their order.
    """
    found = []
    for line in program.splitlines():
        match = re.match(rf"\s*(?:ROOT )?\S+ = (.*?) ({KINDS})(?:-start)?\(", line)
        if match:
            values: dict[str, int] = {}
            for dtype, shape in re.findall(r"\b([a-z]+\d*)\[([\d,]*)\]", match[1]):
                size = math.prod(int(side) for side in shape.split(",") if side)
                values[dtype] = values.get(dtype, 0) + size
            found += [Collective(match[2], dtype, size) for dtype, size in values.items()]
    return found


def compile_step(
    model: str, devices: int, parts: int = 1, shard_optimizer: bool = False, tile: int = 256
) -> dict[str, Any]:
    """Compile a training step for virtual devices, and read what it does.

    Args:
        model: name in `MODELS`.
        devices: how many; the process must have them.
        parts: parts of a step; each device has one crop in each.
        shard_optimizer: as the setting.
        tile: side of the crops, px.

    Returns:
        For each program of the step (and for the evaluation's) its collectives, and the bytes and
        FLOPs of one device.
    """
    import jax
    from jax.sharding import NamedSharding

    from fluxseg.training.memory import measure_memory
    from fluxseg.training.programs import (
        DIVIDED,
        make_eval_step,
        part_programs,
        whole_program,
        without_optimizer,
    )
    from fluxseg.training.sharding import make_mesh, state_shardings
    from fluxseg.training.state import create_train_state

    mesh = make_mesh(jax.devices()[:devices])
    config = Config(
        data=DataConfig(tile=tile), model=MODELS[model], train=TrainConfig(ema_decay=0.99)
    )
    state = create_train_state(config, np.array([1.0, 3.0]), 100)
    placed = state_shardings(state, mesh, shard_optimizer)

    def shaped(tree: Any, shardings: Any) -> Any:
        def shape(leaf: Any, sharding: Any) -> Any:
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

        return jax.tree.map(shape, tree, shardings)

    divided = NamedSharding(mesh, DIVIDED)
    rows = {
        "image": np.zeros((devices, tile, tile, 1), np.float32),
        "label": np.zeros((devices, tile, tile), np.uint8),
        "valid": np.zeros((devices, tile, tile), np.uint8),
        "row": np.zeros(devices, np.int32),
    }
    batch = shaped(rows, dict.fromkeys(rows, divided))
    shapes = shaped(state, placed)
    programs: dict[str, Any] = {}
    if parts == 1:
        del batch["row"]
        programs["step"] = whole_program(mesh, placed).lower(shapes, batch).compile()
        kept: list[tuple[Any, Any]] = [(programs["step"], None)]
    else:
        zeros, add, finish = part_programs(mesh, placed, parts)
        network = without_optimizer(shapes)
        sums = jax.eval_shape(zeros, shapes.params)
        sums = shaped(sums, jax.tree.map(lambda _: divided, sums))
        programs["add"] = add.lower(network, sums, batch).compile()
        programs["finish"] = finish.lower(shapes, sums).compile()
        kept = [(programs["add"], (shapes.opt_state, shapes.ema_params)),
                (programs["finish"], None)]  # fmt: skip
    batch.pop("row", None)
    programs["evaluation"] = make_eval_step(mesh).lower(shapes, batch).compile()
    use = measure_memory(shapes, kept)
    costs = next(iter(programs.values())).cost_analysis()
    return {
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        "collectives": {
            name: [tuple(c) for c in list_collectives(program.as_text())]
            for name, program in programs.items()
        },
        "memory": {**use._asdict(), "total": use.total},
        "flops_per_crop": costs["flops"],
        "bytes_per_crop": costs["bytes accessed"],
    }


def run_with_devices(count: int, arguments: Sequence[str]) -> Any:
    """Run a Python module in a process with virtual devices; return the JSON that it prints."""
    environment = {
        **os.environ,
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={count}",
        "JAX_PLATFORMS": "cpu",
    }
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=ROOT,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def inspect_step(count: int, *arguments: str) -> dict[str, Any]:
    """Do `compile_step` in a process with so many devices; arguments as on the command line."""
    found = run_with_devices(
        count, ["experiments.studies.scaling", "--devices", str(count), *arguments]
    )
    found["collectives"] = {
        name: [Collective(*values) for values in listed]
        for name, listed in found["collectives"].items()
    }
    return dict(found)


def all_reduce_seconds(size: int, count: int, bandwidth: float, latency: float) -> float:
    """Estimate the time in which devices add up a vector that each of them holds.

    The better of a ring (Patarasuk and Yuan, J. Parallel Distrib. Comput. 2009) and a tree.

    Args:
        size: bytes of the vector.
        count: devices.
        bandwidth: bytes/s of a device in one direction.
        latency: s for each message.
    """
    if count == 1:
        return 0.0
    ring = 2 * (count - 1) * (latency + size / count / bandwidth)
    tree = 2 * math.ceil(math.log2(count)) * latency + 2 * size / bandwidth
    return min(ring, tree)


def compute_seconds(flops: float, moved: float, network: Network) -> float:
    """Estimate the time that a chip computes: the longer of arithmetic and memory traffic.

    Williams, Waterman and Patterson, "Roofline", Commun. ACM 2009.

    Args:
        flops: of a step.
        moved: bytes that it reads and writes.
        network: the chip.
    """
    return max(flops / network.peak / UTILISATION, moved / network.memory)


def efficiency(step_seconds: float, sizes: Sequence[int], count: int, network: Network) -> float:
    """Estimate the throughput of each device as a share of that of one alone.

    Args:
        step_seconds: time of a step on one device.
        sizes: bytes of each all-reduce of a step.
        count: devices.
        network: what connects them.
    """
    talk = sum(all_reduce_seconds(s, count, network.bandwidth, network.latency) for s in sizes)
    return step_seconds / (step_seconds + talk)


def print_gradients() -> None:
    """Print how far gradients on several devices are from those of one."""
    found = run_with_devices(8, ["tests.training.device_check", "gradients"])["gradients"]
    print("Largest deviation of a gradient from one device's, relative to the largest gradient")
    print("(16 crops, 3 of them padding, 5 without a neuron, dropout 0.3; confusion exact)")
    print(f"{'devices':>9}" + "".join(f"{way:>12}" for way in ("jit", "pmap", "shard_map")))
    for count in (1, 2, 4, 8):
        rows = [found[f"{way}-{count}-channel"] for way in ("jit", "pmap", "shard_map")]
        assert all(row["confusion"] == 0 and row["weight"] == 0 for row in rows)
        print(f"{count:>9}" + "".join(f"{row['gradient']:>12.1e}" for row in rows))


def describe(listed: Sequence[Collective]) -> str:
    """Say in words which collectives a program has."""
    counts: dict[str, list[int]] = {}
    for collective in listed:
        counts.setdefault(f"{collective.kind} {collective.dtype}", []).append(collective.bytes)
    return ", ".join(f"{len(sizes)} {kind} ({sum(sizes):,} B)" for kind, sizes in counts.items())


def draw(path: Path, curves: dict[str, dict[str, list[float]]], counts: Sequence[int]) -> None:
    """Draw the estimated efficiency against the number of devices, one panel for each model."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        1, len(curves), figsize=(9, 4.6), dpi=100, layout="constrained", sharey=True
    )
    for axis, (title, lines) in zip(axes, curves.items(), strict=True):
        for name, values in lines.items():
            axis.plot(counts, values, marker="o", markersize=3, label=name)
        axis.set_xscale("log", base=2)
        axis.set_xlabel("devices")
        axis.set_title(title)
        axis.set_ylim(0, 1.02)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("throughput per device, share of one alone")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    figure.suptitle("ESTIMATE, not measured: efficiency of a training step by interconnect")
    figure.savefig(path)


def main() -> None:
    """Print the tables and draw the figure; or, with `--devices`, compile one step."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--devices", type=int, default=0, help="compile for so many, print JSON")
    parser.add_argument("--model", choices=list(MODELS), default="default")
    parser.add_argument("--parts", type=int, default=1)
    parser.add_argument("--tile", type=int, default=256)
    parser.add_argument("--shard-optimizer", action="store_true")
    options = parser.parse_args()
    if options.devices:
        chosen = (options.model, options.devices, options.parts, options.shard_optimizer)
        print(json.dumps(compile_step(*chosen, tile=options.tile)))
        return
    print_gradients()
    print("\nCollectives of a step compiled for virtual devices, one crop of 256 px on each")
    ways: dict[str, tuple[str, ...]] = {
        "default": (),
        "in 2 parts": ("--parts", "2"),
        "shard_optimizer": ("--shard-optimizer",),
        "classic": ("--model", "classic"),
    }
    found: dict[str, dict[str, Any]] = {}
    for name, arguments in ways.items():
        for count in DEVICES:
            step = inspect_step(count, *arguments)
            found.setdefault(name, step)
            for program, listed in step["collectives"].items():
                print(f"{name:>16} {count:>4} {program:>11}: {describe(listed) or 'none'}")
            memory = ", ".join(f"{k} {v / 1e6:.1f} MB" for k, v in step["memory"].items())
            print(f"{'':>16} {count:>4} {'memory':>11}: {memory}")
    print("\nESTIMATE of the throughput per device, as a share of one alone; 8 crops on each")
    counts = [2**power for power in range(10)]
    curves: dict[str, dict[str, list[float]]] = {}
    for model in ("default", "classic"):
        step = found[model]
        sizes = [c.bytes for c in step["collectives"]["step"]]
        flops = CROPS * step["flops_per_crop"]
        # Compiled in float32; these chips compute in bfloat16.
        moved = CROPS * step["bytes_per_crop"] / 2
        title = f"{model}: {step['parameters']:,} parameters"
        print(
            f"{title}; {sum(sizes):,} bytes to other devices, "
            f"{flops / 1e9:.0f} GFLOP and {moved / 1e9:.1f} GB of memory traffic a step"
        )
        curves[title] = {}
        for network in NETWORKS:
            seconds = compute_seconds(flops, moved, network)
            name = f"{network.chip}, {network.link}"
            line = [efficiency(seconds, sizes, count, network) for count in counts]
            curves[title][name] = line
            shown = "  ".join(f"{n}: {line[counts.index(n)]:.2f}" for n in (2, *DEVICES))
            print(f"{name:>28}, {1000 * seconds:6.2f} ms a step   {shown}")
    draw(FIGURE, curves, counts)
    print(f"\n{FIGURE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()

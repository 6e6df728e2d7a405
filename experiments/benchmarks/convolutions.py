"""What the fast forms of a 3x3 convolution are worth, shape by shape.

What: duration of the convolution and of the gradient of its kernel in XLA's own form and in those
    of `fluxseg.model.convolutions`, in one process, in turn; best of several.
Command: python -m experiments.benchmarks.convolutions
"""

import json
import time
from collections.abc import Callable
from typing import Any

from experiments.benchmarks import measure

SHAPES = (
    "2,256,256,1,16", "2,256,256,16,16", "2,256,256,32,16", "4,128,128,16,16", "4,128,128,48,48",
    "4,64,64,32,32", "4,64,64,64,64", "4,32,32,64,64", "4,32,32,128,128",
)  # fmt: skip
"""Batch, height, width, channels and features."""


def measure_shape(shape: tuple[int, ...], seconds: float) -> dict[str, float]:
    """Return the duration of both forms of the convolution and of the gradient of its kernel, s."""
    import jax

    from fluxseg.model.convolutions import convolve_fast, convolve_plain, kernel_gradient

    *size, channels, features = shape
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (*size, channels))
    kernel = jax.random.normal(keys[1], (3, 3, channels, features))
    cotangent = jax.random.normal(keys[2], (*size, features))

    def plain_gradient(x: Any, cotangent: Any) -> Any:
        return jax.vjp(lambda k: convolve_plain(x, k), kernel)[1](cotangent)[0]

    functions: dict[str, tuple[Callable[..., Any], Any]] = {
        "plain": (convolve_plain, kernel),
        "fast": (lambda x, k: convolve_fast((x,), k), kernel),
        "plain_gradient": (plain_gradient, cotangent),
        "fast_gradient": (lambda x, c: kernel_gradient((x,), c), cotangent),
    }
    compiled = {name: (jax.jit(function), other) for name, (function, other) in functions.items()}
    best = dict.fromkeys(functions, float("inf"))
    for function, other in compiled.values():
        jax.block_until_ready(function(x, other))
    end = time.perf_counter() + len(functions) * seconds
    while time.perf_counter() < end or float("inf") in best.values():
        for name, (function, other) in compiled.items():
            began = time.perf_counter()
            jax.block_until_ready(function(x, other))
            best[name] = min(best[name], time.perf_counter() - began)
    return best


def main() -> None:
    """Run the benchmark, or one worker of it."""
    parser = measure.create_parser(__doc__, "convolutions", 3, seconds=0.3)
    parser.add_argument("--shapes", nargs="+", default=SHAPES)
    arguments = parser.parse_args()
    if arguments.worker:
        shape = tuple(int(size) for size in arguments.worker.split(","))
        print(json.dumps(measure_shape(shape, arguments.seconds)))
        return
    settings, seconds = measure.MALLOC_SETTINGS, arguments.seconds
    variants = [
        measure.make_worker(shape, "convolutions", shape, settings, seconds=seconds)
        for shape in arguments.shapes
    ]
    results = measure.run_interleaved(variants, arguments.rounds)
    summary: dict[str, list[measure.Row]] = {}
    for title, end in (("convolution", ""), ("gradient", "_gradient")):
        summary[title] = []
        for name, rounds in results.items():
            both = {
                form: [{"seconds": figures[kind + end]} for figures in rounds]
                for form, kind in (("plain", "plain"), (name, "fast"))
            }
            summary[title] += measure.summarise(both, "seconds", "plain", larger_is_better=False)[
                1:
            ]
        measure.print_table(f"{title}: fast form against plain", summary[title], "s")
    measure.write_results(arguments.output, results, summary)


if __name__ == "__main__":
    main()

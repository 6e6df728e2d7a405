"""What a run was computed with."""

import contextlib
import importlib.metadata
import platform

PACKAGES = ("fluxseg", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def collect_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that matter, the system, the devices."""
    import jax

    versions = {"Python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    devices = jax.devices()
    kinds = ", ".join(sorted({device.device_kind for device in devices}))
    versions["System"] = platform.platform()
    versions["Devices"] = f"{len(devices)} × {kinds} ({devices[0].platform})"
    return versions

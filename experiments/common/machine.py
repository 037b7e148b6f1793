"""What a run computes on: devices, processes, memory."""

import collections
import os
from pathlib import Path

import jax

MEMORY = Path("/proc/meminfo")  # of Linux


def report() -> str:
    """One line: how many devices of which kind, processes if several, memory where it is known."""
    kinds = collections.Counter((d.platform, d.device_kind) for d in jax.devices())
    parts = [f"{count} x {' '.join(dict.fromkeys(kind))}" for kind, count in kinds.items()]
    if jax.process_count() > 1:
        parts.append(f"{jax.process_count()} processes")
    on_cpu = jax.local_devices()[0].platform == "cpu"
    if on_cpu:
        parts.append(f"{os.cpu_count()} cores")
    free = free_memory()
    if free is not None:
        whose = " a device" if jax.device_count() > 1 and not on_cpu else ""
        parts.append(f"{in_bytes(free)} of memory free{whose}")
    return ", ".join(parts)


def free_memory() -> int | None:
    """Bytes free on the first device of this process, or on CPUs in the machine; None if untold."""
    device = jax.local_devices()[0]
    stats = device.memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    if device.platform != "cpu" or not MEMORY.exists():
        return None
    said = dict(line.split(":", 1) for line in MEMORY.read_text().splitlines())
    return int(said["MemAvailable"].split()[0]) * 1024


def in_bytes(size: float) -> str:
    """A size in its largest unit, three digits."""
    for unit, power in (("GiB", 30), ("MiB", 20)):
        if size >= 2**power:
            return f"{size / 2**power:.3g} {unit}"
    return f"{size / 2**10:.3g} KiB"

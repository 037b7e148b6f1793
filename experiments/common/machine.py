"""What the run computes on: devices, processes, memory."""

import collections
import os

import jax


def report() -> str:
    """One line: how many devices of which kind, processes if several, memory where it is known."""
    devices = jax.devices()
    kinds = collections.Counter(f"{d.platform} {d.device_kind}" for d in devices)
    parts = [f"{count} device{'s' if count > 1 else ''} ({kind})" for kind, count in kinds.items()]
    if jax.process_count() > 1:
        parts.append(f"{jax.process_count()} processes")
    if devices[0].platform == "cpu":
        parts.append(f"{os.cpu_count()} cores")
    memory = free_memory()
    if memory is not None:
        each = " each" if jax.local_device_count() > 1 and devices[0].platform != "cpu" else ""
        parts.append(f"{memory / 2**30:.1f} GiB free{each}")
    return ", ".join(parts)


def free_memory() -> int | None:
    """Bytes that a device of this process has left, or on CPUs the machine; None if none says."""
    device = jax.local_devices()[0]
    stats = device.memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    if device.platform != "cpu":
        return None
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):  # macOS does not count them
        return None

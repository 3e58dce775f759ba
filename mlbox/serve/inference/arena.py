"""The memory that runs take, held to a size: what a model computes may be as large as the values that it is given say.

onnxruntime has an arena for each session, which grows as long as the machine has memory, and then the kernel ends a process. One
arena of the process instead has a limit, and a run past it fails by itself. Weights are not in it.
"""

from __future__ import annotations

import threading
from typing import Any

AS_REQUESTED = 1
"""The arena grows by what is wanted, and not by twice as much each time, which a limit would cut off."""
_lock = threading.Lock()
_shared = False


def share(options: Any, most: int) -> None:
    """Have a session with these options take from the arena of this process; the first one says how many bytes that has."""
    import onnxruntime as ort

    global _shared
    with _lock:
        if not _shared:
            place = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
            arena = ort.OrtArenaCfg({"max_mem": most, "arena_extend_strategy": AS_REQUESTED})
            ort.create_and_register_allocator(place, arena)
            _shared = True
    options.add_session_config_entry("session.use_env_allocators", "1")
    options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")


def is_full(err: Exception) -> bool:
    """Whether a run failed because the arena has no room for it."""
    return "BFCArena" in str(err)


def shrinking(options: Any = None) -> Any:
    """Options of a run at whose end, also where it fails, the arena gives back what nobody uses."""
    import onnxruntime as ort

    found = options or ort.RunOptions()
    found.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    return found

"""compile: a cluster file, what is known of the hosts and what runs already -> each host's desired state."""

from coordinator.compiling.compile import NO_FACTS, Compiled, compile_cluster, image_of
from coordinator.compiling.document import describe_publishing, to_document
from coordinator.compiling.facts import (
    MTU_ASSUMED,
    Facts,
    HostFacts,
    Pair,
    Placed,
    Remembered,
    Way,
    pair_of,
)

__all__ = [
    "MTU_ASSUMED",
    "NO_FACTS",
    "Compiled",
    "Facts",
    "HostFacts",
    "Pair",
    "Placed",
    "Remembered",
    "Way",
    "compile_cluster",
    "describe_publishing",
    "image_of",
    "pair_of",
    "to_document",
]

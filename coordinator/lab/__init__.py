"""Physical hosts simulated by network namespaces on one machine: `caas lab up|down|status`."""

"""The agent of one physical host: it owns that host's links, routes, NAT rules and containers."""

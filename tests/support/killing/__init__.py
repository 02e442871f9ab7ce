"""kill -9 on a real lab: at every write of every daemon, with real netlink and real LXC (docs/reliability.md)."""

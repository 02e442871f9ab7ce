"""Desired, observed, plan, apply, verify, undo, ownership. Pure: no grpc, pyroute2 or lxc below here."""

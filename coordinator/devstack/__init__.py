"""Containers that DevStack's own stack.sh sets up, where a deployment file of Rally's names its repository."""

from coordinator.devstack.steps import make_devstack_steps

__all__ = ["make_devstack_steps"]

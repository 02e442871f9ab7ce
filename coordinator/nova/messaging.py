"""RabbitMQ: one node, one user, made at the first start from the configuration (rabbitmqctl takes seconds)."""

from __future__ import annotations

from coordinator.nova.goals import File, Goal, Unit
from coordinator.nova.render import render
from coordinator.nova.roles import Role
from coordinator.nova.step import ServiceStep, World
from coordinator.nova.urls import place


def step_id(world: World) -> str:
    return f"messaging/server:{world.site.holder(Role.MESSAGING).hostname}"


def make_messaging_steps(world: World) -> tuple[ServiceStep, ...]:
    """One step: cookie, configuration, server."""
    hostname = world.site.holder(Role.MESSAGING).hostname
    files = (
        File(
            path="/var/lib/rabbitmq/.erlang.cookie",
            content=world.secrets.erlang_cookie,
            owner="rabbitmq",
            group="rabbitmq",
            mode="0400",
        ),
        File(
            path="/etc/rabbitmq/advanced.config",
            content=render("rabbitmq.config.j2", address="0.0.0.0", password=world.secrets.rabbit_password),
            group="rabbitmq",
        ),
    )
    goal = Goal(
        look=world.look(Role.MESSAGING),
        units=(Unit(name="rabbitmq-server", files=files),),
        ports=(place(world.site, Role.MESSAGING),),
    )
    return (
        ServiceStep(
            id=step_id(world),
            title=f"messaging: RabbitMQ on {hostname}",
            needs=frozenset(),
            goal=goal,
            secrets=world.secrets,
        ),
    )

"""Templates of configuration files. An undefined name is an error, not an empty line."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined

_ENVIRONMENT = Environment(
    loader=PackageLoader("coordinator.nova"),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
    auto_reload=False,
)


def render(template: str, **values: object) -> str:
    """The text of `templates/TEMPLATE` with *values*."""
    return _ENVIRONMENT.get_template(template).render(**values)

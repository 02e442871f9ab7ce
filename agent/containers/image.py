"""The store of built images: IMAGES/NAME/DIGEST/{rootfs/,manifest.json}. Reads only; image_build writes.

A build appears by one rename, so what is found here is whole.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from agent.containers.image_declaration import DECLARATIONS, DIGEST_LENGTH, load_declaration, make_digest
from agent.containers.rootfs import ROOTFS, check_rootfs
from proto.errors import CaasError, Code

IMAGES = Path("/var/lib/caas/images")
MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageBuild:
    """A finished build. `created` is seconds since 1970, `packages` are (name, version) pairs."""

    name: str
    digest: str
    path: Path
    builder: str
    halt_signal: str
    systemd: bool
    created: float
    seconds: float
    size_bytes: int
    packages: tuple[tuple[str, str], ...]

    @property
    def rootfs(self) -> Path:
        return self.path / ROOTFS

    def to_json(self) -> str:
        """The manifest's text. The path is where the manifest lies, so it is not in it."""
        data = asdict(self)
        del data["path"]
        data["packages"] = dict(self.packages)
        return json.dumps(data, indent=1, sort_keys=True) + "\n"


def load_build(path: Path) -> ImageBuild:
    """The build in *path* (NAME/DIGEST). NOT_FOUND where its manifest is missing or unreadable."""
    try:
        data = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        data["packages"] = tuple(sorted(data["packages"].items()))
        return ImageBuild(path=path, **data)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as exc:
        raise CaasError(
            Code.NOT_FOUND,
            f"image {path.parent.name}: {path} has no readable {MANIFEST}: {exc}",
            hint=f"rm -r {path} && caas image build {path.parent.name}",
        ) from exc


class ImageStore:
    """Builds below *images*, wanted according to the declarations in *declarations*."""

    def __init__(self, images: Path = IMAGES, declarations: Path = DECLARATIONS) -> None:
        self.images = images
        self.declarations = declarations

    def declared(self) -> tuple[str, ...]:
        """The names of all declarations."""
        return tuple(sorted(path.stem for path in self.declarations.glob("*.yaml")))

    def wanted_digest(self, name: str) -> str | None:
        """The digest that *name* should have now, or None where it is not declared here. INVALID: see its text."""
        path = self.declarations / f"{name}.yaml"
        if not path.exists():
            return None
        return make_digest(load_declaration(path), path.parent)

    def builds(self, name: str) -> tuple[ImageBuild, ...]:
        """Every finished build of *name*, newest first."""
        return tuple(sorted(self._builds(name), key=lambda build: build.created, reverse=True))

    def _builds(self, name: str) -> Iterator[ImageBuild]:
        folder = self.images / name
        for path in folder.iterdir() if folder.is_dir() else ():
            if len(path.name) == DIGEST_LENGTH and (path / MANIFEST).exists():
                yield load_build(path)

    def names(self) -> tuple[str, ...]:
        """Every name that is declared or has a build."""
        built = {path.name for path in self.images.iterdir() if path.is_dir()} if self.images.is_dir() else set()
        return tuple(sorted({name for name in built if self.builds(name)} | set(self.declared())))

    def find(self, name: str) -> ImageBuild:
        """The build that a new container gets: the declaration's; the newest where *name* is not declared.

        NOT_FOUND where it was not built, or where it has no root file system.
        """
        digest = self.wanted_digest(name)
        builds = self.builds(name)
        for build in builds:
            if digest is None or build.digest == digest:
                check_rootfs(build.rootfs, owner=f"image {name}", hint=f"caas image build {name}")
                return build
        if digest is None:
            known = ", ".join(self.names()) or "none"
            raise CaasError(Code.NOT_FOUND, f"image {name}: neither declared nor built", hint=f"images: {known}")
        what = "its declaration changed since it was built" if builds else "not built"
        raise CaasError(Code.NOT_FOUND, f"image {name}: {what}", hint=f"caas image build {name}")

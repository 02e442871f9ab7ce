"""What an image is made of: a YAML file with sources and scripts beside it, and the digest that names its build.

Every mistake of a declaration is reported at once. The digest covers all that goes in (the declaration, the
files, the scripts, the builder's version), so that an unchanged declaration always has the same build.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, ValidationInfo
from pydantic import model_validator as validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from proto.errors import CaasError, Code, invalid

#: Part of every digest: raise it when the same declaration would come out differently.
BUILDER_VERSION = 1
DIGEST_LENGTH = 32
BUSYBOX = Path("/bin/busybox")
DECLARATIONS = Path(__file__).parent / "images"

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]+(:[a-z0-9]+)?")
_UNIT = re.compile(r"[A-Za-z0-9:_.@\\-]+\.(service|socket|target|timer|mount|path|slice|automount)")
_WORD = re.compile(r"[a-z0-9][a-z0-9+.-]*")
_MODE = re.compile(r"0?[0-7]{3,4}")
_OWNER = re.compile(r"[a-z_][a-z0-9_-]*(:[a-z_][a-z0-9_-]*)?")
_SIGNAL = re.compile(r"SIG[A-Z0-9]+([+-][0-9]+)?")


def _matching(pattern: re.Pattern[str], wanted: str) -> AfterValidator:
    def check(value: str) -> str:
        if not pattern.fullmatch(value):
            raise ValueError(f"{value!r} is not {wanted}")
        return value

    return AfterValidator(check)


def _check_beside(value: str, info: ValidationInfo) -> str:
    """*value* must be the relative path of a file in the declaration's folder."""
    folder = (info.context or {}).get("folder")
    path = PurePosixPath(value)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{value!r} is not a relative path below the declaration's folder")
    if folder is not None and not (folder / path).is_file():
        raise ValueError(f"{value!r}: there is no such file beside the declaration")
    return value


def _check_target(value: str) -> str:
    if not value.startswith("/") or ".." in PurePosixPath(value).parts or value.endswith("/"):
        raise ValueError(f"{value!r} is not an absolute path of a file in the image")
    return value


def _check_stem(value: str, info: ValidationInfo) -> str:
    stem = (info.context or {}).get("stem", value)
    if stem != value:
        raise ValueError(f"the name {value!r} must be that of its file, {stem!r}")
    return value


Package = Annotated[str, _matching(_PACKAGE, "a Debian package name")]
Unit = Annotated[str, _matching(_UNIT, "a systemd unit with its suffix")]
Beside = Annotated[str, AfterValidator(_check_beside)]
Target = Annotated[str, AfterValidator(_check_target)]


class ImageFile(BaseModel):
    """A file of the image: its text here (`content`), or a file beside the declaration (`source`)."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    content: str | None = None
    source: Beside | None = None
    mode: Annotated[str, _matching(_MODE, "an octal mode in quotes, as '0644'")] = "0644"
    owner: Annotated[str, _matching(_OWNER, "USER or USER:GROUP")] = "root:root"

    @validator(mode="before")
    @classmethod
    def _accept_text(cls, value: object) -> object:
        return {"content": value} if isinstance(value, str) else value

    @validator(mode="after")
    def _check_one_origin(self) -> ImageFile:
        if (self.content is None) == (self.source is None):
            raise ValueError("give either content or source")
        return self


class ImageDeclaration(BaseModel):
    """A declaration that has been checked.

    `builder` is mmdebstrap (a Debian suite with packages) or busybox (one static program; for tests). `run`
    lists scripts beside the declaration, run in order with sh inside the image after packages and files,
    without a network but for `lo`. `debconf` has lines for debconf-set-selections, set before the packages.
    `halt_signal` is what makes its init shut down.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: Annotated[str, _matching(_NAME, "an image name: a-z, 0-9 and '-', at most 63"), AfterValidator(_check_stem)]
    builder: Literal["mmdebstrap", "busybox"] = "mmdebstrap"
    suite: Annotated[str, _matching(_WORD, "a suite")] = "bookworm"
    components: tuple[Annotated[str, _matching(_WORD, "a component")], ...] = ("main",)
    packages: tuple[Package, ...] = ()
    debconf: tuple[str, ...] = ()
    mask: tuple[Unit, ...] = ()
    files: dict[Target, ImageFile] = Field(default_factory=dict)
    run: tuple[Beside, ...] = ()
    halt_signal: Annotated[str, _matching(_SIGNAL, "a signal name")] | None = None

    @validator(mode="after")
    def _check_whole(self) -> ImageDeclaration:
        if self.builder == "busybox" and (self.packages or self.debconf or self.mask):
            raise ValueError("the busybox builder takes no packages, debconf or mask")
        return self

    @property
    def init_signal(self) -> str:
        """The signal that makes its init shut down: systemd(1) and busybox's init differ."""
        return self.halt_signal or ("SIGUSR1" if self.builder == "busybox" else "SIGRTMIN+3")


def _nearest(word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(known)}"


def _describe(error: dict[str, object]) -> str:
    location = error["loc"]
    assert isinstance(location, tuple)
    where = ".".join(str(part) for part in location) or "declaration"
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        model = ImageDeclaration if len(location) == 1 else ImageFile
        message = "no such key" + _nearest(str(location[-1]), sorted(model.model_fields))
    return f"{where}: {message}"


def load_declaration(path: Path) -> ImageDeclaration:
    """Read and check *path*. NOT_FOUND where there is no such file; INVALID names every mistake at once."""
    try:
        text = path.read_text(encoding="utf-8")
        data = YAML(typ="safe", pure=True).load(text)
    except FileNotFoundError:
        known = ", ".join(sorted(found.stem for found in path.parent.glob("*.yaml"))) or "none"
        raise CaasError(
            Code.NOT_FOUND, f"image {path.stem}: no declaration {path}", hint=f"declared images: {known}"
        ) from None
    except (YAMLError, UnicodeDecodeError) as exc:
        raise invalid(f"{path}: not YAML: {' '.join(str(exc).split())}") from exc
    if not isinstance(data, dict):
        raise invalid(f"{path}: a mapping is needed (name, packages, …)")
    try:
        return ImageDeclaration.model_validate(data, context={"folder": path.parent, "stem": path.stem})
    except ValidationError as exc:
        mistakes = [_describe(dict(error)) for error in exc.errors()]
        raise invalid("\n".join(f"{path}: {mistake}" for mistake in mistakes)) from exc


def make_digest(declaration: ImageDeclaration, folder: Path) -> str:
    """32 hex digits of the SHA-256 over all that goes into a build; *folder* holds sources and scripts.

    The order of packages and masks does not count, that of scripts does.
    """
    data = declaration.model_dump(mode="json")
    for key in ("packages", "mask", "components"):
        data[key] = sorted(set(data[key]))
    beside = [entry.source for entry in declaration.files.values() if entry.source] + list(declaration.run)
    data["contents"] = {name: _hash_file(folder / name) for name in beside}
    data["builder_version"] = BUILDER_VERSION
    if declaration.builder == "busybox":
        data["busybox"] = _hash_file(BUSYBOX)
    text = json.dumps(data, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:DIGEST_LENGTH]


def _hash_file(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError as exc:
        hint = "apt-get install busybox-static" if path == BUSYBOX else ""
        raise CaasError(Code.NOT_FOUND, f"{path}: no such file", hint=hint) from exc

"""Declarations: every mistake at once, and a digest that changes with everything that goes into a build."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.containers.image_declaration import DECLARATIONS, load_declaration, make_digest
from proto.errors import CaasError, Code

GOOD = """
name: web
packages: [nginx, systemd-sysv]
mask: [apt-daily.timer, nginx.service]
files:
  /etc/motd: hello
  /etc/web.conf: {source: web/web.conf, mode: "0640", owner: "root:www-data"}
run: [web/first.sh, web/second.sh]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "web").mkdir()
    for name in ("web.conf", "first.sh", "second.sh"):
        (tmp_path / "web" / name).write_text(name)
    (tmp_path / "web.yaml").write_text(GOOD)
    return tmp_path


def digest_of(folder: Path, text: str = GOOD) -> str:
    (folder / "web.yaml").write_text(text)
    return make_digest(load_declaration(folder / "web.yaml"), folder)


def test_a_good_one_is_read(folder: Path) -> None:
    declaration = load_declaration(folder / "web.yaml")
    assert declaration.files["/etc/motd"].content == "hello"
    assert declaration.files["/etc/web.conf"].owner == "root:www-data"
    assert (declaration.builder, declaration.suite, declaration.init_signal) == ("mmdebstrap", "bookworm", "SIGRTMIN+3")


def test_every_mistake_is_reported_at_once(folder: Path) -> None:
    (folder / "web.yaml").write_text(
        "name: wub\npackges: [x]\npackages: [Nginx, 'a b']\nmask: [nginx]\nrun: [web/absent.sh, ../up.sh]\n"
        "files: {etc/x: y, /etc/a: {source: web/web.conf, content: z}, /etc/b: {source: web/web.conf, mode: '0999'}}\n"
    )
    with pytest.raises(CaasError) as failure:
        load_declaration(folder / "web.yaml")
    assert failure.value.code is Code.INVALID
    text = failure.value.message
    for part in (
        "name: the name 'wub' must be that of its file, 'web'",
        "packges: no such key; did you mean 'packages'?",
        "packages.0: 'Nginx'",
        "packages.1: 'a b'",
        "mask.0: 'nginx' is not a systemd unit",
        "run.0: 'web/absent.sh': there is no such file",
        "run.1: '../up.sh' is not a relative path",
        "'etc/x' is not an absolute path",
        "files./etc/a: give either content or source",
        "files./etc/b.mode: '0999'",
    ):
        assert part in text, f"{part!r} is not in:\n{text}"
    assert all(line.startswith(str(folder / "web.yaml")) for line in text.splitlines())


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("name: other\n", "must be that of its file, 'web'"),
        ("- a\n", "a mapping is needed"),
        ("name: [\n", "not YAML"),
        ("name: web\nbuilder: busybox\npackages: [nginx]\n", "busybox builder takes no packages"),
        ("name: web\nhalt_signal: 30\n", "halt_signal"),
    ],
)
def test_refused(folder: Path, text: str, part: str) -> None:
    (folder / "web.yaml").write_text(text)
    with pytest.raises(CaasError, match=part) as failure:
        load_declaration(folder / "web.yaml")
    assert failure.value.code is Code.INVALID


def test_an_unknown_name_says_which_there_are(folder: Path) -> None:
    with pytest.raises(CaasError) as failure:
        load_declaration(folder / "wib.yaml")
    assert failure.value.code is Code.NOT_FOUND
    assert "web" in failure.value.hint


def test_digest_is_the_same_where_nothing_matters(folder: Path) -> None:
    before = digest_of(folder)
    shuffled = GOOD.replace("[nginx, systemd-sysv]", "[systemd-sysv, nginx, nginx]") + "# a comment\n"
    assert digest_of(folder, shuffled) == before
    assert len(before) == 32


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("nginx, systemd-sysv", "systemd-sysv"),
        ("hello", "hallo"),
        ('"0640"', '"0644"'),
        ("root:www-data", "root"),
        ("[web/first.sh, web/second.sh]", "[web/second.sh, web/first.sh]"),
        ("apt-daily.timer, ", ""),
        ("name: web", "name: web\nsuite: trixie"),
        ("name: web", "name: web\nhalt_signal: SIGPWR"),
        ("name: web", "name: web\ndebconf: ['a b c d']"),
    ],
)
def test_digest_changes_with_the_declaration(folder: Path, old: str, new: str) -> None:
    before = digest_of(folder)
    assert old in GOOD
    assert digest_of(folder, GOOD.replace(old, new)) != before


@pytest.mark.parametrize("name", ["web.conf", "first.sh"])
def test_digest_changes_with_what_lies_beside(folder: Path, name: str) -> None:
    before = digest_of(folder)
    (folder / "web" / name).write_text("other")
    assert digest_of(folder) != before


def test_digest_changes_with_the_builder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = digest_of(folder)
    monkeypatch.setattr("agent.containers.image_declaration.BUILDER_VERSION", 999)
    assert digest_of(folder) != before


@pytest.mark.parametrize("path", sorted(DECLARATIONS.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_declarations_that_we_ship_are_good(path: Path) -> None:
    declaration = load_declaration(path)
    assert declaration.name == path.stem
    if declaration.builder == "mmdebstrap":
        assert "systemd-sysv" in declaration.packages

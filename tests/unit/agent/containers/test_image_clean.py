"""No image carries an identity or a secret."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.containers.image_clean import check_no_secrets, clean, clean_clone, find_secrets, read_originals
from proto.errors import CaasError, Code

CLEANED = {
    "etc/machine-id": "8d5f",
    "etc/hostname": "builder",
    "etc/resolv.conf": "nameserver 192.0.2.1",
    "etc/ssh/ssh_host_ed25519_key": "-----BEGIN OPENSSH PRIVATE KEY-----",
    "etc/ssh/ssh_host_ed25519_key.pub": "ssh-ed25519 AAAA",
    "var/lib/rabbitmq/.erlang.cookie": "COOKIE",
    "etc/ssl/private/ssl-cert-snakeoil.key": "-----BEGIN PRIVATE KEY-----",
    "etc/ssl/certs/ssl-cert-snakeoil.pem": "cert",
    "etc/keystone/fernet-keys/0": "key",
    "etc/keystone/credential-keys/1": "key",
    "var/lib/nova/compute_id": "id",
    "var/lib/systemd/random-seed": "seed",
    "var/lib/urandom/random-seed": "seed",
    "var/lib/dbus/machine-id": "8d5f",
    "var/log/journal/8d5f/system.journal": "log",
}
RUBBISH = {
    "var/lib/apt/lists/deb_InRelease": "x",
    "var/cache/apt/archives/a.deb": "x",
    "usr/sbin/policy-rc.d": "x",
    "tmp/x": "x",
    "root/.bash_history": "x",
}


def fill(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def test_clean_removes_them_all_and_keeps_the_rest(tmp_path: Path) -> None:
    fill(tmp_path, {**CLEANED, **RUBBISH, "etc/keep": "me", "var/log/dpkg.log": "line"})
    (tmp_path / "etc/ssl/certs/abcd.0").symlink_to("ssl-cert-snakeoil.pem")
    assert find_secrets(tmp_path), "the check sees nothing even before cleaning"
    clean(tmp_path)
    left = {name for name in {**CLEANED, **RUBBISH} if (tmp_path / name).exists() and (tmp_path / name).stat().st_size}
    assert left == set()
    assert (tmp_path / "etc/machine-id").read_text() == ""
    assert (tmp_path / "etc/resolv.conf").is_file()
    assert (tmp_path / "etc/keep").read_text() == "me"
    assert (tmp_path / "var/log/dpkg.log").stat().st_size == 0
    assert not (tmp_path / "etc/ssl/certs/abcd.0").is_symlink()
    check_no_secrets(tmp_path, image="x")


def test_clean_does_not_follow_a_link_out(tmp_path: Path) -> None:
    outside = tmp_path / "machine-resolv.conf"
    outside.write_text("nameserver 192.0.2.1")
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc/resolv.conf").symlink_to(outside)
    clean(root)
    assert outside.read_text() == "nameserver 192.0.2.1"
    assert not (root / "etc/resolv.conf").is_symlink()


LEFT_OVER = {
    "run/app.pid": "7",
    "tmp/x": "x",
    "var/lib/nova/instances/8d5f/disk": "x",
    "opt/stack/data/nova/compute_id": "id",
    "etc/caas/ready/nova-compute": "/etc/nova/caas-compute.conf",
    "etc/caas/secrets.json": "{}",
    "etc/systemd/system/multi-user.target.wants/devstack@n-cpu.service": "unit",
    "etc/network/interfaces": "iface eth0 inet static",
    "etc/hosts": "192.0.2.1 c1",
}
KEPT = {
    "etc/nova/nova.conf": "x",
    "etc/caas/note": "x",
    "etc/caas/ready/ssh": "",
    "root/.ssh/authorized_keys": "key",
    "var/lib/apt/lists/deb_InRelease": "x",
    "var/lib/nova/CA/ca.pem": "x",
    "etc/systemd/system/multi-user.target.wants/devstack@etcd.service": "unit",
}


def test_a_clone_is_what_never_ran(tmp_path: Path) -> None:
    fill(tmp_path, {**CLEANED, **LEFT_OVER, **KEPT, "var/log/nova/nova-compute.log": "line"})
    clean_clone(tmp_path, ())
    names = {**CLEANED, **LEFT_OVER}.keys() - {"etc/resolv.conf"}
    assert not [name for name in names if (tmp_path / name).exists() and (tmp_path / name).stat().st_size]
    assert {name: (tmp_path / name).read_text() for name in KEPT} == KEPT
    assert (tmp_path / "var/log/nova/nova-compute.log").read_text() == "", "its owner is its service's matter"
    assert (tmp_path / "var/lib/nova/instances").is_dir()
    assert (tmp_path / "etc/resolv.conf").read_text() == CLEANED["etc/resolv.conf"]


def test_a_clone_has_its_network_from_the_image(tmp_path: Path) -> None:
    image, clone = tmp_path / "image", tmp_path / "clone"
    fill(image, {"etc/network/interfaces": "auto lo", "etc/hosts": ""})
    (image / "etc/systemd/network").mkdir(parents=True)
    (image / "etc/systemd/network/99-default.link").symlink_to("/dev/null")
    (image / "etc/network/interfaces").chmod(0o600)
    fill(clone, {"etc/network/interfaces": "iface eth0", "etc/netplan/a.yaml": "x"})
    clean_clone(clone, read_originals(image))
    assert (clone / "etc/network/interfaces").read_text() == "auto lo"
    assert (clone / "etc/network/interfaces").stat().st_mode & 0o777 == 0o600
    assert str((clone / "etc/systemd/network/99-default.link").readlink()) == "/dev/null"
    assert not (clone / "etc/netplan/a.yaml").exists()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("etc/ssh/ssh_host_rsa_key", "x"),
        ("home/a/.erlang.cookie", "x"),
        ("etc/ssl/private/my.key", "x"),
        ("etc/machine-id", "8d5f"),
        ("root/.ssh/id_ed25519", "x"),
        ("root/.my.cnf", "x"),
        ("root/admin-openrc", "x"),
        ("var/lib/mysql/server-key.pem", "x"),
        ("var/lib/nova/compute_id", "x"),
        ("etc/app/key.conf", "a\n-----BEGIN RSA PRIVATE KEY-----\n"),
        ("etc/nova/nova.conf", "[database]\nconnection = mysql+pymysql://nova:hunter2@db/nova\n"),
        ("etc/nova/nova.conf", "transport_url = rabbit://a:b@c:5672/\n"),
        ("etc/nova/nova.conf", "[placement]\npassword = hunter2\n"),
        ("etc/keystone/keystone.conf", "admin_token = abc\n"),
        ("etc/dbconfig-common/nova.conf", "dbc_dbpass='abc'\n"),
    ],
)
def test_what_is_left_fails_the_build(tmp_path: Path, name: str, text: str) -> None:
    check_no_secrets(tmp_path, image="x")
    fill(tmp_path, {name: text})
    with pytest.raises(CaasError, match="it would carry secrets") as failure:
        check_no_secrets(tmp_path, image="x")
    assert failure.value.code is Code.FAILED
    assert f"/{name}" in failure.value.message


@pytest.mark.parametrize(
    "text",
    [
        "#connection = mysql+pymysql://nova:hunter2@db/nova\n",
        "connection = sqlite:////var/lib/nova/nova.sqlite\n",
        "connection = mysql+pymysql://db/nova\n",
        "password =\nuser = root\n",
        "password = <None>\n",
        "dbc_dbpass=''\n",
    ],
)
def test_what_packages_ship_does_not(tmp_path: Path, text: str) -> None:
    fill(tmp_path, {"etc/nova/nova.conf": text})
    assert find_secrets(tmp_path) == ()

"""Runs inside a container, as root: what Rally's DevstackEngine and LxcEngine did there by SSH.

`stack` makes the user rally, clones DevStack, writes local.conf and runs stack.sh; `start` is LxcEngine's start
script, for containers whose image has been started under another address. `look` says what is there.
"""

import configparser
import fcntl
import json
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import time
from typing import Any

USER = "rally"
HOME = f"/home/{USER}"
CLONE = f"{HOME}/devstack"
#: A container boots in a second or two; sixty at once take theirs.
BOOT_SECONDS = 180.0
#: What stack.sh has ended well with: written after it has, removed before it runs.
RECORD = "/var/lib/caas/devstack.json"
LOG = "/var/log/caas/stack.sh.log"
LOCK = "/run/caas-devstack.lock"
RESOLV_CONF = "/etc/resolv.conf"
NOVA_CONF = "/etc/nova/nova.conf"
#: What LxcEngine's script started: as units of today's DevStack, or as the programs that they are.
SERVICES = {"nova-compute": "devstack@n-cpu.service", "nova-network": "devstack@n-net.service"}
#: Where DevStack has put programs over the years; the image's own PATH comes last.
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PROGRAMS = f"/opt/stack/data/venv/bin:{PATH}"
LOG_LINES = 20
#: As sshd gives it to somebody who logs in.
ENVIRONMENT = {
    "HOME": HOME,
    "USER": USER,
    "LOGNAME": USER,
    "SHELL": "/bin/bash",
    "PATH": PATH,
    "LANG": "C.UTF-8",
}


def run(*argv: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run *argv*; die with its last lines where it fails."""
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, **options)
    if done.returncode != 0:
        lines = (done.stdout + done.stderr).splitlines()[-LOG_LINES:]
        sys.exit("\n".join([f"{' '.join(argv)} ended with {done.returncode}", *lines]))
    return done


def write_file(path: str, content: bytes, mode: int, user: str) -> None:
    """Make the file *path* by rename, so that it is there whole or not at all."""
    entry = pwd.getpwnam(user)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    number, temporary = tempfile.mkstemp(prefix=".caas-", dir=os.path.dirname(path))
    with os.fdopen(number, "wb") as file:
        file.write(content)
        os.fchown(number, entry.pw_uid, entry.pw_gid)
        os.fchmod(number, mode)
        file.flush()
        os.fsync(number)
    os.rename(temporary, path)


def rally() -> dict[str, Any]:
    """What makes a process that of the user rally, in the home folder, for subprocess."""
    groups = os.getgrouplist(USER, pwd.getpwnam(USER).pw_gid)
    return {"user": USER, "group": USER, "extra_groups": groups, "env": ENVIRONMENT, "cwd": HOME, "umask": 0o022}


def write_resolv_conf(nameservers: list[str]) -> None:
    """The host's name servers, where the container has none: repositories have names."""
    if not nameservers or (os.path.exists(RESOLV_CONF) and os.path.getsize(RESOLV_CONF)):
        return
    text = "".join(f"nameserver {address}\n" for address in nameservers)
    write_file(RESOLV_CONF, text.encode(), 0o644, "root")


def wait_booted() -> None:
    """Until systemd has started everything. While it does it empties /tmp (tmpfiles.d(5)), which is stack.sh's, too."""
    deadline = time.monotonic() + BOOT_SECONDS
    while shutil.which("systemctl", path=PATH):
        seen = subprocess.run(
            ["systemctl", "is-system-running"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        ).stdout.strip()
        if seen in ("running", "degraded"):
            return
        if time.monotonic() > deadline:
            sys.exit(f"the container has not booted after {BOOT_SECONDS:.0f} s: systemd says {seen or 'nothing'}")
        time.sleep(0.2)


def install() -> None:
    """git and sudo, and the user rally, who may do everything without a password."""
    missing = [name for name in ("git", "sudo") if shutil.which(name, path=PATH) is None]
    if missing:
        environment = {"PATH": PATH, "DEBIAN_FRONTEND": "noninteractive"}
        run("apt-get", "update", env=environment)
        run("apt-get", "install", "-y", "--no-install-recommends", *missing, env=environment)
    try:
        pwd.getpwnam(USER)
    except KeyError:
        run("useradd", "--create-home", "--shell", "/bin/bash", USER)
    write_file(f"/etc/sudoers.d/{USER}", f"{USER} ALL=(ALL) NOPASSWD: ALL\n".encode(), 0o440, "root")


def fetch(repo: str, branch: str) -> None:
    """~rally/devstack is *branch* of *repo*: cloned, or brought up to date where it is there."""
    with tempfile.NamedTemporaryFile(mode="w", prefix="caas-git-") as config:
        # A repository in a folder may be another user's (safe.directory in git-config(1)); nothing asks for passwords.
        config.write("[safe]\n\tdirectory = *\n")
        config.flush()
        os.chmod(config.name, 0o644)
        options = rally()
        options["env"] = {**ENVIRONMENT, "GIT_CONFIG_GLOBAL": config.name, "GIT_TERMINAL_PROMPT": "0"}
        if os.path.isdir(f"{CLONE}/.git"):
            git = ("git", "-C", CLONE)
            if run(*git, "remote", "get-url", "origin", **options).stdout.strip() == repo:
                run(*git, "fetch", "--", "origin", branch, **options)
                run(*git, "checkout", "-B", branch, "FETCH_HEAD", **options)
                return
        new = f"{HOME}/.devstack.new"  # a clone that was cut off is not taken for one
        for path in (new, CLONE):
            if os.path.lexists(path):
                shutil.rmtree(path)
        run("git", "clone", "-b", branch, "--", repo, new, **options)
        os.rename(new, CLONE)


def run_stack() -> None:
    """stack.sh as rally; what it says is kept in LOG, and its last lines are said where it fails."""
    os.makedirs(os.path.dirname(LOG), exist_ok=True)
    with open(LOG, "wb") as log:
        try:
            done = subprocess.run(
                [f"{CLONE}/stack.sh"], stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=False, **rally()
            )
        except OSError as exc:
            sys.exit(f"{CLONE}/stack.sh: {exc.strerror}")
    if done.returncode != 0:
        with open(LOG, "rb") as file:
            lines = file.read().decode(errors="replace").splitlines()[-LOG_LINES:]
        sys.exit("\n".join([f"stack.sh ended with {done.returncode}; all it said is in {LOG}", *lines]))


def stack(job: dict[str, Any]) -> None:
    """Set the container up by stack.sh; what is done already of it is not undone by a second try."""
    with open(LOCK, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if os.path.exists(RECORD):
            os.unlink(RECORD)
        write_resolv_conf(job["nameservers"])
        wait_booted()
        install()
        fetch(job["repo"], job["branch"])
        write_file(f"{CLONE}/local.conf", job["local_conf"].encode(), 0o644, USER)
        run_stack()
        write_file(RECORD, json.dumps({"digest": job["digest"]}).encode(), 0o644, "root")


def my_ip() -> str | None:
    """nova's my_ip; "" where nova.conf has none, None where there is no nova.conf."""
    parser = configparser.RawConfigParser(strict=False, allow_no_value=True, interpolation=None)
    try:
        with open(NOVA_CONF, encoding="utf-8") as file:
            parser.read_file(file)
    except (OSError, configparser.Error):
        return None
    return str(parser.defaults().get("my_ip") or "")


def show(unit: str) -> list[str]:
    """LoadState and ActiveState of *unit*."""
    argv = ["systemctl", "show", "-p", "LoadState,ActiveState", "--value", unit]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    return done.stdout.split()


def services() -> dict[str, bool]:
    """Those of SERVICES that are installed -> whether they run."""
    found = {}
    for name, unit in SERVICES.items():
        if "loaded" in (state := show(unit)):
            found[name] = "active" in state
        elif shutil.which(name, path=PROGRAMS):
            argv = ["pgrep", "-f", _pattern(name)]
            found[name] = subprocess.run(argv, capture_output=True, check=False).returncode == 0
    return found


def _pattern(name: str) -> str:
    return f"(^|/){name}( |$)"


def start(job: dict[str, Any]) -> None:
    """Give nova this container's address, and start what LxcEngine started; nothing where stack.sh left no nova."""
    before = my_ip()
    if before is None:
        return
    if changed := before != job["address"]:
        with open(NOVA_CONF, encoding="utf-8") as file:
            text = replace_my_ip(file.read(), job["address"])
        with open(NOVA_CONF, "w", encoding="utf-8") as file:  # in place: its owner and mode are stack.sh's choice
            file.write(text)
    for name, runs in services().items():
        if changed or not runs:
            start_service(name)


def replace_my_ip(text: str, address: str) -> str:
    """*text* of nova.conf with my_ip = *address* in its section DEFAULT, every other line as it was."""
    lines, section, done = [], "", False
    for line in text.splitlines():
        if line.startswith("["):
            if section == "[DEFAULT]" and not done:
                lines.append(f"my_ip = {address}")
                done = True
            section = line.strip()
        if section == "[DEFAULT]" and line.partition("=")[0].strip() == "my_ip":
            if done:
                continue
            line, done = f"my_ip = {address}", True
        lines.append(line)
    if not done:
        lines += ([] if section == "[DEFAULT]" else ["[DEFAULT]"]) + [f"my_ip = {address}"]
    return "\n".join(lines) + "\n"


def start_service(name: str) -> None:
    """Start it; one that runs is stopped first."""
    if "loaded" in show(SERVICES[name]):
        # A clone has it disabled, so that it never starts with its source's address. One without [Install] stays so.
        subprocess.run(["systemctl", "enable", SERVICES[name]], capture_output=True, check=False)
        run("systemctl", "restart", SERVICES[name])
        return
    subprocess.run(["pkill", "-f", _pattern(name)], check=False)
    os.makedirs(os.path.dirname(LOG), exist_ok=True)
    with open(f"{os.path.dirname(LOG)}/{name}.log", "ab") as log:
        argv = [str(shutil.which(name, path=PROGRAMS)), "--config-file", NOVA_CONF]
        subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, **rally())


def look() -> None:
    """Print what is there, as JSON; changes nothing."""
    try:
        with open(RECORD, "rb") as file:
            digest = json.load(file)["digest"]
    except (OSError, ValueError, KeyError, TypeError):
        digest = ""
    address = my_ip()
    running = services() if address is not None else {}
    json.dump({"digest": digest, "my_ip": address, "services": running}, sys.stdout)


def main(job: dict[str, Any]) -> None:
    """*job*: do (look, stack or start), and what that takes."""
    match job["do"]:
        case "stack":
            stack(job)
        case "start":
            start(job)
        case _:
            look()

# Inside the image: what no container needs is removed, and what must be there is checked.

main() {
    # Documentation and translations; licences stay.
    find /usr/share/doc -type f ! -name copyright -delete
    find /usr/share/doc -type d -empty -delete
    rm -rf /usr/share/man/* /usr/share/info/* /usr/share/locale/* /usr/share/lintian /usr/share/bash-completion

    # Debian's own choices of driver and database, which win over or mislead what caas writes.
    rm -f /etc/nova/nova-compute.conf /var/lib/nova/novadb /var/lib/keystone/keystonedb /var/lib/glance/glancedb \
        /var/lib/placement/placementdb

    # Where nova-compute keeps what it runs (state_path/instances).
    install -d -o nova -g nova -m 0755 /var/lib/nova /var/lib/nova/instances

    # Every module must come with its bytecode: compiling at each start would cost seconds, in every container.
    python3 - <<'EOF'
import importlib.util, pathlib, sys
sources = pathlib.Path("/usr/lib/python3/dist-packages").rglob("*.py")
missing = [str(path) for path in sources if not pathlib.Path(importlib.util.cache_from_source(str(path))).exists()]
if len(missing) > 20:
    sys.exit(f"{len(missing)} python files have no bytecode: {' '.join(missing[:5])} …")
EOF
    chmod 0755 /usr/lib/caas/note-start
}

main < /dev/null

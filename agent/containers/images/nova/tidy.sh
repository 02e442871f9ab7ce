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
    missing=0
    for source in $(find /usr/lib/python3/dist-packages/nova /usr/lib/python3/dist-packages/oslo_* \
        /usr/lib/python3/dist-packages/keystone* /usr/lib/python3/dist-packages/sqlalchemy -name '*.py'); do
        cached=$(dirname "$source")/__pycache__/$(basename "$source" .py).cpython-311.pyc
        [ -e "$cached" ] || missing=$((missing + 1))
    done
    if [ "$missing" -gt 0 ]; then echo "$missing python files have no bytecode" >&2; return 1; fi
    chmod 0755 /usr/lib/caas/note-start
}

main < /dev/null

# Inside the image: a small MariaDB data directory with every schema migrated and empty. No password, no user but
# root@localhost (by the unix socket), no row that a bootstrap makes: two clusters from this image share nothing.

databases="keystone glance placement neutron nova_api nova nova_cell0"
work=/tmp/caas-schemas
socket=$work/mariadb.sock

make_datadir() {
    rm -rf "$1"
    install -d -o mysql -g mysql -m 0755 "$1"
    mariadb-install-db --user=mysql --datadir="$1" --skip-test-db --auth-root-authentication-method=socket \
        --auth-root-socket-user=root > "$work/install.log" 2>&1 || { cat "$work/install.log" >&2; return 1; }
}

start_server() {
    mariadbd --user=mysql --datadir="$1" --socket="$socket" --skip-networking --skip-grant-tables \
        --innodb-flush-log-at-trx-commit=0 --skip-log-bin --pid-file="$work/pid" > "$work/mariadbd.log" 2>&1 &
    server=$!
    tries=0
    until mariadb-admin --socket="$socket" ping > "$work/ping.log" 2>&1; do
        tries=$((tries + 1))
        if [ "$tries" -gt 300 ] || ! kill -0 "$server"; then cat "$work/mariadbd.log" >&2; return 1; fi
        sleep 0.1
    done
}

stop_server() {
    # A slow shutdown merges and purges everything: the files are then as small as they get.
    mariadb --socket="$socket" -e "SET GLOBAL innodb_fast_shutdown = 0"
    mariadb-admin --socket="$socket" shutdown
    wait "$server"
}

url() { echo "mysql+pymysql://root@localhost/$1?unix_socket=$socket&charset=utf8"; }

write_config() { # FILE SECTION DATABASE [SECTION DATABASE]
    file=$work/$1.conf
    shift
    : > "$file"
    while [ $# -gt 0 ]; do
        printf '[%s]\nconnection = %s\n' "$1" "$(url "$2")" >> "$file"
        shift 2
    done
}

migrate() { # NAME COMMAND…
    log=$work/migrate-$1.log
    echo "schema: $1"
    shift
    "$@" > "$log" 2>&1 || { cat "$log" >&2; return 1; }
}

migrate_all() {
    write_config keystone database keystone
    write_config glance database glance
    write_config placement placement_database placement
    write_config neutron database neutron
    write_config nova api_database nova_api database nova
    write_config cell0 api_database nova_api database nova_cell0
    (
        set -e
        migrate keystone keystone-manage --config-file "$work/keystone.conf" db_sync
        migrate glance glance-manage --config-file "$work/glance.conf" db_sync
        migrate placement placement-manage --config-file "$work/placement.conf" db sync
        migrate neutron neutron-db-manage --config-file "$work/neutron.conf" upgrade heads
    ) &
    others=$!
    migrate nova_api nova-manage --config-file "$work/nova.conf" api_db sync
    migrate nova nova-manage --config-file "$work/nova.conf" db sync --local_cell
    migrate nova_cell0 nova-manage --config-file "$work/cell0.conf" db sync --local_cell
    wait "$others"
}

refuse_rows() { # what a cluster makes for itself must not come from the image
    for table in keystone.user keystone.role keystone.service keystone.endpoint glance.images neutron.networks nova.services \
        nova.compute_nodes nova.instances nova_api.cell_mappings nova_api.host_mappings placement.resource_providers; do
        rows=$(mariadb --socket="$socket" -N -e "SELECT COUNT(*) FROM $table")
        if [ "$rows" != 0 ]; then echo "$table has $rows rows in the image" >&2; return 1; fi
    done
}

main() {
    rm -rf "$work"
    install -d -o mysql -g mysql -m 0755 "$work"
    make_datadir /var/lib/mysql
    start_server /var/lib/mysql
    for database in $databases; do
        mariadb --socket="$socket" -e "CREATE DATABASE $database CHARACTER SET utf8mb3"
    done
    migrate_all
    refuse_rows
    stop_server
    rm -f /var/lib/mysql/ib_buffer_pool /var/lib/mysql/*.err /var/lib/mysql/*.pid /var/lib/mysql/*.info
    chown -R mysql:mysql /var/lib/mysql
    rm -rf "$work"
    du -sh /var/lib/mysql
}

main < /dev/null

# A database with checksums, killed in the middle of its work, twice; it recovers, is consistent and
# has every page whole.
# needs: pg_lsclusters=postgresql
# usage: postgresql.sh DIR CACHE
bin=$(dirname "$(ls /usr/lib/postgresql/*/bin/initdb | tail -1)")
data=$1/data
sockets=$(mktemp -d)
chown postgres "$1" "$sockets"
as() { setpriv --reuid=postgres --regid=postgres --init-groups env -C "$1" PATH="$bin:$PATH" "${@:2}"; }
start() {
    # The killed server's children notice only after a moment, and until then nobody else may start.
    for _ in {1..20}; do
        as "$1" pg_ctl -D "$data" -o "-k $sockets -c listen_addresses=" -l "$1/log" -w start && return
        sleep 1
    done
    tail -5 "$1/log"
    return 1
}
sql() { as "$1" psql -h "$sockets" -Atc "$2" postgres; }
stop_now() {
    [ ! -e "$data/postmaster.pid" ] || kill -9 "$(head -1 "$data/postmaster.pid")" || true
}
trap 'stop_now 2>/dev/null; rm -rf "$sockets"' EXIT
as "$1" initdb -k -D "$data" >"$1/initdb.log"
start "$1"
as "$1" pgbench -h "$sockets" -i -s 2 postgres
for round in 1 2; do
    as "$1" pgbench -h "$sockets" -n -c 4 -j 2 -T 60 postgres >/dev/null 2>&1 &
    sleep 4
    stop_now
    wait || true
    start "$1"
    sums=$(sql "$1" "select (select sum(abalance) from pgbench_accounts) =
        (select sum(tbalance) from pgbench_tellers) and
        (select sum(tbalance) from pgbench_tellers) = (select sum(delta) from pgbench_history)")
    echo "round $round: $(sql "$1" 'select count(*) from pgbench_history') transactions, equal: $sums"
    [ "$sums" = t ]
done
as "$1" pg_ctl -D "$data" -w stop
as "$1" pg_checksums --check -D "$data"

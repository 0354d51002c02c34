# SQLite's own tests of its I/O: journals, write-ahead log, locks, mappings, crashes. As an ordinary
# user, for some of them expect permissions to be refused. Left out for their length: trans2,
# pagerfault and walslow, minutes each.
# needs: gcc=gcc make=make tclsh=tcl apt-get=apt
# usage: sqlite.sh DIR CACHE
tests=(io wal wal2 wal3 wal4 wal5 wal6 wal7 wal8 wal9 wal64k walbak walblock walhook walmode
    waloverwrite walpersist walprotocol walro walro2 walshared walvfs journal1 journal2 journal3
    jrnlmode jrnlmode2 jrnlmode3 mmap1 mmap2 mmap3 mmap4 lock lock2 lock3 lock4 lock5 lock6 lock7
    pager1 pager2 pager3 sync sync2 crash crash2 crash3 crash4 crash5 crash6 crash7 crash8 exclusive
    exclusive2 backup backup2 delete_db superlock rollback rollback2 savepoint shared shared2 atomic
    atomic2 trans vacuum vacuum2 symlink symlink2 nolock oserror filectrl syscall tempdb
    diskfull incrblob multiplex multiplex2 bigfile bigfile2 unixexcl)
built=$2/sqlite
if [ ! -e "$built/done" ]; then
    rm -rf "$built" && mkdir -p "$built"
    (
        cd "$built"
        apt-get source -qq --download-only sqlite3
        tar xf sqlite3_*.orig.tar.xz --strip-components 1
        ./configure --quiet
        make -j2 testfixture
        touch done
    ) >"$2/sqlite.log" 2>&1 || { tail -20 "$2/sqlite.log"; exit 1; }
fi
cp -r "$built/test" "$built/ext" "$built/src" "$1"
cp "$built/testfixture" "$1"
mkdir "$1/work"
chown -R nobody "$1"
export DIR=$1
# Each in a directory of its own, for they all use the same names. Most wait for the disk.
one() {
    mkdir "$DIR/work/$1" && chown nobody "$DIR/work/$1" && cd "$DIR/work/$1"
    setpriv --reuid=nobody --regid=65534 --clear-groups timeout 400 \
        ../../testfixture "../../test/$1.test" >"$DIR/$1.log" 2>&1 || echo "$1"
}
export -f one
mapfile -t failed < <(printf '%s\n' "${tests[@]}" | xargs -P 4 -I {} bash -c 'one {}')
for test in "${failed[@]}"; do
    echo "$test:"
    grep -E '^! |FATAL|Error' "$1/$test.log" | head -20 || tail -5 "$1/$test.log"
done
echo "$((${#tests[@]} - ${#failed[@]})) of ${#tests[@]} test files pass"
[ ${#failed[@]} = 0 ]

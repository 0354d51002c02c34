# A twentieth of git's own tests, spread over all of it. Then a real life: clone, branch, worktree, gc.
# needs: git=git gcc=gcc make=make apt-get=apt
# usage: git.sh DIR CACHE
built=$2/git
if [ ! -e "$built/done" ]; then
    rm -rf "$built" && mkdir -p "$built"
    (
        cd "$built"
        apt-get source -qq --download-only git
        tar xf git_*.orig.tar.xz --strip-components 1
        make -j2 CFLAGS=-O1 NO_GETTEXT=1 NO_CURL=1 NO_EXPAT=1 NO_OPENSSL=1 NO_TCLTK=1 NO_PYTHON=1
        touch done
    ) >"$2/git.log" 2>&1 || { tail -20 "$2/git.log"; exit 1; }
fi
mkdir "$1/trash" "$1/logs"
cd "$built/t"
# The scripts from t9 on test bridges to other programs.
ls t[0-8][0-9][0-9][0-9]-*.sh | awk 'NR % 18 == 3' >"$1/scripts"
export ROOT=$1
one() {
    timeout 400 bash "./$1" --root="$ROOT/trash" -q >"$ROOT/logs/$1" 2>&1 || echo "$1"
}
export -f one
failed=$(xargs -P 3 -I {} bash -c 'one {}' <"$1/scripts")
for script in $failed; do
    echo "$script:"
    grep -E '^not ok|^error|^FATAL' "$1/logs/$script" | head -20 || tail -5 "$1/logs/$script"
done
echo "$(($(wc -l <"$1/scripts") - $(wc -w <<<"$failed"))) of $(wc -l <"$1/scripts") scripts pass"
[ -z "$failed" ]

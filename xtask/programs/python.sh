# What Python's own tests of files, mappings and times ask.
# needs: python3=python3
# usage: python.sh DIR CACHE
tests=(test_os test_posix test_shutil test_mmap test_tempfile test_fcntl test_file test_fileio
    test_pathlib test_glob)
python3 -c 'import test.test_os' || {
    echo "Python's tests are missing: install libpython3-testsuite"
    exit 1
}
TMPDIR="$1" python3 -m test --tempdir "$1" "${tests[@]}"

# rsync there and back with hard links, ACLs, attributes, holes and times: the second pass in each
# direction finds nothing to do.
# needs: rsync=rsync setfacl=acl setfattr=attr
# usage: rsync.sh DIR CACHE
from=$(mktemp -d)
back=$(mktemp -d)
trap 'rm -rf "$from" "$back"' EXIT
cp -r /usr/include/linux "$from/headers"
mkdir "$from/dir"
echo text >"$from/dir/file"
ln "$from/dir/file" "$from/dir/hard"
ln -s nowhere "$from/dir/symbolic"
truncate -s 100M "$from/dir/sparse"
printf x | dd of="$from/dir/sparse" bs=1 seek=50M conv=notrunc status=none
setfattr -n user.colour -v red "$from/dir/file" "$from/dir"
setfacl -m u:daemon:rw "$from/dir/file"
setfacl -d -m g:daemon:rx "$from/dir"
touch -h -d '1965-01-01 00:00:00.123456789' "$from/dir/symbolic" "$from/dir/hard"
touch -d '2200-01-01 00:00:00.5' "$from/dir/sparse"
mkfifo "$from/dir/fifo"
chown -R daemon:mail "$from/dir"
chmod 6755 "$from/dir/file"
flags=(-aHAXS --numeric-ids)
rsync "${flags[@]}" "$from/" "$1/there/"
rsync "${flags[@]}" "$1/there/" "$back/"
for pair in "$from $1/there" "$1/there $back" "$from $back"; do
    read -r a b <<<"$pair"
    left=$(rsync "${flags[@]}" --checksum --dry-run --itemize-changes --delete "$a/" "$b/")
    [ -z "$left" ] || { echo "$a and $b differ:"; echo "$left"; exit 1; }
done

# What was written is read back and compared by its checksums: buffered, direct and mapped, several
# jobs at once, sizes that fit no block.
# needs: fio=fio
# usage: fio.sh DIR CACHE
common=(--directory="$1" --verify=crc32c --verify_fatal=1 --size=24m --numjobs=2 --group_reporting
    --minimal --output=/dev/null --verify_state_save=0)
fio "${common[@]}" --name=buffered --rw=randwrite --bsrange=1k-128k --bs_unaligned
fio "${common[@]}" --name=direct --rw=randrw --bs=4k --direct=1 --ioengine=libaio --iodepth=8
fio "${common[@]}" --name=mapped --rw=randwrite --bs=4k --ioengine=mmap
fio "${common[@]}" --name=synced --rw=write --bs=16k --fdatasync=8

# The file load of an office for half a minute, four clients, with its own checks.
# needs: dbench=dbench
# usage: dbench.sh DIR CACHE
loads=/usr/share/dbench/client.txt
dbench -D "$1" -c "$loads" -t 30 4 | tail -2

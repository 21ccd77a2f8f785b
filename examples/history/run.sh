#!/usr/bin/env bash
# Keeps the history of a register of planes through four exports of it, in a Delta warehouse beside this script.
# DPONE names the binary (default: dpone on the path).
set -euo pipefail
dpone=${DPONE:-dpone}
# A path given from elsewhere stays right after the change of folder.
case $dpone in */*) dpone=$(cd "$(dirname "$dpone")" && pwd)/$(basename "$dpone") ;; esac
cd "$(dirname "$0")"

say() { printf '\n# %s\n' "$*"; }
show() {
    printf '$ dpone'
    for word in "$@"; do case $word in *[!A-Za-z0-9_./=-]*) printf " '%s'" "$word" ;; *) printf ' %s' "$word" ;; esac; done
    printf '\n'
    "$dpone" "$@"
}

rm -rf registry warehouse
mkdir registry
export=../flights/data/planes.csv

say "The first export of the register: 3,322 planes. Each is a version that holds since now."
cp "$export" registry/planes.csv
show run

say "Three planes change: N103US gets two more seats, N104UW another engine, and N105UW is sold and leaves the register."
sed -e '/^N103US,/s/,182,/,184,/' -e '/^N104UW,/s/Turbo-fan/Turbo-jet/' -e '/^N105UW,/d' "$export" > registry/planes.csv
show run

say "N105UW comes back, and N103US gets another two seats. Nothing else is written."
sed -e '/^N103US,/s/,182,/,186,/' -e '/^N104UW,/s/Turbo-fan/Turbo-jet/' "$export" > registry/planes.csv
show run

say "The fourth export breaks off after a thousand lines. A guard stops both runs before anything is changed."
head -1001 "$export" > registry/planes.csv
show run && { echo "the guard did not stop the run" >&2; exit 1; } || true

say "The history of one plane, and of one that left and came back."
show query "$(cat history.sql)"

say "Where the mirror stands: the planes that were ever seen, and those that are marked."
show query "SELECT count(*) AS planes, count(*) FILTER (WHERE __dpone__is_deleted) AS marked FROM lake.mirror.planes"

#!/usr/bin/env bash
# Loads five tables of flight data into a Delta warehouse beside this script: nine months first, then only what is new.
# DPONE names the binary (default: dpone on the path). `make demo` builds it and calls this.
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

rm -rf inbox warehouse
mkdir -p inbox/flights

say "January to September have arrived."
cp data/flights/2013-0?.csv.gz inbox/flights/

say "Is everything in reach, and does it fit?"
show check

say "Load all five tables."
show run

say "October to December arrive."
cp data/flights/2013-1?.csv.gz inbox/flights/

say "The second run reads from the watermark on: the new months, and the last hour that was loaded before."
show run --selector flights

say "What the pipelines remember."
show state inspect

say "Three of the tables, joined: who is on time, and in bad weather?"
show query "$(cat on_time.sql)"

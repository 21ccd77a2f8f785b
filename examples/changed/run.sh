#!/usr/bin/env bash
# Five pipelines of which only those run that changed, or that read from one that did. DPONE names the binary (default:
# dpone on the path).
set -euo pipefail
dpone=${DPONE:-dpone}
# A path given from elsewhere stays right after the change of folder.
case $dpone in */*) dpone=$(cd "$(dirname "$dpone")" && pwd)/$(basename "$dpone") ;; esac
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp -r "$(dirname "$0")"/{connections.sql,pipelines,data} "$work"
cd "$work"

say() { printf '\n# %s\n' "$*"; }
run() {
    printf '$ dpone run connections.sql pipelines/*.sql --select state:modified\n'
    "$dpone" run connections.sql pipelines/*.sql --select state:modified
}

say "Nothing has ever succeeded: all five run, each after what it reads from."
run

say "Nothing has changed."
run

say "The products change: sales reads from them, and best_customers from sales."
sed -i 's/shop.files.products/shop.files.products WHERE price > 0/' pipelines/products.sql
run

say "What ran."
"$dpone" runs list

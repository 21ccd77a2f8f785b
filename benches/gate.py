"""Compares counted instructions of the kernels with the committed baseline: scripts/bench-gate calls it.

A kernel that grew by more than the tolerance fails the gate, and so does one that is missing or that the baseline does
not know: a kernel that is no longer counted is not gated. One that shrank passes, and is pointed out, because its gain
is only kept once it is in the baseline.
"""

import argparse
import json
import pathlib
import sys

# Two builds of one commit count the same; other addresses and lengths of paths move some kernels by a few hundredths.
TOLERANCE = 2.0


def number(metric):
    """A count as gungraun writes it: a bare number, or one in a variant (`{"Int": 1}`, `{"left": …}`, `{"new": …}`)."""
    while isinstance(metric, dict):
        for key in ("new", "New", "both", "Both", "left", "Left", "Int", "int"):
            if key in metric:
                metric = metric[key]
                break
        else:
            raise ValueError(f"no count in {metric}")
    return int(metric[0] if isinstance(metric, list) else metric)


def counted(folder):
    """Instructions by kernel."""
    found = {}
    for path in sorted(pathlib.Path(folder).rglob("summary.json")):
        summary = json.loads(path.read_text())
        name = summary["function_name"] + ("." + summary["id"] if summary.get("id") else "")
        for profile in summary["profiles"]:
            metrics = profile["data"]["total"]["metrics"]
            if "Ir" in metrics:
                found[name] = number(metrics["Ir"]["values"])
    return found


def compare(now, before):
    """Rows of the table, and what is wrong."""
    rows, wrong = [], []
    for name in sorted(now.keys() | before.keys()):
        if name not in now:
            wrong.append(f"{name} is in the baseline and was not counted")
        elif name not in before:
            wrong.append(f"{name} was counted and is not in the baseline")
        change = 100 * (now[name] / before[name] - 1) if name in now and name in before else None
        if change is not None and change > TOLERANCE:
            wrong.append(f"{name} takes {change:.2f} % more instructions than the baseline: {now[name]:,} against {before[name]:,}")
        rows.append((name, before.get(name), now.get(name), change))
    return rows, wrong


def table(rows):
    show = lambda count: "-" if count is None else f"{count:,}"
    width = max((len(row[0]) for row in rows), default=6)
    lines = [f"{'kernel':<{width}}  {'baseline':>13}  {'now':>13}   change"]
    for name, before, now, change in rows:
        mark = "" if change is None or change >= -TOLERANCE else "  less: worth a new baseline"
        lines.append(f"{name:<{width}}  {show(before):>13}  {show(now):>13}  {'-' if change is None else f'{change:+.2f} %':>8}{mark}")
    return "\n".join(lines)


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--summaries", required=True, help="the folder that gungraun wrote")
    arguments.add_argument("--baseline", required=True, type=pathlib.Path)
    arguments.add_argument("--compiler", required=True, help="what `rustc --version` says")
    arguments.add_argument("--update", action="store_true", help="write the baseline instead of comparing with it")
    options = arguments.parse_args()

    now = counted(options.summaries)
    if not now:
        sys.exit(f"bench-gate: no summaries in {options.summaries}")
    if options.update:
        baseline = {"compiler": options.compiler, "instructions": dict(sorted(now.items()))}
        options.baseline.parent.mkdir(parents=True, exist_ok=True)
        options.baseline.write_text(json.dumps(baseline, indent=1) + "\n")
        print(f"bench-gate: {len(now)} kernels written to {options.baseline}; say in the commit why they moved")
        return
    if not options.baseline.exists():
        sys.exit(f"bench-gate: {options.baseline} is missing; UPDATE=1 scripts/bench-gate writes it")
    baseline = json.loads(options.baseline.read_text())
    rows, wrong = compare(now, baseline["instructions"])
    print(table(rows))
    if wrong:
        if baseline["compiler"] != options.compiler:
            print(f"bench-gate: the baseline was counted with {baseline['compiler']}, this is {options.compiler}", file=sys.stderr)
        hint = "make the kernel cheaper, or, if the change is meant, commit the baseline that UPDATE=1 make bench-gate writes and say why"
        sys.exit("bench-gate: FAILED\n  " + "\n  ".join(wrong) + f"\n  hint: {hint}")
    print(f"bench-gate: {len(rows)} kernels within {TOLERANCE:g} % of the baseline")


if __name__ == "__main__":
    main()

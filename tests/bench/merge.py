"""What a merge into a large table costs, beside a Python stack with the same changes: `scripts/bench-merge`.

The table is made by delta-rs: ten million rows in twelve files, sorted by key. Into fresh copies of it go 1% of random
keys and 0.1% of adjacent ones, by the real binary (with deletion vectors and without) and by merge_reference.py, in
turn, several times. Each merge is a process of its own, measured alike: seconds from start to exit, and the most memory
that it had, as the kernel counts it. What they left behind is read by delta-rs and compared row by row, so a quick
wrong result fails. Then a hundred merges follow each other into one table.

Of time nothing is asserted: the last column says which targets were met here and now.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from merge_arms import BENCH, BINARY, MIB, TARGET, Mallard, Reference, copy, measure

CACHE = Path(os.environ.get("MALLARD_CACHE", Path.home() / ".cache" / "mallard")) / "bench-merge"

# One row in so many is changed.
CASES = {"random": 100, "clustered": 1000}
OWN = {"vectors": Mallard("vectors", "true"), "copies": Mallard("copies", "false")}
REFERENCE = "python"
# As the former stack had it; then with what makes delta-rs look at the range of the changes' keys first.
RANGED = "python-range"
OTHERS = {REFERENCE: Reference(REFERENCE, "parquet"), RANGED: Reference(RANGED, "parquet", "--in-memory")}

SERIES = [("random", "vectors"), ("clustered", "vectors"), ("clustered", "copies")]
SERIES_ONE_IN = 1000
# The first and the last so many of a series are compared.
SERIES_END = 5

FASTER_MIN = {
    ("random", "vectors"): 3,
    ("random", "copies"): 1,
    ("clustered", "vectors"): 3,
    ("clustered", "copies"): 3,
}
MEMORY_MIB_MAX = 1024
FILES_TIMES_MAX = 1.2
LAST_TO_FIRST_MAX = 1.25


def data(*arguments):
    """Has merge_data.py do something, in a process of its own."""
    line = [sys.executable, BENCH / "merge_data.py", *arguments]
    subprocess.run(list(map(str, line)), check=True)


def base_table(rows):
    """The table that all copies are of; kept for the next run, as long as its maker is the same."""
    made_by = subprocess.check_output(["sha256sum", BENCH / "merge_data.py", BENCH / "requirements.txt"], text=True)
    name = f"{rows}-" + "-".join(line[:8] for line in made_by.splitlines())
    if not (CACHE / name).exists():
        print(f"making a table of {rows:,} rows", flush=True)
        shutil.rmtree(CACHE, ignore_errors=True)
        data("table", CACHE / f"{name}.part", rows)
        (CACHE / f"{name}.part").rename(CACHE / name)
    return CACHE / name


def once(arm, case, base, changes, scratch, *flags):
    """One merge into a fresh copy, and whether the result is right."""
    with tempfile.TemporaryDirectory(prefix=f"{arm.name}-", dir=scratch) as folder:
        work = Path(folder)
        table = arm.table(work)
        copy(base, table)
        run = measure(arm, case, work, changes)
        data("check", table, base, changes, *flags)
    return run


def series(arm, kind, base, changes, scratch):
    """Merges that follow each other into one table."""
    with tempfile.TemporaryDirectory(prefix=f"series-{arm.name}-", dir=scratch) as folder:
        work = Path(folder)
        table = arm.table(work)
        copy(base, table)
        runs = [measure(arm, f"{kind} series", work, each) for each in changes]
        data("check", table, base, *changes)
    return runs


class Report:
    """The lines of the result."""

    def __init__(self):
        self.is_met = True

    def head(self, text):
        print(f"\n{text}", flush=True)

    def line(self, what, value, target=None, met=None):
        mark = "" if met is None else "met" if met else "MISSED"
        self.is_met &= met is not False
        print(f"  {what:<52}{value:>16}   {target or '':<16}{mark}".rstrip(), flush=True)


def median(runs, what):
    return statistics.median(getattr(run, what) for run in runs)


def files_at_least(base, changes):
    """How many of the table's files hold keys between the lowest and the highest of the changes."""
    keys = json.loads((changes / "keys.json").read_text())
    least = 0
    for commit in (base / "_delta_log").glob("*.json"):
        for action in map(json.loads, commit.read_text().splitlines()):
            if "add" in action:
                stats = json.loads(action["add"]["stats"])
                least += stats["minValues"]["id"] <= keys["last"] and stats["maxValues"]["id"] >= keys["first"]
    return least


def tell_run(report, runs, what):
    """Medians of one merge's runs."""
    spread = f"{min(run.seconds for run in runs):.2f}-{max(run.seconds for run in runs):.2f}"
    report.line(f"{what}: seconds", f"{median(runs, 'seconds'):.2f}", f"({spread})")
    report.line(f"{what}: seconds of processor", f"{median(runs, 'cpu_seconds'):.2f}")
    files = "/".join(f"{median(runs, name):.0f}" for name in ("files_marked", "files_rewritten", "files_added"))
    report.line(f"{what}: files marked/rewritten/added", files)
    report.line(f"{what}: MiB written", f"{median(runs, 'bytes_written') / MIB:.1f}")
    return median(runs, "seconds")


def tell_case(report, case, runs, least):
    """Ours beside the reference's, from the runs of one case by arm."""
    report.head(f"{case}: {len(runs[REFERENCE])} merges each, into fresh copies; medians")
    took = {name: tell_run(report, runs[name], name) for name in runs}
    for name in runs:
        memory = max(run.memory_mib for run in runs[name])
        target = {"target": f"<= {MEMORY_MIB_MAX}", "met": memory <= MEMORY_MIB_MAX} if name in OWN else {}
        report.line(f"{name}: memory at most, MiB", f"{memory:.0f}", **target)
    for name in OWN:
        for other in OTHERS:
            times, target = took[other] / took[name], FASTER_MIN[case, name]
            judged = {"target": f">= {target}", "met": times >= target} if other == REFERENCE else {}
            report.line(f"{name}: times as fast as {other}", f"{times:.1f}", **judged)
        if case == "clustered":
            of = max(run.files_marked + run.files_rewritten for run in runs[name])
            met = of <= least * FILES_TIMES_MAX
            report.line(f"{name}: files touched, {least} at least", of, f"<= {FILES_TIMES_MAX} times", met)


def tell_series(report, runs, kind, name):
    report.head(f"{len(runs)} merges into one table: {kind}, {name}; medians of {SERIES_END}")
    for begin in sorted({0, len(runs) // 2, len(runs) - SERIES_END}):
        part = runs[begin : begin + SERIES_END]
        last = begin + len(part)
        report.line(f"merges {begin + 1} to {last}: seconds", f"{median(part, 'seconds'):.2f}")
        report.line(f"merges {begin + 1} to {last}: memory, MiB", f"{median(part, 'memory_mib'):.0f}")
    times = median(runs[-SERIES_END:], "seconds") / median(runs[:SERIES_END], "seconds")
    report.line("the last beside the first", f"{times:.2f}", f"<= {LAST_TO_FIRST_MAX}", times <= LAST_TO_FIRST_MAX)
    memory = max(run.memory_mib for run in runs)
    report.line("memory at most, MiB", f"{memory:.0f}", f"<= {MEMORY_MIB_MAX}", memory <= MEMORY_MIB_MAX)


def compare(report, base, given, scratch, arms):
    """Every arm in turn, `repeats` times; gives all runs."""
    all_runs = []
    for case, one_in in CASES.items():
        changes = scratch / case
        data("changes", changes, case, given.rows, given.rows // one_in, 0, 1)
        changes /= "0"
        runs = {name: [] for name in arms}
        for repeat in range(given.repeats):
            for name, arm in arms.items():
                flags = ["--by-sum"] if repeat else []
                runs[name].append(once(arm, case, base, changes, scratch, *flags))
        if OWN.keys() <= runs.keys():
            tell_case(report, case, runs, files_at_least(base, changes))
        else:
            report.head(f"{case}: {given.repeats} merges each; medians")
            for name in runs:
                tell_run(report, runs[name], name)
                report.line(f"{name}: memory at most, MiB", f"{max(run.memory_mib for run in runs[name]):.0f}")
        all_runs += [run for its in runs.values() for run in its]
    return all_runs


def follow(report, base, given, scratch):
    """The series; gives all runs."""
    all_runs = []
    for kind, name in SERIES:
        folder = scratch / f"series-{kind}"
        if not folder.exists():
            # Other rounds than those of the single merges: a frame that a table has seen is not merged again.
            data("changes", folder, kind, given.rows, given.rows // SERIES_ONE_IN, 1, given.series)
        changes = [folder / str(number) for number in range(1, given.series + 1)]
        runs = series(OWN[name], kind, base, changes, scratch)
        tell_series(report, runs, kind, name)
        all_runs += runs
    return all_runs


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--series", type=int, default=100, help="merges that follow each other; 0: none")
    parser.add_argument("--reference-only", action="store_true", help="without the binary")
    parser.add_argument("--json", type=Path, default=TARGET / "bench-merge.json", help="where all runs are written to")
    given = parser.parse_args()
    if not given.reference_only and not BINARY.exists():
        sys.exit(f"{BINARY} does not exist: `make build` makes it")
    if given.series and given.series < 2 * SERIES_END:
        parser.error(f"--series must be 0 or at least {2 * SERIES_END}")

    base = base_table(given.rows)
    report = Report()
    arms = OTHERS if given.reference_only else {**OWN, **OTHERS}
    # On the base's file system, since data files are linked.
    with tempfile.TemporaryDirectory(prefix="run-", dir=CACHE) as scratch:
        runs = compare(report, base, given, Path(scratch), arms)
        if given.series and not given.reference_only:
            runs += follow(report, base, given, Path(scratch))
    given.json.write_text(json.dumps({"rows": given.rows, "runs": list(map(asdict, runs))}, indent=1))
    report.head(f"every run: {given.json}")
    report.head("all targets met" if report.is_met else "targets were MISSED, see above")


if __name__ == "__main__":
    main()

"""The quickstart from an empty store, as a new user runs it: what it prints, how long each stage takes, what comes out.

The output is kept as it was printed, less the lines of progress, and goes into the READMEs; the closing table has the
three rows of everything that can be judged: a trivial baseline, the model, and where there is one the oracle.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time

import contest


def install(folder: str) -> tuple[str, float]:
    """Clone what is committed and install it as `make demo` does; the Python of it, and how long that took."""
    subprocess.run(["git", "clone", "--quiet", contest.HERE.parent, f"{folder}/clone"], check=True)
    begin = time.perf_counter()
    subprocess.run(["make", "install"], cwd=f"{folder}/clone", check=True, capture_output=True)
    return f"{folder}/clone/.venv/bin/python", time.perf_counter() - begin


def main(budget: str | None, fresh: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        python, installing = install(folder) if fresh else (sys.executable, None)
        command = [python, "-m", "danlu.cli.main", "run", "quickstart", "--no-serve", "--json"]
        command += ["--store", f"{folder}/store", *(["--budget", budget] if budget else [])]
        begin = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True)
        seconds = time.perf_counter() - begin
        if done.returncode:
            sys.exit(done.stderr)
        made = json.loads(done.stdout.splitlines()[-1])
        sizes = {}
        for name, artifact in made["artifacts"].items():
            shown = [*command[:3], "show", artifact, "--json", "--store", f"{folder}/store"]
            manifest = json.loads(
                subprocess.run(shown, capture_output=True, text=True, check=True).stdout.splitlines()[-1]
            )
            sizes[name] = {"seconds": manifest["seconds"], "files": manifest["files"]}
    lines = [line for line in done.stderr.splitlines() if line.startswith(("+", "!"))]
    result = {
        "what": f"danlu run quickstart --no-serve{f' --budget {budget}' if budget else ''}, from an empty store",
        "seconds": seconds,
        "install_seconds": installing,
        "stages": {name: one["seconds"] for name, one in sizes.items()},
        "sizes": {name: sum(f["size"] for f in one["files"].values()) for name, one in sizes.items()},
        "metrics": made["metrics"],
        "output": lines,
    }
    print("\n".join(lines))
    if installing is not None:
        print(f"{installing:.0f} s to install")
    print(f"{seconds:.0f} s in all; wrote {contest.write_result('quickstart', result)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", help="as danlu run --budget")
    parser.add_argument("--fresh", action="store_true", help="clone and install first, as `make demo` does")
    arguments = parser.parse_args()
    main(arguments.budget, arguments.fresh)

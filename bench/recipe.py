"""A bundled recipe from an empty store, as a new user runs it: what is printed, how long it takes, what comes out.

    python bench/recipe.py quickstart --fresh         clone, install and run, as `make demo SERVE=0` does
    python bench/recipe.py poet --store DIR           a store that may have some or all of it: times are the manifests'

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


def main(recipe: str, budget: str | None, fresh: bool, store: str | None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        python, installing = install(folder) if fresh else (sys.executable, None)
        command = [python, "-m", "danlu.cli.main", "run", recipe, "--no-serve", "--json"]
        place = store or f"{folder}/store"
        command += ["--store", place, *(["--budget", budget] if budget else [])]
        begin = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True)
        seconds = time.perf_counter() - begin
        if done.returncode:
            sys.exit(done.stderr)
        made = json.loads(done.stdout.splitlines()[-1])
        sizes = {}
        for name, artifact in made["artifacts"].items():
            shown = [*command[:3], "show", artifact, "--json", "--store", place]
            manifest = json.loads(
                subprocess.run(shown, capture_output=True, text=True, check=True).stdout.splitlines()[-1]
            )
            sizes[name] = {"seconds": manifest["seconds"], "files": manifest["files"]}
    lines = [line for line in done.stderr.splitlines() if line.startswith(("+", "!"))]
    result = {
        "what": f"danlu run {recipe} --no-serve{f' --budget {budget}' if budget else ''}, from an empty store",
        "seconds": sum(one["seconds"] for one in sizes.values()) if store else seconds,
        "install_seconds": installing,
        "stages": {name: one["seconds"] for name, one in sizes.items()},
        "sizes": {name: sum(f["size"] for f in one["files"].values()) for name, one in sizes.items()},
        "metrics": made["metrics"],
        "output": lines,
    }
    print("\n".join(lines))
    if installing is not None:
        print(f"{installing:.0f} s to install")
    print(f"{seconds:.0f} s in all; wrote {contest.write_result(recipe, result)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--budget", help="as danlu run --budget")
    parser.add_argument("--store", help="use and keep this store")
    parser.add_argument("--fresh", action="store_true", help="clone and install first, as `make demo` does")
    arguments = parser.parse_args()
    main(arguments.recipe, arguments.budget, arguments.fresh, arguments.store)

"""How much CPU `swift-submit` costs before it does anything, beside a bare click program.

CPU seconds (user + system) of child processes, least of N runs each, taken in turns so that a busy machine is busy for
all of them.

    python bench/startup.py [--runs 20] [--limit 1.5]

Exits 1 when `swift-submit --help` costs more than LIMIT times the bare program.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

BARE = """
import click

@click.group()
def cli():
    "A bare click program."

@cli.command()
@click.option("--name", help="A name.")
def hello(name):
    "Say hello."

cli()
"""
REQUEST = """
import httpx2
try:
    httpx2.Client().post("http://127.0.0.1:9/access/v1/evaluation", json={"action": {"name": "submit"}})
except httpx2.TransportError as error:
    print(error)
"""


def cpu_seconds(command: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--limit", type=float, default=1.5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bare = Path(folder) / "bare.py"
        bare.write_text(BARE)
        ours = [sys.executable, "-c", "from trainer.cli import main; main()"]
        commands = {
            "python -c pass": [sys.executable, "-c", "pass"],
            "bare click --help": [sys.executable, str(bare), "--help"],
            "swift-submit --help": [*ours, "--help"],
            "swift-submit --version": [*ours, "--version"],
            "swift-submit run --help": [*ours, "run", "--help"],
            "swift-submit runs list --help": [*ours, "runs", "list", "--help"],
            "usage error": [*ours, "rn"],
            "bare httpx2 request, refused": [sys.executable, "-c", REQUEST],
            "can-i, registry away": [*ours, "--server", "http://127.0.0.1:9", "can-i", "submit", "dpo"],
            "tags list, registry away": [*ours, "--server", "http://127.0.0.1:9", "tags", "list"],
        }
        least = dict.fromkeys(commands, float("inf"))
        for _ in range(options.runs):
            for name, command in commands.items():
                least[name] = min(least[name], cpu_seconds(command))
    base = least["bare click --help"]
    print(f"{'CPU, least of ' + str(options.runs):<32}{'ms':>8}{'ratio to bare click':>22}")
    for name, seconds in least.items():
        print(f"{name:<32}{seconds * 1000:>8.1f}{seconds / base:>22.2f}")
    ratio = least["swift-submit --help"] / base
    print(f"limit for --help: {options.limit}; measured: {ratio:.2f}")
    return 0 if ratio <= options.limit else 1


if __name__ == "__main__":
    sys.exit(main())

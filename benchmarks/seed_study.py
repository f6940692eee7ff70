"""The study that kd_tune starts from, done again: hard labels, a teacher, or both; and which of its claims hold.

    python benchmarks/seed_study.py                                     # on 5,000 embedded digits, a few minutes
    python benchmarks/seed_study.py search_spaces/seed_study.yaml search_spaces/seed_study_long.yaml \\
        --data cifar10.npz --page docs/seed_study.md

For every search file: the grid over alpha, temperature and rate; then three confirmations. In the first, all students
have temperature 4 and the rate that is best for alpha 0 there on validation images; in the second each has its own
rate, in the third its own temperature and rate: of the three best the one that is best on other seeds. Each opens the
test set once. What is there already is not done again; the page is written anew.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console
from seed_study_page import write_page
from seed_study_runs import study


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path("search_spaces/seed_study_mnist5k.yaml")
    parser.add_argument("files", nargs="*", type=Path, default=[default], help=f"search files [default: {default}]")
    parser.add_argument("--data", type=Path, help="where the data lie")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the runs, which are gone on with")
    parser.add_argument("--seeds", type=int, default=5, help="trainings of every student")
    parser.add_argument("--page", type=Path, help="the page to write [default: seed_study.md in the first run]")
    arguments = parser.parse_args()
    console = Console(highlight=False)
    parts = [
        study(file, arguments.runs / file.stem, arguments.data, arguments.seeds, console) for file in arguments.files
    ]
    page = arguments.page or arguments.runs / arguments.files[0].stem / "seed_study.md"
    write_page(parts, page, shown_command(arguments))
    console.print(f"page: {page}")


def shown_command(arguments: argparse.Namespace) -> str:
    """The command that makes the page; where somebody's files lie is their own affair."""
    options = [*map(str, arguments.files), *([f"--data {arguments.data.name}"] if arguments.data else [])]
    options += [f"--seeds {arguments.seeds}", *([f"--page {arguments.page}"] if arguments.page else [])]
    return f"python benchmarks/seed_study.py {' '.join(options)}"


if __name__ == "__main__":
    main()

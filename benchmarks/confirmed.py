"""A confirmed search as a result: the figures that `kd-tune confirm` found, the search that they come from, conditions.

    python run_search.py search_spaces/cifar10_narrow.yaml --name narrow
    kd-tune confirm runs/narrow --top 1 --seeds 5
    python benchmarks/confirmed.py runs/narrow --name narrow_student

Nothing is measured here: it reads the run and writes `NAME.json` and `NAME.md`.
"""

from __future__ import annotations

from pathlib import Path

from common import arguments_parser, table, write_result

from kd_tune import confirmation, results
from kd_tune.errors import ConfigError
from kd_tune.manifest import MANIFEST, Manifest
from kd_tune.paths import read_record
from kd_tune.run_state import RunState


def main() -> None:
    parser = arguments_parser(__doc__)
    parser.add_argument("run", type=Path, help="the folder of a confirmed search")
    parser.add_argument("--name", required=True, help="of the result")
    arguments = parser.parse_args()
    tables = results.read(arguments.run)
    found, place = confirmation.latest(arguments.run), confirmation.latest_folder(arguments.run)
    if found is None or place is None:
        raise ConfigError(f"{arguments.run}: is not confirmed; kd-tune confirm {arguments.run} does that")
    retrained = read_record(place / MANIFEST, Manifest)
    openings = [event["command"] for event in tables.state.test_openings]
    result = {
        "confirmation": found.model_dump(),
        "openings": openings,
        "search": tables.file.search.model_dump(),
        "trials": len(tables.state.trials),
        "epochs": _epochs(tables.state),
        "manifest": tables.manifest.model_dump(exclude={"source"}),
        "confirmation_manifest": retrained.model_dump(include={"created", "seed", "versions", "hardware"}),
    }
    manifest = tables.manifest
    teachers = [f"{name} ({facts.val_accuracy:.2%} on validation)" for name, facts in manifest.teachers.items()]
    made = [
        f"search file {manifest.search_file}; confirmed {found.created}",
        f"teachers: {', '.join(teachers)}",
        f"the search: {made_with(manifest)}",
        f"the confirmation's trainings: {made_with(retrained)}",
    ]
    shown = confirmation.shown_arms(found)
    markdown = f"""# {arguments.name.replace("_", " ").capitalize()}: a confirmed search

{found.num_images:,} test images, {found.num_seeds} fresh seeds of every chosen configuration. The search had
{len(tables.state.trials)} trials and trained {_epochs(tables.state):,} epochs. The test set was opened by:
{"; ".join(f"`{command}`" for command in openings)}.

{table(list(shown.columns), shown.to_numpy().tolist())}

{_list(confirmation.findings(found))}

## Configurations

{_list(confirmation.configurations(found))}

## Conditions

{_list(made)}
"""
    write_result(arguments.name, result, markdown, arguments.out)


def made_with(manifest: Manifest) -> str:
    """When, on which machine and with which versions a run was begun."""
    facts = manifest.hardware | manifest.versions
    return f"begun {manifest.created}; {', '.join(f'{name} {value}' for name, value in facts.items())}"


def _epochs(state: RunState) -> int:
    return sum(len(trial.rows) for trial in state.trials.values())


def _list(lines: list[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


if __name__ == "__main__":
    main()

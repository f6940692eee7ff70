"""The command `kd-tune doctor`: what is wrong with a set-up, before a search finds out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kd_tune.errors import ExitCode
from kd_tune.terminal import (
    AddressOption,
    AllowOption,
    DataOption,
    RunsOption,
    StorageOption,
    make_console,
)


def doctor(
    file: Annotated[Path | None, typer.Argument(help="A search file: are its data and teachers there?")] = None,
    data: DataOption = None,
    runs: RunsOption = Path("runs"),
    address: AddressOption = None,
    storage: StorageOption = None,
    allow_code: AllowOption = None,
) -> None:
    """Check a set-up: PASS, WARN or FAIL a line, each with the mend. Exit code 5 if anything fails.

    Versions, devices, memory, disk, shared memory, folders and storage that can be written, Ray's token, telemetry and
    dashboard; with a search file its data and teachers (image folders are decoded, as by a search); with --address the
    same on every node.
    """
    from kd_tune import doctor, user_code
    from kd_tune.findings import Verdict
    from kd_tune.search_file import load_search_file

    user_code.allow(allow_code or [])
    console = make_console()
    found = None if file is None else load_search_file(file)
    findings = doctor.examine(doctor.Setup(runs, found, data, address, storage))
    for finding in findings:
        console.print(str(finding))
    failures = sum(finding.verdict is Verdict.FAIL for finding in findings)
    warnings = sum(finding.verdict is Verdict.WARN for finding in findings)
    console.print(f"{len(findings)} checks: {failures} failed, {warnings} warnings")
    raise typer.Exit(ExitCode.ENVIRONMENT if failures else ExitCode.DONE)

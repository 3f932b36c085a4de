"""What each worker of a run did, when and on which device, for the run's report."""

import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from latentmix.storage import read_checked_json, write_checked_json

FOLDER = "records"


def write_record(work: Path, began: float, device: str, spent: Mapping[str, tuple[int, float]]) -> None:
    """Write what a worker did from the time `began` until now; `spent` has images and seconds by stage.

    Static shards have no folder `work`, and leave no record.
    """
    if not work.is_dir():
        return
    ended = datetime.now(UTC)
    record = {
        "ended": ended.isoformat(timespec="seconds"),
        "seconds": round(ended.timestamp() - began, 1),
        "device": device,
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
        "stages": spent,
    }
    write_checked_json(work / FOLDER / f"{platform.node()}-{os.getpid()}-{ended.timestamp():.0f}.json", record)


def read_records(work: Path) -> list[dict[str, Any]]:
    """Return the records of a run's workers, in order of their ends, without damaged ones."""
    records = [read_checked_json(path) for path in (work / FOLDER).glob("*.json")]
    return sorted((record for record in records if record), key=lambda record: record["ended"])

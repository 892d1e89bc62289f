"""The records of a `results.json` as the file has them."""

import json
from pathlib import Path
from typing import Any


def read_records(path: Path) -> list[dict[str, Any]]:
    return json.loads(path.read_text())["records"]

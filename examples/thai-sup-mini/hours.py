"""Opens a finished data set with `datasets.load_dataset` and counts its rows and hours. Knows nothing of thaitool.

The hours are counted twice, from `duration_s` and from the decoded audio; exits 1 where the two differ by a second.
"""

from __future__ import annotations

import argparse
import io
import json
from collections import defaultdict
from pathlib import Path

import soundfile
from datasets import load_dataset

COLUMNS = [
    "task_id", "task_prompt", "data_id", "text", "label", "audio_flac", "sampling_rate", "num_channels",
    "duration_s",
]  # fmt: skip


def counted(root: Path, cache: str) -> dict[str, dict[str, float]]:
    """Rows and seconds by task and split."""
    found: dict[str, dict[str, float]] = {}
    folders = sorted(p for p in root.glob("*/*") if p.is_dir() and p.parent.name.isupper())
    for folder in folders:
        files = sorted(str(p) for p in folder.glob("*.parquet"))
        if not files:
            continue
        rows = load_dataset("parquet", data_files=files, split="train", cache_dir=cache)
        if rows.column_names != COLUMNS:
            raise SystemExit(
                f"{folder} must have the columns {COLUMNS}, but has {rows.column_names}."
            )
        seconds: dict[str, float] = defaultdict(float)
        for row in rows:
            sound = soundfile.info(io.BytesIO(row["audio_flac"]))
            seconds["decoded_s"] += sound.frames / sound.samplerate
            seconds["duration_s"] += row["duration_s"]
        found[f"{folder.parent.name}/{folder.name}"] = {"rows": len(rows), **seconds}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="+", type=Path, help="Directories that synth wrote.")
    parser.add_argument("--out", type=Path, help="JSON of what was counted.")
    given = parser.parse_args()
    found: dict[str, dict[str, float]] = {}
    for root in given.data:
        found |= counted(root, str(given.data[0].parent / "cache"))
    hours = sum(part["decoded_s"] for part in found.values()) / 3600
    for name, part in found.items():
        print(f"{name:10} {part['rows']:6} rows {part['decoded_s'] / 3600:7.3f} h")
    rows = sum(int(part["rows"]) for part in found.values())
    print(f"{'all':10} {rows:6} rows {hours:7.3f} h")
    if given.out is not None:
        total = {"parts": found, "rows": rows, "hours": round(hours, 4)}
        given.out.write_text(json.dumps(total, indent=2) + "\n", "utf-8")
    for name, part in found.items():
        if abs(part["decoded_s"] - part["duration_s"]) > 1:
            raise SystemExit(f"The hours of {name} differ: {part}.")


if __name__ == "__main__":
    main()

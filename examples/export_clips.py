"""Writes a few clips of a Thai-SUP directory as FLAC files, with their labels beside, to try `thaitool infer` on.

Usage: python export_clips.py --data out/thai-sup --split test --task IC --count 3 --out out/clips
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path

from thaitool.data.shards import read_audio, read_thai_sup


def main() -> None:
    """Spreads the clips evenly over the split; `paths.txt` lists them, `labels.jsonl` says what is right."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", default="test")
    parser.add_argument("--task", default="IC")
    parser.add_argument("--count", type=int, default=3)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    rows = [u for u in read_thai_sup(args.data, split=args.split) if u.task == args.task.lower()]
    chosen = [rows[i * len(rows) // args.count] for i in range(min(args.count, len(rows)))]
    if args.out.exists() and any(args.out.iterdir()) and not (args.out / "labels.jsonl").exists():
        sys.exit(f"export_clips: {args.out} holds other files; choose another --out")
    shutil.rmtree(args.out, ignore_errors=True)
    args.out.mkdir(parents=True)
    labels = []
    for row in chosen:
        file = args.out / f"{row.id}.flac"
        file.write_bytes(read_audio(row.audio))
        labels.append(
            {"path": str(file), "text": row.text, "label": row.label, "speaker": row.speaker}
        )
    lines = "".join(json.dumps(label, ensure_ascii=False) + "\n" for label in labels)
    (args.out / "labels.jsonl").write_text(lines, "utf-8")
    # Last: make takes it as the sign that all clips are there.
    (args.out / "paths.txt").write_text("".join(f"{label['path']}\n" for label in labels), "utf-8")


if __name__ == "__main__":
    main()

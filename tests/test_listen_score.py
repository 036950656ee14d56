"""Files of ratings to scores: sums by hand, refusals with reasons, and raters who do not listen."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import listening
from tests.conftest import Program
from tests.listening import Answer, attentive, careless, rows_of, save
from thaitool.errors import InputError
from thaitool.listening.key import Clip, Key, key_path, read_key
from thaitool.metrics.transcripts import cer
from thaitool.stages import listen

RATERS = ("rater-1", "rater-2", "rater-3")


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("score")
    real, data = listening.stored(base, 8, "real"), listening.stored(base)
    made = listen.pack(
        data, base / "pack", items=12, canaries=8, anchors=real, anchor_items=4, written_share=0.5
    )
    return made.out


@pytest.fixture(scope="module")
def key(pack: Path) -> Key:
    return read_key(key_path(pack))


def files(key: Key, folder: Path, *answers: Callable[[Clip], Answer]) -> list[Path]:
    return [
        save(folder / f"{rater}.csv", rows_of(key, rater, answer))
        for rater, answer in zip(RATERS, answers, strict=False)
    ]


def report(pack: Path, paths: list[Path], **settings: Any) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(listen.score(pack, paths, draws=100, **settings).to_json())
    return value


def scores(value: dict[str, Any], by: str, name: str) -> dict[str, Any]:
    (group,) = (g for g in value["groups"] if (g["by"], g["value"]) == (by, name))
    return {score["name"]: score for score in group["scores"]}


def test_sums_by_hand(pack: Path, key: Key, tmp_path: Path) -> None:
    def strict(clip: Clip) -> Answer:
        mark, tones, heard = attentive(clip)
        if clip.kind != "item":
            return mark, tones, heard
        return "2", "unsure" if clip.shown else "", heard[:-2]

    value = report(pack, files(key, tmp_path, attentive, strict))
    items = [clip for clip in key.clips.values() if clip.kind == "item"]
    shown = [clip for clip in items if clip.shown]
    written = [clip for clip in items if not clip.shown]
    assert shown
    assert written
    found = scores(value, "kind", "item")
    assert (found["mos"]["numerator"], found["mos"]["denominator"]) == (5 * 12, 2 * 12)
    assert found["mos"]["low"] < 2.5 < found["mos"]["high"]
    assert found["tones_right"]["value"] == found["tones_unsure"]["value"] == 0.5
    assert found["tones_right"]["denominator"] == 2 * len(shown)
    texts = [clip.text for clip in written]
    expected = cer([*texts, *texts], [*texts, *(text[:-2] for text in texts)], draws=1)
    sums = (found["cer"]["numerator"], found["cer"]["denominator"])
    assert sums == (expected.numerator, expected.denominator)
    assert scores(value, "kind", "anchor")["mos"]["value"] == 5  # apart from the items
    assert scores(value, "kind", "clipped")["mos"]["value"] == 1
    for by in ("task", "voice", "length"):
        parts = [g for g in value["groups"] if g["by"] == by]
        assert sum(g["clips"] for g in parts) == 12
        marks = [s for g in parts for s in g["scores"] if s["name"] == "mos"]
        assert sum(s["numerator"] for s in marks) == 60
    assert value["raters_without_file"] == ["rater-3"]
    assert value["missing"] == 0


def test_agreement_is_apart_from_how_strict_raters_are(
    pack: Path, key: Key, tmp_path: Path
) -> None:
    value = report(pack, files(key, tmp_path, attentive, attentive))
    alphas = {(a["of"], a["name"]): a["value"] for a in value["agreement"]}
    assert alphas["naturalness, all clips", "alpha_ordinal"] == 1
    assert alphas["tones, all clips", "alpha_nominal"] == 1
    # All rows of the data set have one mark: there is no disagreement that chance could have made.
    assert alphas["naturalness, data set", "alpha_ordinal"] is None


def test_who_does_not_listen_is_named_and_left_out_only_on_demand(
    pack: Path, key: Key, tmp_path: Path
) -> None:
    paths = files(key, tmp_path, attentive, careless)
    value = report(pack, paths)
    lines = {line["rater"]: line for line in value["raters"]}
    assert [lines[r]["failed"] for r in RATERS[:2]] == [False, True]
    assert (lines["rater-1"]["canaries_right"], lines["rater-1"]["canaries_told"]) == (8, 8)
    assert (lines["rater-2"]["canaries_right"], lines["rater-2"]["canaries_told"]) == (0, 8)
    assert not any(line["excluded"] for line in lines.values())
    assert scores(value, "kind", "item")["mos"]["value"] == 4
    assert "rater-2 took more than 20% of the spoilt clips" in value["notes"][0]

    without = report(pack, paths, exclude_failed=True)
    assert scores(without, "kind", "item")["mos"]["value"] == 3
    assert [line["excluded"] for line in without["raters"]] == [False, True]
    assert "is left out of all scores" in without["notes"][0]
    with pytest.raises(InputError, match="nothing is left to score"):
        report(pack, paths[1:], exclude_failed=True)


def test_who_finds_nothing_good_is_not_tested_by_spoilt_clips(
    pack: Path, key: Key, tmp_path: Path
) -> None:
    def sour(clip: Clip) -> Answer:
        return ("1", "unsure", "") if clip.shown else ("1", "", "-")

    paths = files(key, tmp_path, attentive, sour)
    value = report(pack, paths)
    assert [line["finds_good"] for line in value["raters"]] == [True, False]
    told = "rater-2 called no clip good, so that the spoilt clips cannot show"
    assert [note.startswith(told) for note in value["notes"]].count(True) == 1
    listen.score(pack, paths, draws=100, out=tmp_path / "out")
    lines = (tmp_path / "out" / "report.md").read_text("utf-8").splitlines()
    verdicts = {c[1].strip(): c[-2].strip() for c in (line.split("|") for line in lines) if c[1:]}
    assert (verdicts["rater-1"], verdicts["rater-2"]) == ("passed", "not tested")


def test_missing_ratings_are_counted_and_scored_by_nobody(
    pack: Path, key: Key, tmp_path: Path
) -> None:
    def half(clip: Clip) -> Answer:
        if clip.kind != "item":
            return "", "", ""
        return ("3", "", "") if clip.shown else ("3", "", "-")

    value = report(pack, files(key, tmp_path, half))
    items = [clip for clip in key.clips.values() if clip.kind == "item"]
    shown = sum(bool(clip.shown) for clip in items)
    assert value["missing"] == len(key.clips) - len(items) + shown
    found = scores(value, "kind", "item")
    assert found["mos"]["denominator"] == len(items)
    assert "tones_right" not in found
    assert found["cer"]["value"] == 1  # "-" says that nothing was understood
    (line,) = value["raters"]
    assert (line["canaries_told"], line["failed"]) == (0, False)


def test_files_that_are_not_the_page_are_refused_with_reasons(
    pack: Path, key: Key, tmp_path: Path
) -> None:
    good = files(key, tmp_path, attentive, attentive)
    rows = rows_of(key, "rater-3", attentive)
    text = good[0].read_text("utf-8-sig")

    def bad(name: str, lines: list[list[str]]) -> Path:
        return save(tmp_path / name, lines)

    edited = tmp_path / "edited.csv"
    edited.write_text(text.replace(",3,yes,", ",5,yes,", 1), "utf-8")
    cut = tmp_path / "cut.csv"
    cut.write_text("\n".join(text.splitlines()[:5]) + "\n", "utf-8")
    latin = tmp_path / "latin.csv"
    latin.write_bytes(text.encode("tis-620", "replace"))
    sheet_file = tmp_path / "sheet.csv"
    sheet_file.write_text(text.replace(",", ";"), "utf-8-sig")
    empty = tmp_path / "empty.csv"
    empty.write_bytes(b"")
    elsewhere = [["0123456789ab", *row[1:]] for row in rows]
    renamed = [[row[0], "rater-9", *row[2:]] for row in rows]
    sheet = [[*row[:3], "7", *row[4:]] for row in rows]
    refused = [
        (good[0], "it is a second file of rater-1"),
        (edited, "it was changed after the page saved it"),
        (cut, "its last line is missing"),
        (latin, "it is not UTF-8"),
        (sheet_file, "it was saved anew by a spreadsheet, with other separators"),
        (empty, "its last line is missing"),
        (
            bad("elsewhere.csv", elsewhere),
            f"it is of pack 0123456789ab, but the key is of {key.pack}",
        ),
        (bad("renamed.csv", renamed), "it is of rater-9, but the raters are rater-1, rater-2"),
        (bad("twice.csv", [*rows, rows[0]]), "its 25 clips are not the 24 of the page of rater-3"),
        (bad("fewer.csv", rows[1:]), "its 23 clips are not the 24"),
        (bad("sorted.csv", sorted(rows)), "in their order"),
        (bad("range.csv", sheet), "has '7' and"),
        (tmp_path / "nowhere.csv", "it cannot be read (No such file"),
    ]
    with pytest.raises(InputError) as caught:
        report(pack, [*good, *(path for path, _ in refused)])
    head, *told = str(caught.value).splitlines()
    assert head == f"{len(refused)} of {len(refused) + 2} files of ratings cannot be used:"
    for (path, reason), line in zip(refused, told, strict=True):
        assert line.startswith(f"  - {path}: ")
        assert reason in line


def test_one_rater_is_no_sample_of_people(pack: Path, key: Key, tmp_path: Path) -> None:
    first, second = files(key, tmp_path, attentive, careless)
    told = "the intervals say nothing about other people"
    alone = report(pack, [first])
    assert any(note.startswith("All scores are of rater-1 alone") for note in alone["notes"])
    assert {a["value"] for a in alone["agreement"]} == {None}
    assert not any(told in note for note in report(pack, [first, second])["notes"])
    left = report(pack, [first, second], exclude_failed=True)
    assert any(told in note for note in left["notes"])
    with pytest.raises(InputError, match="There are no ratings to score"):
        report(pack, [])


def test_line_ends_of_mail_change_nothing(pack: Path, key: Key, tmp_path: Path) -> None:
    (file,) = files(key, tmp_path, attentive)
    before = report(pack, [file])
    text = file.read_text("utf-8-sig").replace("\n", "\r\n") + "\r\n"
    file.write_bytes(text.encode("utf-8"))
    after = report(pack, [file])
    assert after["groups"] == before["groups"]


def test_a_pack_is_found_from_inside(
    pack: Path, key: Key, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (file,) = files(key, tmp_path, attentive)
    monkeypatch.chdir(pack)
    assert report(Path(), [file])["pack"] == key.pack
    assert key_path(Path("pack")) == Path("pack.key.json")


def test_a_key_is_needed_and_checked(pack: Path, key: Key, tmp_path: Path) -> None:
    (file,) = files(key, tmp_path, attentive)
    with pytest.raises(InputError, match=r"gone\.key\.json must be the key .* Give its place"):
        report(tmp_path / "gone", [file])
    damaged = tmp_path / "damaged.json"
    for text in ("{}", "[]", '{"format": "other"}', key_path(pack).read_text("utf-8")[:-200]):
        damaged.write_text(text, "utf-8")
        with pytest.raises(InputError, match="must be the key of a listening pack, but is not"):
            report(pack, [file], key=damaged)


def test_the_command_line(pack: Path, key: Key, tmp_path: Path, program: Program) -> None:
    paths = files(key, tmp_path, attentive, careless)
    names = [str(path) for path in paths]
    options = ["--draws", "100", "--out", str(tmp_path / "out")]
    done = program("listen", "score", str(pack), *names, *options)
    assert done.returncode == 0, done.stderr.decode()
    printed = done.stdout.decode()
    assert "Krippendorff's alpha" in printed
    assert "0 of 8" in printed
    assert "- rater-2 took more than 20%" in printed
    written = json.loads((tmp_path / "out" / "report.json").read_text("utf-8"))
    assert written["groups"] == report(pack, paths)["groups"]
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert "flat_tones" in page
    assert "://" not in page
    assert "| rater-2 |" in (tmp_path / "out" / "report.md").read_text("utf-8")

"""What a listening pack holds, and what its pages do not tell."""

from __future__ import annotations

import base64
import io
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from tests import listening
from thaitool.audio.loudness import HIGHEST_PEAK, TARGET_LUFS, loudness_lufs
from thaitool.data.manifest import Manifest, from_utterances, write_manifest
from thaitool.errors import ConfigError, InputError
from thaitool.listening.choose import LONGEST_S, fit_to_hear, sample
from thaitool.listening.key import Key, read_key
from thaitool.listening.page import PageClip, page_html
from thaitool.listening.spoil import SPOILT
from thaitool.records import AudioRef, Utterance
from thaitool.stages import listen


def content(page: Path) -> dict[str, Any]:
    """What the page holds as data."""
    found = re.search(r'id="content">(.*?)</script>', page.read_text("utf-8"), re.DOTALL)
    assert found is not None
    value: dict[str, Any] = json.loads(found[1])
    return value


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> listen.Packed:
    base = tmp_path_factory.mktemp("listen")
    real = listening.stored(base, 8, "real")
    data = listening.stored(base)
    sizes: dict[str, Any] = {"items": 12, "canaries": 8, "anchor_items": 4, "raters": 3}
    return listen.pack(data, base / "pack", anchors=real, written_share=0.5, **sizes)


@pytest.fixture(scope="module")
def key(made: listen.Packed) -> Key:
    return read_key(made.key)


def test_a_pack_has_what_was_asked_for(made: listen.Packed, key: Key) -> None:
    kinds = Counter(clip.kind for clip in key.clips.values())
    assert kinds == {"item": 12, "anchor": 4} | {str(kind): 2 for kind in SPOILT}
    assert len({clip.data_id for clip in key.clips.values()}) == made.clips == 24
    for clip in key.clips.values():
        assert clip.data_id.startswith("real" if clip.kind == "anchor" else "synthetic")
        spoilt = clip.kind in SPOILT
        assert clip.shown or not spoilt  # nobody writes a spoilt clip down
        assert (clip.shown not in {"", clip.text}) == (clip.kind == "wrong_text")
        if (
            clip.kind == "wrong_text"
        ):  # of the data set, but of no clip: a text shown twice would tell
            assert clip.shown.startswith("ประโยค")
            assert clip.shown not in {c.text for c in key.clips.values()}
    assert sum(not clip.shown for clip in key.clips.values()) == 8  # half of items and anchors
    assert sorted(p.name for p in made.out.iterdir()) == sorted(made.pages)


def test_each_rater_has_all_clips_in_another_order_under_other_names(
    made: listen.Packed, key: Key
) -> None:
    names = [name for order in key.orders.values() for name in order]
    assert len(set(names)) == len(names) == 3 * 24
    orders = [tuple(order.values()) for order in key.orders.values()]
    assert len(set(orders)) == 3
    assert {frozenset(order) for order in orders} == {frozenset(key.clips)}
    for rater, order in key.orders.items():
        shown = content(made.out / f"{rater}.html")
        assert (shown["pack"], shown["rater"]) == (key.pack, rater)
        assert [clip["name"] for clip in shown["clips"]] == list(order)
        assert [c["text"] for c in shown["clips"]] == [key.clips[c].shown for c in order.values()]


def test_a_page_tells_nothing_about_its_clips(made: listen.Packed, key: Key) -> None:
    page = (made.out / "rater-1.html").read_text("utf-8")
    page = re.sub(r'"flac":"[^"]*"', "", page)  # chance has any three letters in there
    known = {c.data_id for c in key.clips.values()} | {c.source_id for c in key.clips.values()}
    known |= {"voice0", "anchor", "canar", "spoilt", *SPOILT, key.data, str(made.out.parent)}
    assert [word for word in known if word in page] == []
    assert "://" not in page
    keys = {name for clip in content(made.out / "rater-1.html")["clips"] for name in clip}
    assert keys == {"name", "text", "flac"}


def spoken(folder: Path, texts: Sequence[str], sources: Sequence[str] = ()) -> Path:
    """A manifest of clips that say these texts, each of a source of its own unless they are given."""
    rows = [
        replace(u, text=text, source_id=sources[k] if sources else u.source_id)
        for k, (u, text) in enumerate(
            zip(_all(listening.data(folder, len(texts))), texts, strict=True)
        )
    ]
    path = folder / "spoken.arrow"
    write_manifest(from_utterances(rows), path)
    return path


def _all(manifest: Manifest) -> list[Utterance]:
    return [manifest[k] for k in range(len(manifest))]


def test_no_rater_reads_a_sentence_that_they_write_down(tmp_path: Path) -> None:
    """As the rows of synth: transcription and entities of one sentence, in two voices."""
    twice = [f"ประโยค {'กขคงจฉ'[k // 2]}" for k in range(12)]
    data = spoken(tmp_path, [*twice, *(f"อื่น {letter}" for letter in "กขคงจฉชซ")])
    settings: dict[str, Any] = {"items": 16, "canaries": 4, "raters": 1}
    for seed in range(3):
        made = listen.pack(
            data, tmp_path / f"pack-{seed}", written_share=0.25, seed=seed, **settings
        )
        clips = read_key(made.key).clips.values()
        written = [clip.text for clip in clips if not clip.shown]
        assert len(written) == 4
        assert not {clip.shown for clip in clips} & set(written)
        assert all([clip.text for clip in clips].count(text) == 1 for text in written)
    with pytest.raises(
        InputError, match=r"16 clips are to be written down, but only \d say a sent"
    ):
        listen.pack(data, tmp_path / "all", written_share=1, **settings)


def test_a_wrong_text_is_of_another_sentence(tmp_path: Path) -> None:
    alike = spoken(tmp_path, ["หนึ่ง", "สอง", "สาม", "สี่", "ห้า"], ["one"] * 5)
    with pytest.raises(InputError, match="All clips of the pack have one source"):
        listen.pack(alike, tmp_path / "pack", items=1, canaries=4, raters=1, written_share=0)
    # All rows are in the pack: one of the shown texts comes twice, but none that is written down.
    few = spoken(tmp_path, [f"ข้อ {letter}" for letter in "กขคงจฉชซ"])
    settings: dict[str, Any] = {"items": 4, "canaries": 4, "raters": 1}
    for seed in range(4):
        made = listen.pack(few, tmp_path / f"few-{seed}", written_share=0.75, seed=seed, **settings)
        clips = list(read_key(made.key).clips.values())
        (wrong,) = (clip for clip in clips if clip.kind == "wrong_text")
        (owner,) = (clip for clip in clips if clip.text == wrong.shown)
        assert owner.shown == owner.text
        assert owner.source_id != wrong.source_id


def test_clips_are_equally_loud(made: listen.Packed) -> None:
    for clip in content(made.out / "rater-2.html")["clips"]:
        samples, rate_hz = soundfile.read(
            io.BytesIO(base64.b64decode(clip["flac"])), dtype="float32"
        )
        assert rate_hz == 16_000
        at_the_limit = float(np.abs(samples).max()) > HIGHEST_PEAK - 1e-3
        assert at_the_limit or loudness_lufs(samples) == pytest.approx(TARGET_LUFS, abs=0.1)


def test_the_same_arguments_make_the_same_pack(made: listen.Packed, tmp_path: Path) -> None:
    data = made.out.parent / "synthetic.arrow"
    settings: dict[str, Any] = {"items": 6, "canaries": 4, "raters": 1}
    first = listen.pack(data, tmp_path / "a", **settings)
    again = listen.pack(data, tmp_path / "b", **settings)
    other = listen.pack(data, tmp_path / "c", **settings, seed=1)
    pages = [(one.out / "rater-1.html").read_bytes() for one in (first, again, other)]
    assert pages[0] == pages[1] != pages[2]
    assert first.pack == again.pack != other.pack


def silent_rows(tasks: str, voices: str) -> Manifest:
    """Rows of no audio: what is drawn does not open it."""
    rows = [
        Utterance(f"{k}", AudioRef("x"), 1 + k % 7, 16_000, text="ก", task=task, speaker=voice)
        for k, (task, voice) in enumerate(zip(tasks, voices, strict=True))
    ]
    return from_utterances(rows)


def test_tasks_voices_and_durations_have_their_shares() -> None:
    manifest = silent_rows("a" * 600 + "b" * 300, "vvw" * 300)
    rows = np.arange(900)
    for seed in range(20):
        drawn = sample(manifest, rows, 90, np.random.default_rng(seed))
        assert len(set(drawn.tolist())) == 90
        some = [manifest[row] for row in drawn.tolist()]
        counts = Counter((u.task, u.speaker) for u in some)
        assert counts[("a", "v")] == pytest.approx(40, abs=1)
        assert counts[("a", "w")] == pytest.approx(20, abs=1)
        assert counts[("b", "w")] == pytest.approx(10, abs=1)
        mean_s = np.mean([u.duration_s for u in some])
        assert mean_s == pytest.approx(float(manifest.duration_s.mean()), abs=0.2)


def test_every_row_is_as_likely_as_any_other() -> None:
    manifest = silent_rows("a" * 20 + "b" * 10, "vw" * 15)
    drawn = Counter(
        row
        for seed in range(600)
        for row in sample(manifest, np.arange(30), 10, np.random.default_rng(seed)).tolist()
    )
    assert set(drawn) == set(range(30))
    assert all(count == pytest.approx(200, abs=60) for count in drawn.values())


def test_rows_that_nobody_can_rate_are_not_drawn() -> None:
    rows = [
        Utterance("short", AudioRef("x"), 0.2, 16_000, text="ก"),
        Utterance("long", AudioRef("x"), LONGEST_S + 1, 16_000, text="ก"),
        Utterance("blank", AudioRef("x"), 2.0, 16_000, text=" "),
        Utterance("none", AudioRef("x"), 2.0, 16_000),
        Utterance("dev", AudioRef("x"), 2.0, 16_000, text="ก", split="dev"),
        Utterance("good", AudioRef("x"), 2.0, 16_000, text="ก", split="test"),
    ]
    manifest = from_utterances(rows)
    assert [manifest[k].id for k in fit_to_hear(manifest, None)] == ["dev", "good"]
    assert [manifest[k].id for k in fit_to_hear(manifest, "test")] == ["good"]


def test_recordings_that_cannot_be_used_are_counted(tmp_path: Path) -> None:
    rows = _all(listening.data(tmp_path, 12))
    listed = tmp_path / "list.jsonl"
    lines = [
        json.dumps({"audio_filepath": u.audio.path, "duration": u.duration_s, "text": u.text})
        for u in rows
    ]
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"RIFF")
    lines.append(json.dumps({"audio_filepath": str(broken), "duration": 1.0, "text": "ก"}))
    listed.write_text("\n".join(lines), "utf-8")
    made = listen.pack(listed, tmp_path / "pack", items=4, canaries=0, raters=1)
    assert made.set_aside == 1


def test_text_cannot_break_out_of_a_page() -> None:
    text = '</script><script>alert("ก")</script>\u2028'
    page = page_html("p", "rater-1", [PageClip("AAAAA", text, b"fLaC")])
    assert page.count("<script") == 2  # the data, and the program
    assert text not in page


def test_what_makes_no_pack_is_refused(tmp_path: Path) -> None:
    data = listening.stored(tmp_path, 6)
    with pytest.raises(InputError, match="212 clips are wanted, but only 6 rows have a text"):
        listen.pack(data, tmp_path / "pack")
    with pytest.raises(ConfigError, match="--items must be 1 at least, but is 0; --written-share"):
        listen.pack(data, tmp_path / "pack", items=0, written_share=2)
    with pytest.raises(InputError, match="only 3 rows have a text"):
        listen.pack(data, tmp_path / "pack", items=4, canaries=0, split="test")
    with pytest.raises(ConfigError, match="--split must be one of train, dev, test, but is 'tset'"):
        listen.pack(data, tmp_path / "pack", items=4, split="tset")
    with pytest.raises(InputError, match="20 anchors are wanted, but only 6 rows have a text"):
        listen.pack(data, tmp_path / "pack", items=2, canaries=0, anchors=data)
    assert not (tmp_path / "pack.key.json").exists()
    listen.pack(data, tmp_path / "pack", items=2, canaries=0, raters=1)
    with pytest.raises(InputError, match="pack must be new"):
        listen.pack(data, tmp_path / "pack", items=2, canaries=0, raters=1)
    (tmp_path / "pack" / "rater-1.html").unlink()
    (tmp_path / "pack").rmdir()
    with pytest.raises(InputError, match=r"pack\.key\.json must be new"):
        listen.pack(data, tmp_path / "pack", items=2, canaries=0, raters=1)

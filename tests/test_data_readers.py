"""Lists of other tools, one by one: what they say, what they cannot say, and how each kind of mistake is named."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.lists import objects, split_up, write, write_sounds
from thaitool.data import formats
from thaitool.data.formats import recognise
from thaitool.data.scan import scan
from thaitool.errors import InputError

if TYPE_CHECKING:
    from tests.conftest import Tone


@pytest.fixture
def audio(tmp_path: Path, tone: Tone) -> Path:
    """See `write_sounds`."""
    return write_sounds(tmp_path / "audio", tone)


def test_fairseq(audio: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "train.tsv", str(audio), "a.wav\t16000", "gone.wav\t8", "b.flac\t32000")
    write(tmp_path / "train.ltr", "not read")
    assert recognise(path) == formats.FAIRSEQ
    utterances, rejected = split_up(path)
    assert [(u.id, u.audio.path, u.duration_s) for u in utterances] == [
        ("a.wav", str(audio / "a.wav"), 1.0),
        ("b.flac", str(audio / "b.flac"), 2.0),
    ]
    assert rejected == [(f"{path}:3", "missing")]
    # A root that is not absolute starts at the list.
    write(tmp_path / "near.tsv", "audio", "a.wav\t16000")
    assert split_up(tmp_path / "near.tsv")[0][0].audio.path == str(audio / "a.wav")


def test_the_scan_measures_what_fairseq_lists(audio: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "train.tsv", str(audio), "a.wav\t16000", "b.flac\t99999")
    manifest, rejected = scan([path], max_rejected_share=0.5)
    assert [(u.id, u.duration_s, u.sample_rate_hz) for u in (manifest[0],)] == [
        ("a.wav", 1.0, 16_000)
    ]
    assert [r.reason for r in rejected] == ["wrong_duration"]


def test_mistakes_are_counted_and_the_first_three_shown(audio: Path, tmp_path: Path) -> None:
    bad = [f"a.wav {k}" for k in range(5)]
    path = write(tmp_path / "train.tsv", str(audio), "a.wav\t16000", *bad, "b.flac\t1x")
    with pytest.raises(InputError) as caught:
        split_up(path)
    message = str(caught.value)
    assert message.startswith(f"{path} must be a fairseq TSV")
    assert "but 6 lines are not: line 3: 'a.wav 0' is no path, tab" in message
    assert "line 5: " in message
    assert "line 6: " not in message


@pytest.mark.parametrize("digits", [16, 400, 5_000])
def test_a_number_of_frames_that_no_recording_has_is_a_mistake_of_its_line(
    audio: Path, tmp_path: Path, digits: int
) -> None:
    """400 digits are no float, and 5,000 are more than Python reads."""
    for lines, place in (
        (["a.wav\t16000", "a.wav\t" + "9" * digits], 3),
        (["a.wav\t" + "9" * digits], 2),
    ):
        path = write(tmp_path / "train.tsv", str(audio), *lines)
        with pytest.raises(
            InputError, match=f"but 1 line is not: line {place}: .* is no path, tab"
        ):
            split_up(path)


def test_a_list_of_which_nothing_exists_says_where_it_looked(tmp_path: Path) -> None:
    path = write(tmp_path / "train.tsv", "/nowhere", "x/a.wav\t1", "x/b.wav\t1")
    with pytest.raises(InputError) as caught:
        split_up(path)
    message = str(caught.value)
    assert "none of its 2 exists: 'x/a.wav' (line 2) was looked for at /nowhere/x/a.wav" in message
    assert "Relative paths are taken from /nowhere" in message


def test_kaldi_recordings(audio: Path, tmp_path: Path) -> None:
    folder = tmp_path / "kaldi"
    write(
        folder / "wav.scp",
        f"r1 {audio}/a.wav",
        f"r2 flac -c -d -s {audio}/b.flac |",
        "r3 feats.ark:117",
        f"r4\t{audio}/b.flac",
    )
    write(folder / "text", "r1 สวัสดี ครับ", "r4")
    write(folder / "utt2spk", "r1 p1", "r4 p2")
    write(folder / "utt2dur", "r1 1.0", "r4 2.0")
    assert recognise(folder) == formats.KALDI
    utterances, rejected = split_up(folder)
    got = [(u.id, u.text, u.speaker, u.duration_s, u.end_s) for u in utterances]
    assert got == [("r1", "สวัสดี ครับ", "p1", 1.0, None), ("r4", None, "p2", 2.0, None)]
    listed = folder / "wav.scp"
    assert rejected == [(f"{listed}:2", "command"), (f"{listed}:3", "archive")]
    # The file alone, without what lies beside it.
    assert recognise(listed) == formats.KALDI
    alone, _ = split_up(listed)
    assert [(u.id, u.text, u.speaker) for u in alone] == [("r1", None, None), ("r4", None, None)]
    assert math.isnan(alone[0].duration_s)


def test_kaldi_commands_are_not_run(audio: Path, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    write(tmp_path / "k/wav.scp", f"r1 touch {mark} |", f"r2 | touch {mark}", f"r3 {audio}/a.wav")
    assert [reason for _, reason in split_up(tmp_path / "k")[1]] == ["command", "command"]
    assert not mark.exists()


def test_kaldi_segments_in_any_order(audio: Path, tmp_path: Path) -> None:
    folder = tmp_path / "kaldi"
    write(folder / "wav.scp", f"r1 {audio}/a.wav", f"r2 {audio}/b.flac", "r3 gone.wav")
    write(folder / "segments", "u3 r2 0.5 -1", "u1 r1 0.25 0.75", "u4 r3 0 1", "u2 r2 0.0 0.5")
    write(folder / "text", "u1 หนึ่ง", "u2 สอง", "u3 สาม", "u9 unused")
    utterances, rejected = split_up(folder)
    got = [(u.id, u.text, u.start_s, u.end_s, u.source_id) for u in utterances]
    assert got == [
        ("u3", "สาม", 0.5, None, "r2"),
        ("u1", "หนึ่ง", 0.25, 0.75, "r1"),
        ("u2", "สอง", 0.0, 0.5, "r2"),
    ]
    assert [u.duration_s for u in utterances[1:]] == [0.5, 0.5]
    assert rejected == [(f"{folder}/segments:3", "missing")]
    manifest, _ = scan([folder], max_rejected_share=0.5)
    assert manifest.duration_s.tolist() == [1.5, 0.5, 0.5]


@pytest.mark.parametrize(
    ("name", "lines", "message"),
    [
        ("wav.scp", ["r1"], "line 1: 'r1' is no id and path"),
        ("segments", ["u1 r1 0.5"], "line 1: 3 fields, not 4"),
        ("segments", ["u1 r1 0.5 0.5"], "no start and later end in seconds, but 0.5 and 0.5"),
        ("segments", ["u1 r1 nan 1"], "no start and later end in seconds, but nan and 1"),
        ("segments", ["u1 r9 0 1"], "recording 'r9' is not in wav.scp"),
        ("text", ["x1 a", "x2 b"], "none of its ids is; the first is 'x1'"),
        ("text", ["x a", "x b", "r1 c"], "line 2: 'x' occurs twice"),
        ("utt2dur", ["r1 long"], "must hold seconds, but 'r1' has 'long'"),
    ],
)
def test_kaldi_mistakes(
    audio: Path, tmp_path: Path, name: str, lines: list[str], message: str
) -> None:
    folder = tmp_path / "kaldi"
    write(folder / "wav.scp", f"r1 {audio}/a.wav")
    write(folder / name, *lines)
    with pytest.raises(InputError) as caught:
        split_up(folder)
    assert message in str(caught.value)
    assert f"{folder}/{name}" in str(caught.value)


def test_a_recording_listed_twice_is_refused_where_segments_refer_to_it(
    audio: Path, tmp_path: Path
) -> None:
    write(tmp_path / "k/wav.scp", f"r1 {audio}/a.wav", f"r1 {audio}/b.flac")
    write(tmp_path / "k/segments", "u1 r1 0 1")
    with pytest.raises(InputError, match="must list every recording once, but 'r1' occurs twice"):
        split_up(tmp_path / "k")


def test_kaldi_paths_may_start_at_the_working_directory(
    audio: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "data/train/wav.scp", "r1 audio/a.wav", "r2 audio/b.flac")
    monkeypatch.chdir(tmp_path)
    utterances, _ = split_up(Path("data/train"))
    assert [u.audio.path for u in utterances] == [str(audio / "a.wav"), str(audio / "b.flac")]
    # All from the same place: what the folder of the list holds for the first, it must hold for all.
    write(tmp_path / "data/train/audio/a.wav", "")
    first, rejected = split_up(Path("data/train"))
    assert [u.audio.path for u in first] == [str(tmp_path / "data/train/audio/a.wav")]
    assert rejected == [("data/train/wav.scp:2", "missing")]


def test_nemo(audio: Path, tmp_path: Path) -> None:
    path = objects(
        tmp_path / "train.jsonl",
        {"audio_filepath": "audio/a.wav", "duration": 1.0, "text": "หนึ่ง", "speaker": "p"},
        {"audio_filepath": str(audio / "b.flac"), "offset": 0.5, "duration": 1.25, "lang": "th"},
        {"audio_filepath": "s3://bucket/x.wav", "duration": 1.0},
        {"audio_filepath": "audio/gone.wav", "duration": 1.0},
    )
    assert recognise(path) == formats.NEMO
    utterances, rejected = split_up(path)
    whole, stretch = utterances
    assert (whole.id, whole.text, whole.speaker, whole.end_s) == (
        "audio/a.wav",
        "หนึ่ง",
        "p",
        None,
    )
    assert stretch.id == f"{audio}/b.flac@500-1750"
    assert (stretch.start_s, stretch.end_s, stretch.duration_s) == (0.5, 1.75, 1.25)
    assert rejected == [(f"{path}:3", "remote"), (f"{path}:4", "missing")]
    manifest, _ = scan([path], max_rejected_share=0.5)
    assert manifest.duration_s.tolist() == [1.0, 1.25]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"audio_filepath": 3}', "line 2: audio_filepath must be a path, but is '3'"),
        ('{"audio_filepath": "a", "duration": "1"}', "duration must be seconds"),
        ('{"audio_filepath": "a", "offset": -1}', "offset must be seconds of at least 0"),
        ('{"audio_filepath": "a", "duration": NaN}', "duration must be seconds"),
        ('{"audio_filepath": "a", "duration": 1e999}', "duration must be seconds"),
        ('{"audio_filepath": "a", "duration": true}', "duration must be seconds"),
        ('{"audio_filepath": "a", "text": ["b"]}', "text must be text, but is"),
        ('{"audio_filepath": "a', "line 2: no JSON ("),
        ("[" * 100_000, "line 2: no JSON ("),
        ("[1]", "line 2: a JSON list, not an object"),
        ('{"audio_filepath": "\\ud800.wav"}', "half a surrogate pair"),
        ('{"audio_filepath": "a", "shard_id": 0}', "Name the directory of the tars"),
    ],
)
def test_nemo_mistakes(audio: Path, tmp_path: Path, line: str, message: str) -> None:
    path = write(tmp_path / "m.jsonl", '{"audio_filepath": "audio/a.wav"}', line)
    with pytest.raises(InputError) as caught:
        split_up(path)
    assert message in str(caught.value)


def test_cuts_that_lhotse_wrote(audio: Path, tmp_path: Path) -> None:
    lhotse = pytest.importorskip("lhotse", reason="lhotse is not installed")
    mono = lhotse.Recording.from_file(audio / "b.flac")
    stereo = lhotse.Recording.from_file(audio / "s.wav")
    said = [
        lhotse.SupervisionSegment("s2", "b", 1.0, 0.9, text="สอง", speaker="p"),
        lhotse.SupervisionSegment("s1", "b", 0.1, 0.8, text="หนึ่ง", speaker="p"),
    ]
    whole = mono.to_cut().with_id("whole")
    whole.supervisions = said
    both = stereo.to_cut()
    cuts = [
        whole,
        whole.truncate(offset=0.5, duration=1.0).with_id("stretch"),
        both.with_id("both"),
        both.with_channels([0]).with_id("left"),
        whole.mix(whole, offset_other_by=1.0).with_id("mix"),
        whole.pad(3.0).with_id("padded"),
        whole.perturb_speed(1.1).with_id("fast"),
        lhotse.utils.fastcopy(whole, id="features", recording=None),
    ]
    for name in ("cuts.jsonl", "cuts.jsonl.gz"):
        path = tmp_path / name
        lhotse.CutSet.from_cuts(cuts).to_file(str(path))
        assert recognise(path) == formats.LHOTSE
        utterances, rejected = split_up(path)
        got = [(u.id, u.text, u.speaker, u.start_s, u.end_s, u.duration_s) for u in utterances]
        assert got == [
            ("whole", "หนึ่ง สอง", "p", 0.0, None, 2.0),
            ("stretch", None, "p", 0.5, 1.5, 1.0),  # its supervisions reach outside
            ("both", None, None, 0.0, None, 0.5),
        ]
        assert {u.audio.path for u in utterances} == {
            str(audio / "b.flac"),
            str(audio / "s.wav"),
        }
        reasons = ["channels", "mixed", "mixed", "transformed", "no_audio"]
        assert rejected == [(f"{path}:{k}", reason) for k, reason in enumerate(reasons, 4)]
        # What lhotse reads is what we say: same lengths, sample for sample.
        for u, cut in zip(utterances, cuts, strict=False):
            assert cut.num_samples == round(u.duration_s * u.sample_rate_hz)
        manifest, _ = scan([path], max_rejected_share=0.9)
        assert manifest.duration_s.tolist() == [2.0, 1.0, 0.5]


def cut(audio: Path) -> dict[str, object]:
    source = {"type": "file", "channels": [0], "source": str(audio / "a.wav")}
    recording = {"id": "a", "sources": [source], "sampling_rate": 16_000, "duration": 1.0}
    return {"id": "c", "start": 0, "duration": 1, "channel": 0, "recording": recording}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": 7}, "id must be text, but is '7'"),
        ({"start": -1}, "start and duration must be seconds, but are '-1' and '1'"),
        ({"duration": 0}, "start and duration must be seconds"),
        ({"recording": {"sources": "x"}}, "recording.sources must be a list of objects"),
        ({"recording": {"sources": [{"type": "file"}]}}, "source must be a path"),
        ({"supervisions": [1]}, "supervisions must be a list of objects"),
        ({"supervisions": [{"text": 1}]}, "supervision: text must be text"),
        ({"supervisions": [{"text": "a"}]}, "supervision: start and duration must be numbers"),
    ],
)
def test_lhotse_mistakes(
    audio: Path, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    path = objects(tmp_path / "cuts.jsonl", cut(audio), cut(audio) | change)
    with pytest.raises(InputError) as caught:
        split_up(path)
    assert f"line 2: {message}" in str(caught.value)


@pytest.mark.parametrize("kind", ["command", "url", "memory"])
def test_lhotse_sources_that_are_no_files(audio: Path, tmp_path: Path, kind: str) -> None:
    row = json.loads(json.dumps(cut(audio)))
    row["recording"]["sources"][0]["type"] = kind
    path = objects(tmp_path / "cuts.jsonl", cut(audio), row)
    assert split_up(path)[1] == [(f"{path}:2", "command" if kind == "command" else "no_file")]


def test_gzip_that_is_cut_short(audio: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [cut(audio) | {"id": rng.bytes(20).hex()} for _ in range(3_000)]
    packed = gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode())
    path = tmp_path / "cuts.jsonl.gz"
    path.write_bytes(packed[: len(packed) // 2])
    with pytest.raises(InputError, match="must be whole gzip data, but is damaged or cut short"):
        split_up(path)


def test_common_voice(audio: Path, tmp_path: Path) -> None:
    (tmp_path / "th").mkdir()
    audio.rename(tmp_path / "th/clips")
    path = write(
        tmp_path / "th/dev.tsv",
        "client_id\tpath\tsentence\tup_votes",
        "p\ta.wav\tสวัสดี\t2",
        "q\tgone.mp3\tก\t1",
        "r\tb.flac\t\t0",
    )
    assert recognise(path) == formats.COMMON_VOICE
    utterances, rejected = split_up(path)
    got = [(u.id, u.text, u.speaker, u.split) for u in utterances]
    assert got == [("a.wav", "สวัสดี", "p", "dev"), ("b.flac", None, "r", "dev")]
    assert rejected == [(f"{path}:3", "missing")]
    write(path, "client_id\tpath\tsentence", "p\ta.wav")
    with pytest.raises(InputError, match="line 2: 2 columns where the header has 3"):
        split_up(path)

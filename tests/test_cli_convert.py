"""`thaitool convert fairseq` as a user meets it: one command, its table and JSON, its refusals, its memory."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoFeatureExtractor, Wav2Vec2Config

from tests import fairseq_files as files
from thaitool.cli.console import guarded
from thaitool.cli.main import app
from thaitool.models.encoder import load_pretraining
from thaitool.models.encoders.interface import load_speech_encoder

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import Program

pytestmark = pytest.mark.usefixtures("signals")


def run(*args: object) -> int:
    return guarded(lambda: app([*map(str, args)], prog_name="thaitool", standalone_mode=False))


def pretrained(path: Path, **changes: Any) -> Path:
    content = files.entries(files.weights(files.TINY), files.sections(files.TINY, **changes))
    return files.save(path, content, form="zip-omegaconf")


def ctc(path: Path) -> Path:
    content = files.entries(
        files.ctc_weights(files.GROUP_NORM), files.ctc_sections(files.GROUP_NORM)
    )
    return files.save(path, content)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_one_command_gives_a_model_that_the_package_loads(tmp_path: Path, program: Program) -> None:
    checkpoint, out = pretrained(tmp_path / "checkpoint_best.pt"), tmp_path / "out"
    done = program("convert", "fairseq", str(checkpoint), "--out", str(out))
    assert (done.returncode, done.stderr) == (0, b"")
    for line in (
        "model      Wav2Vec2ForPreTraining, 36,816 parameters in 81 tensors",
        "training   1,234 updates",
        "audio      normalised",
        "left out   last_optimizer_state (0.3 MB)",
        f"source     sha256 {sha256(checkpoint)}",
        f"weights    sha256 {sha256(out / 'model.safetensors')}",
        f"directory  {out}",
    ):
        assert line in done.stdout.decode()
    assert sorted(p.name for p in out.iterdir()) == [
        "config.json", "model.safetensors", "preprocessor_config.json", "provenance.json",
    ]  # fmt: skip
    assert load_pretraining(out).config.hidden_size == 32
    assert load_speech_encoder(out).config.hidden_size == 32
    weights = load_file(out / "model.safetensors")
    source = files.weights(files.TINY)
    assert {t.dtype for t in weights.values()} == {torch.float32}
    assert sum(t.double().sum() for t in weights.values()) == sum(
        t.double().sum() for t in source.values()
    )
    assert torch.equal(weights["project_hid.weight"], source["final_proj.weight"])


def test_json_and_provenance_say_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, out = pretrained(tmp_path / "a.pt", normalize=False), tmp_path / "out"
    assert run("convert", "fairseq", checkpoint, "--out", out, "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    kept = json.loads((out / "provenance.json").read_text("utf-8"))
    assert printed.pop("out") == str(out)
    assert {k: kept[k] for k in printed} == printed
    assert printed["source_sha256"] == sha256(checkpoint)
    assert printed["weights_sha256"] == sha256(out / "model.safetensors")
    assert (printed["updates"], printed["normalize"], printed["source_dtypes"]) == (
        1234,
        False,
        ["float32"],
    )
    assert [d["entry"] for d in printed["dropped"]] == [
        "args", "cfg", "criterion", "optimizer_history", "task_state", "extra_state", "last_optimizer_state",
    ]  # fmt: skip
    assert (kept["source"], kept["source_bytes"]) == ("a.pt", checkpoint.stat().st_size)
    assert kept["fairseq_settings"]["layer_norm_first"] is True
    assert "data" not in kept["fairseq_settings"]
    assert str(tmp_path) not in (out / "provenance.json").read_text("utf-8")
    assert AutoFeatureExtractor.from_pretrained(out).do_normalize is False
    config = AutoConfig.from_pretrained(out)
    assert isinstance(config, Wav2Vec2Config)
    assert config.architectures == ["Wav2Vec2ForPreTraining"]


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    checkpoint = pretrained(tmp_path / "a.pt")
    for name in ("one", "two"):
        assert run("convert", "fairseq", checkpoint, "--out", tmp_path / name) == 0
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes(), file.name


def test_a_ctc_model_needs_its_dictionary(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, out = ctc(tmp_path / "a.pt"), tmp_path / "out"
    assert run("convert", "fairseq", checkpoint, "--out", out) == 3
    assert "Give dict.ltr.txt with --dictionary" in capsys.readouterr().err
    letters = files.dictionary(tmp_path / "dict.ltr.txt")
    assert run("convert", "fairseq", checkpoint, "--out", out, "--dictionary", letters) == 0
    assert "Wav2Vec2ForCTC" in capsys.readouterr().out
    assert load_speech_encoder(out).config.feat_extract_norm == "group"


def test_a_dictionary_in_the_checkpoint_is_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """fairseq 1.0 keeps it in task_state."""
    content = files.entries(files.ctc_weights(files.TINY), files.ctc_sections(files.TINY))
    checkpoint = files.save(tmp_path / "a.pt", content, symbols=files.SYMBOLS)
    assert run("convert", "fairseq", checkpoint, "--out", tmp_path / "own") == 0
    letters = files.dictionary(tmp_path / "dict.ltr.txt")
    assert (
        run("convert", "fairseq", checkpoint, "--out", tmp_path / "given", "--dictionary", letters)
        == 0
    )
    vocabularies = [
        (tmp_path / name / "vocab.json").read_text("utf-8") for name in ("own", "given")
    ]
    assert vocabularies[0] == vocabularies[1]
    assert json.loads(vocabularies[0])["ก"] == 5
    capsys.readouterr()
    letters.write_text(letters.read_text("utf-8").replace("ก", "ข"), "utf-8")
    assert (
        run("convert", "fairseq", checkpoint, "--out", tmp_path / "no", "--dictionary", letters)
        == 3
    )
    assert "symbol 5 is 'ข' and not 'ก'" in capsys.readouterr().err


LETTERS: list[tuple[bytes, str]] = [
    (b"| 3\n", "which has 13 symbols with the four special ones, but has 5"),
    (b"a\n", "line 1, must be `symbol count`, but is 'a'"),
    (b"a 1\na 2\n", "line 2, must be a new symbol, but 'a' is there already"),
    (b"a 1\n<s> 2\n", "line 2, must be a new symbol, but '<s>' is there already"),
    (b"a 1\n\nb 2\n", "line 2, must be `symbol count`"),
    (b"\xff 1\n", "must be UTF-8 text"),
]


@pytest.mark.parametrize(("letters", "phrase"), LETTERS)
def test_a_wrong_dictionary_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], letters: bytes, phrase: str
) -> None:
    (tmp_path / "dict.ltr.txt").write_bytes(letters)
    arguments = ("--out", tmp_path / "out", "--dictionary", tmp_path / "dict.ltr.txt")
    assert run("convert", "fairseq", ctc(tmp_path / "a.pt"), *arguments) == 3
    assert phrase in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def no_file(path: Path) -> None:
    path.unlink(missing_ok=True)


def text(path: Path) -> None:
    path.write_text("weights, honestly", "utf-8")


def transformers_weights(path: Path) -> None:
    torch.save({"wav2vec2.masked_spec_embed": torch.zeros(4)}, path)


def a_tensor(path: Path) -> None:
    torch.save(torch.zeros(4), path)


def a_shard(path: Path) -> None:
    torch.save({"model": {"flat": torch.zeros(4)}, "fsdp_metadata": {}}, path)


def no_settings(path: Path) -> None:
    torch.save({"model": files.weights(files.TINY), "cfg": None, "args": None}, path)


def no_tensors(path: Path) -> None:
    torch.save({**files.entries({"mask_emb": 3}, files.sections(files.TINY))}, path)


def whole_numbers(path: Path) -> None:
    state = {n: t.to(torch.int32) for n, t in files.weights(files.TINY).items()}
    torch.save(files.entries(state, files.sections(files.TINY)), path)


def no_normalize(path: Path) -> None:
    cfg = files.sections(files.TINY)
    del cfg["task"]["normalize"]
    torch.save(files.entries(files.weights(files.TINY), cfg), path)


def no_encoder_settings(path: Path) -> None:
    cfg = files.ctc_sections(files.TINY)
    del cfg["model"]["w2v_args"]
    torch.save(files.entries(files.ctc_weights(files.TINY), cfg), path)


def another_blank(path: Path) -> None:
    torch.save(
        files.entries(
            files.ctc_weights(files.TINY), files.ctc_sections(files.TINY, blank_weight=2.0)
        ),
        path,
    )


WRONG: list[tuple[Callable[[Path], None], str]] = [
    (no_file, "must be a fairseq checkpoint (a .pt file), but is no file"),
    (text, "must be a checkpoint written by torch.save"),
    (transformers_weights, "A transformers model needs no conversion"),
    (a_tensor, "must hold a fairseq checkpoint (a dictionary), but holds a TensorRef"),
    (a_shard, "is one shard of several (fsdp_metadata)"),
    (no_settings, "must hold its settings ('cfg', or 'args' in older files), but has neither"),
    (no_tensors, "must hold tensors under 'model', but mask_emb is none"),
    (whole_numbers, "must hold its weights in float32, float16 or bfloat16, but"),
    (no_normalize, "must say whether audio is normalised (task.normalize), but says None"),
    (
        no_encoder_settings,
        "must carry the settings of the encoder it was fine-tuned from (w2v_args)",
    ),
    (another_blank, "blank_weight must be 0, but is 2.0"),
]


@pytest.mark.parametrize(("make", "phrase"), WRONG)
def test_other_files_are_refused_in_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make: Callable[[Path], None], phrase: str
) -> None:
    make(tmp_path / "a.pt")
    letters: tuple[object, ...] = ()
    if make in {no_encoder_settings, another_blank}:
        letters = ("--dictionary", files.dictionary(tmp_path / "dict.ltr.txt"))
    assert run("convert", "fairseq", tmp_path / "a.pt", "--out", tmp_path / "out", *letters) == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"thaitool: {tmp_path / 'a.pt'}")
    assert phrase in captured.err
    assert not (tmp_path / "out").exists()


def test_a_dictionary_for_a_pretrained_model_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    letters = files.dictionary(tmp_path / "dict.ltr.txt")
    arguments = ("--out", tmp_path / "out", "--dictionary", letters)
    assert run("convert", "fairseq", pretrained(tmp_path / "a.pt"), *arguments) == 3
    assert "which has no dictionary" in capsys.readouterr().err


def test_what_is_there_is_never_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint, out = pretrained(tmp_path / "a.pt"), tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("mine", "utf-8")
    assert run("convert", "fairseq", checkpoint, "--out", out) == 3
    assert "must be a new or an empty directory" in capsys.readouterr().err
    assert run("convert", "fairseq", checkpoint, "--out", checkpoint) == 3
    assert [p.name for p in out.iterdir()] == ["thesis.txt"]
    (out / "thesis.txt").unlink()
    assert run("convert", "fairseq", checkpoint, "--out", out) == 0


def test_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("convert", "fairseq", "a.pt") == 2
    assert "Missing option '--out'" in capsys.readouterr().err
    assert run("convert", "espnet") == 2
    assert "No such command 'espnet'" in capsys.readouterr().err


PEAK = """
import sys
from pathlib import Path
from thaitool.stages import convert
result = convert.run(Path(sys.argv[1]), Path(sys.argv[2]))
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(result.parameters * 4, int(peak.split()[1]) * 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="VmHWM is Linux's")
@pytest.mark.parametrize("form", ["zip-omegaconf", "legacy-args"])
def test_memory_stays_below_the_weights(tmp_path: Path, form: str) -> None:
    """XLS-R 300M with its optimizer: 3.8 GB on disk, 1.27 GB of weights; the libraries' own 0.7 GB count too."""
    content = files.entries(files.weights(files.XLSR_300M), files.sections(files.XLSR_300M))
    path = files.save(tmp_path / "checkpoint_best.pt", content, form=form)
    del content
    assert path.stat().st_size > 3.8e9
    command = [sys.executable, "-c", PEAK, str(path), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
    weights, peak = map(int, done.stdout.split())
    assert weights == 4 * 317_390_592
    assert peak <= 1.3 * weights
    for large in tmp_path.glob("*.pt"):
        large.unlink()

"""Whole models of ours: read back like their checkpoints, described by a card, and brought to a hub.

The hub is a server of this file that speaks what the official client asks of it, and keeps what it is sent.
"""

from __future__ import annotations

import base64
import json
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import huggingface_hub.constants
import pytest
import torch
import yaml
from peft import LoraConfig, get_peft_model

from tests import llms, tiny
from tests.lists import objects
from thaitool.cli.console import guarded
from thaitool.cli.main import app
from thaitool.data.manifest import from_utterances, write_manifest
from thaitool.errors import InputError
from thaitool.models.checkpoint import load_speech_lm, weights_sha256
from thaitool.models.generate import answer
from thaitool.models.whole import RECORD, is_whole
from thaitool.records import AudioRef, Utterance
from thaitool.stages import export
from thaitool.training.lineage import licence_of, lineage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("signals")
COMMIT = "f" * 40


def run(*args: object) -> int:
    return guarded(lambda: app([*map(str, args)], prog_name="thaitool", standalone_mode=False))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with an adapter that does something, in a run directory with a manifest."""
    root = tmp_path_factory.mktemp("push")
    llm = llms.llm_directory(root / "llm")
    (llm / "README.md").write_text("---\nlanguage: th\nlicense: apache-2.0\n---\n# x\n", "utf-8")
    model, processor = llms.speech_lm(llm)
    lora = LoraConfig(r=4, target_modules=r".*(q|v)_proj$", task_type="CAUSAL_LM")
    model.language_model = get_peft_model(model.language_model, lora)
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    run_dir = root / "slm"
    run_dir.mkdir()
    (run_dir / "run.json").write_text("{}")
    (run_dir / "result.json").write_text("{}")
    (run_dir / "config.yaml").write_text(
        yaml.safe_dump({"finetune": {"model": str(root / "gone")}}), "utf-8"
    )
    rows = [
        Utterance(f"u{n}", AudioRef("x.wav"), 1800.0, 16_000, task=task, licence=licence,
                  source="alpaca", trainable=n > 0)
        for n, (task, licence) in enumerate([("asr", "cc0-1.0"), ("ic", "cc0-1.0"), ("ic", "mit")])
    ]  # fmt: skip
    write_manifest(from_utterances(rows), run_dir / "manifest.arrow")
    path = llms.save(run_dir / "checkpoint-8", model, processor, llm)
    (run_dir / "best").symlink_to(path.name)
    return run_dir


@pytest.fixture(scope="module")
def whole(checkpoint: Path) -> Path:
    """The same in one directory."""
    out = checkpoint.parent / "whole"
    assert run("convert", "merge", checkpoint, "--out", out, "--name", "My model") == 0
    return out


def answers(path: Path, lengths: tuple[int, ...] = (16_000, 9_000, 12_345)) -> list[Any]:
    model, processor = load_speech_lm(path)
    audio, sizes = tiny.ragged_audio(*lengths)
    asked = ["ถอดเสียง"] * len(lengths)
    return answer(model, processor, audio, sizes, asked, max_new_tokens=8)


def test_a_whole_model_answers_like_its_checkpoint(checkpoint: Path, whole: Path) -> None:
    said = answers(checkpoint / "best")
    assert answers(whole) == said
    assert len({text for text, _ in said}) > 1  # different clips, different answers


@pytest.mark.slow
def test_a_whole_model_says_the_same_about_200_clips(checkpoint: Path, whole: Path) -> None:
    lengths = tuple(3_000 + 97 * n for n in range(200))
    for start in range(0, 200, 20):
        part = lengths[start : start + 20]
        assert answers(whole, part) == answers(checkpoint / "best", part)


def test_the_llm_can_be_stored_in_half_the_bytes(checkpoint: Path, whole: Path) -> None:
    out = checkpoint.parent / "half"
    assert run("convert", "merge", checkpoint, "--out", out, "--dtype", "bfloat16") == 0
    config = json.loads((out / "config.json").read_text("utf-8"))
    assert config["dtype"] == config["text_config"]["dtype"] == "bfloat16"
    half, _ = load_speech_lm(out)
    full, _ = load_speech_lm(whole)
    for (name, a), b in zip(half.named_parameters(), full.parameters(), strict=True):
        # Merged in float32 and rounded once; encoder and projector as they were.
        expected = b.bfloat16().float() if name.startswith("language_model") else b
        assert torch.equal(a, expected), name
    assert (out / "model.safetensors").stat().st_size < (whole / "model.safetensors").stat().st_size


def test_a_whole_model_is_no_checkpoint_to_train_on(whole: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="whole model, whose adapter is part of its LLM"):
        export.run(whole, tmp_path / "again")
    with pytest.raises(InputError, match="whole model with its LLM inside; leave out llm"):
        load_speech_lm(whole, llm=tmp_path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"processor": {"audio_token": ["<|x|>", 1]}}, "processor of .* differs from the one"),
        ({"format": "thaitool-whole-model-9"}, "must be of the form thaitool-whole-model-1"),
        ({"tasks": "0" * 64}, "missing or changed"),
        (None, "is damaged"),
    ],
)
def test_a_damaged_whole_model_says_so(
    whole: Path, tmp_path: Path, damage: dict[str, Any] | None, message: str
) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in whole.iterdir():
        (copy / file.name).symlink_to(file)
    record = json.loads((whole / RECORD).read_text("utf-8"))
    (copy / RECORD).unlink()
    if damage and "processor" in damage:
        damage = {"processor": record["processor"] | damage["processor"]}
    text = "{" if damage is None else json.dumps(record | damage)
    (copy / RECORD).write_text(text, "utf-8")
    assert is_whole(copy)
    with pytest.raises(InputError, match=message):
        load_speech_lm(copy)


def test_a_whole_model_without_some_weights_is_not_started_at_random(
    whole: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    copy = tmp_path / "copy"
    copy.mkdir()
    for file in whole.iterdir():
        (copy / file.name).symlink_to(file)
    weights = load_file(whole / "model.safetensors")
    lost = next(n for n in weights if n.startswith("multi_modal_projector"))
    del weights[lost]
    (copy / "model.safetensors").unlink()
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=f"lacks 1, e.g. {lost}"):
        load_speech_lm(copy)


def test_the_card_says_what_it_is_made_of(whole: Path) -> None:
    text = (whole / "README.md").read_text("utf-8")
    front = yaml.safe_load(text.split("---")[1])
    assert front["language"] == ["th"]
    assert front["library_name"] == "transformers"
    assert front["license"] == "other"  # three of them
    assert "# My model" in text
    assert "| LLM | llm | apache-2.0 |" in text
    assert "| finetune | alpaca | ic | mit | 1 | 0.50 |" in text
    assert "1 of 3 training rows are marked `trainable: false`" in text
    assert "gone is not where it was" in text
    assert "apache-2.0, cc0-1.0, mit, unknown." in text  # what came before is lost
    told = text.split("## Tasks and what it is asked")[1].split("##")[0]
    assert [line.split(" | ")[0] for line in told.split("\n") if "| " in line][2:] == [
        "| asr",
        "| ic",
    ]
    assert "No evaluation was given" in text


def test_a_card_scores_this_model_and_names_the_data(
    checkpoint: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sound = tiny.clips(tmp_path / "audio", 2)
    rows = ({"key": p.stem, "wav": str(p), "txt": "ก"} for p in sorted(sound.iterdir()))
    data = objects(tmp_path / "held-out.jsonl", *rows)
    asked: tuple[Any, ...] = ("--data", data, "--task", "asr", "--device", "cpu", "--no-shuffled")
    asked += ("--set", "draws=20", "--set", "max_new_tokens=2")
    assert run("eval", "--model", checkpoint, "--out", tmp_path / "mine", *asked) == 0
    given = ("--report", f"Held out={tmp_path / 'mine'}")
    assert run("convert", "merge", checkpoint, "--out", tmp_path / "w", *given) == 0
    text = (tmp_path / "w" / "README.md").read_text("utf-8")
    assert "### Held out\n\ndata held-out.jsonl, split test, task asr\n\n| task | score |" in text
    assert "| asr | cer |" in text
    assert str(tmp_path) not in text
    # A report on the same, merged, is one of this model; of another model it is none.
    report = tmp_path / "mine" / "report.json"
    stored = json.loads(report.read_text("utf-8"))
    stored["settings"]["weights sha256"] = weights_sha256(whole)
    report.write_text(json.dumps(stored), "utf-8")
    assert run("convert", "merge", checkpoint, "--out", tmp_path / "v", "--report", report) == 0
    stored["settings"]["weights sha256"] = "0" * 64
    report.write_text(json.dumps(stored), "utf-8")
    capsys.readouterr()
    assert run("convert", "merge", checkpoint, "--out", tmp_path / "x", "--report", report) == 3
    assert "is of a model whose weights hash to 000000000000" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
    del stored["settings"]["weights sha256"]
    report.write_text(json.dumps(stored), "utf-8")
    assert run("convert", "merge", checkpoint, "--out", tmp_path / "x", "--report", report) == 0
    text = (tmp_path / "x" / "README.md").read_text("utf-8")
    assert "does not say which weights gave the answers" in text


def test_a_checkpoint_away_from_its_run_is_no_base_model(checkpoint: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(checkpoint / "checkpoint-8", tmp_path / "copied")
    ancestors, lost = lineage(copied)
    assert ancestors == []
    assert lost == [
        "copied is not in the directory of its run, so what it was trained on is unknown."
    ]


def test_a_run_names_its_base_by_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    run_dir = tmp_path / "align"
    run_dir.mkdir()
    (run_dir / "run.json").write_text("{}")
    (run_dir / "config.yaml").write_text("align: {encoder: thai/tiny-xlsr}", "utf-8")
    assert lineage(run_dir)[1] == [
        "align (align) has no manifest, so its data is unknown.",
        "tiny-xlsr is not where it was, so what it was made of is unknown.",
    ]
    repository = tmp_path / "cache" / "models--thai--tiny-xlsr"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    snapshot = tiny.encoder_directory(repository / "snapshots" / COMMIT)
    ancestors, lost = lineage(run_dir)
    assert [(a.stage, a.path) for a in ancestors] == [("align", run_dir), ("base", snapshot)]
    assert len(lost) == 1


def test_a_licence_is_read_where_hubs_write_it(tmp_path: Path) -> None:
    assert licence_of(tmp_path) == ""
    for text, licence in (
        ("---\nlicense: mit\n---\n", "mit"),
        ("---\nlanguage: th\nlicense: 'cc-by-4.0' # x\n---\n", "cc-by-4.0"),
        ("# x\nlicense: mit\n", ""),
        ("---\nlanguage: th\n---\nlicense: mit\n", ""),
    ):
        (tmp_path / "README.md").write_text(text, "utf-8")
        assert licence_of(tmp_path) == licence


class Hub(BaseHTTPRequestHandler):
    """Takes every file whole, as the hub takes small ones."""

    files: dict[str, bytes]
    refuses: bool
    made: list[dict[str, Any]]

    def do_GET(self) -> None:
        self._say({"id": "me/model"})

    def do_POST(self) -> None:
        body = self._body()
        if self.refuses:
            self._say({"error": "no write access"}, 403)
        elif self.path == "/api/repos/create":
            self.made.append(json.loads(body))
            self._say({"url": f"{self._url()}/me/model"})
        elif "/preupload/" in self.path:
            named = [f["path"] for f in json.loads(body)["files"]]
            files = [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in named]
            self._say({"files": files})
        elif "/commit/" in self.path:
            for line in body.splitlines():
                said = json.loads(line)
                if said["key"] == "file":
                    content = base64.b64decode(said["value"]["content"])
                    self.files[said["value"]["path"]] = content
            self._say({"commitOid": COMMIT, "commitUrl": f"{self._url()}/me/model/commit/{COMMIT}"})
        else:
            self._say({"errors": [], "warnings": []})

    def _url(self) -> str:
        return f"http://{self.headers['Host']}"

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _say(self, value: dict[str, Any], status: int = 200) -> None:
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Silent."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    """The class of the running hub's answers, which keeps what was uploaded."""
    kind = type("OneHub", (Hub,), {"files": {}, "refuses": False, "made": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", url)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    yield kind
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_model_goes_to_the_hub_as_one_commit(
    whole: Path, hub: type[Hub], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("convert", "push", whole, "me/model", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["repository"] == "me/model"
    assert said["revision"] == COMMIT
    assert hub.made[0]["visibility"] == "private"
    local = {str(f.relative_to(whole)): f.read_bytes() for f in whole.rglob("*") if f.is_file()}
    assert hub.files == local
    assert said["n_bytes"] == sum(map(len, local.values()))


def test_a_hub_that_refuses_is_a_sentence(
    whole: Path, hub: type[Hub], capsys: pytest.CaptureFixture[str]
) -> None:
    hub.refuses = True
    assert run("convert", "push", whole, "me/model") == 5
    assert "could not be written on the hub" in capsys.readouterr().err
    assert not hub.files


def test_a_hub_that_is_not_there_is_a_sentence(
    whole: Path, hub: type[Hub], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    assert run("convert", "push", whole, "me/model") == 5
    assert "ConnectError" in (said := capsys.readouterr().err)
    assert "Check the connection" in said
    assert not hub.files


def test_only_whole_models_with_a_card_are_pushed(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("convert", "push", checkpoint, "me/model") == 3
    assert "must be a whole model with a model card" in capsys.readouterr().err

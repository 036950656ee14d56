"""Hostile and damaged checkpoints: nothing in them is ever run, and the refusal names what they asked for."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests import fairseq_files as files
from thaitool.errors import InputError
from thaitool.models.fairseq.archive import open_archive
from thaitool.models.fairseq.unpickle import Inert, unpickle
from thaitool.stages import convert

CANARY = "THAITOOL_CANARY"
#: Code that leaves a mark where the environment says.
MARK = f"import os; open(os.environ['{CANARY}'], 'w').close()"
SHELL = f'touch "${CANARY}"'
EXPRESSION = f"__import__('os').system('{SHELL}')"
# The language of pickles, as far as these need it.
REDUCE, NEWOBJ, NEWOBJ_EX, BUILD, STOP, POP = b"R", b"\x81", b"\x92", b"b", b".", b"0"


def push(item: Any) -> bytes:
    """Pushes a plain value."""
    return pickle.dumps(item, protocol=2)[2:-1]


def name(dotted: str) -> bytes:
    """Pushes what a name stands for."""
    module, last = dotted.rsplit(".", 1)
    return b"c" + f"{module}\n{last}\n".encode()


def name_by_stack(module: str, last: str) -> bytes:
    """The same by protocol 4, where the last part may have dots."""
    return push(module) + push(last) + b"\x93"


def group(*items: bytes) -> bytes:
    """Pushes a tuple."""
    return b"(" + b"".join(items) + b"t"


def call(dotted: str, *arguments: Any) -> bytes:
    """Pushes the result of a call with plain arguments."""
    return name(dotted) + push(arguments) + REDUCE


def whole(*parts: bytes) -> bytes:
    """A pickle of protocol 4, which has every instruction."""
    return b"\x80\x04" + b"".join(parts) + STOP


#: What the refusal must name, and a pickle that leaves the mark when Python itself loads it.
LIVE: list[tuple[str, bytes]] = [
    ("os.system", whole(call("os.system", SHELL))),
    ("posix.system", whole(call("posix.system", SHELL))),
    ("os.system", whole(name("os.system"), b"q\x01", POP, b"h\x01", push((SHELL,)), REDUCE)),  # by the memo
    ("os.system", b"(" + push(SHELL) + b"ios\nsystem\n."),  # INST
    ("os.system", b"(" + name("os.system") + push(SHELL) + b"o."),  # OBJ
    ("shutil.os.system", whole(name_by_stack("shutil", "os.system"), push((SHELL,)), REDUCE)),
    ("torch.serialization.os.system", whole(name_by_stack("torch.serialization", "os.system"), push((SHELL,)),
                                            REDUCE)),
    ("subprocess.call", whole(call("subprocess.call", ["sh", "-c", SHELL]))),
    ("subprocess.check_output", whole(call("subprocess.check_output", ["sh", "-c", SHELL]))),
    ("subprocess.run", whole(name_by_stack("subprocess", "run"), push((["sh", "-c", SHELL],)), REDUCE)),
    ("builtins.exec", whole(call("builtins.exec", MARK))),
    ("builtins.eval", whole(call("builtins.eval", EXPRESSION))),
    ("__builtin__.eval", b"\x80\x02" + call("__builtin__.eval", EXPRESSION) + STOP),
    ("builtins.getattr", whole(name("builtins.getattr"), group(call("builtins.__import__", "os"), push("system")),
                               REDUCE, push((SHELL,)), REDUCE)),
    ("operator.methodcaller", whole(call("operator.methodcaller", "system", SHELL),
                                    group(call("builtins.__import__", "os")), REDUCE)),
    ("operator.attrgetter", whole(call("operator.attrgetter", "system"), group(call("builtins.__import__", "os")),
                                  REDUCE, push((SHELL,)), REDUCE)),
    ("functools.partial", whole(name("functools.partial"), group(name("os.system"), push(SHELL)), REDUCE, b")",
                                REDUCE)),
    ("builtins.map", whole(name("builtins.list"), group(name("builtins.map"), group(name("os.system"), push([SHELL])),
                                                        REDUCE), REDUCE)),
    ("timeit.timeit", whole(call("timeit.timeit", "0", MARK))),
    ("cProfile.run", whole(call("cProfile.run", MARK, "/dev/null"))),
    ("pickle.loads", whole(call("pickle.loads", whole(call("posix.system", SHELL))))),
    ("_pickle.loads", whole(call("_pickle.loads", whole(call("posix.system", SHELL))))),
    ("subprocess.Popen", whole(name("subprocess.Popen"), push((["sh", "-c", SHELL],)), REDUCE)),
    ("os.popen", whole(name("builtins.list"), group(call("os.popen", SHELL)), REDUCE)),
]  # fmt: skip

#: Names that code could be reached by, and instructions that no checkpoint has; Python need not run these here.
OTHERS: list[tuple[str, bytes]] = [
    *((dotted, whole(call(dotted, "x"))) for dotted in (
        "nt.system", "builtins.compile", "builtins.open", "builtins.globals", "builtins.setattr", "builtins.type",
        "importlib.import_module", "builtins.object", "types.CodeType", "types.FunctionType", "marshal.loads",
        "torch.load", "torch.hub.load",
        "torch.jit.load", "torch.storage._load_from_bytes", "torch._utils._import_dotted_name",
        "torch._utils._rebuild_sparse_tensor", "torch._utils._rebuild_wrapper_subclass",
        "torch._tensor._rebuild_from_type_v2",
        "torch.nn.modules.module.Module", "numpy.load", "numpy.fromfile", "codecs.decode", "shutil.rmtree",
        "socket.socket", "ctypes.CDLL", "pty.spawn", "runpy.run_path", "webbrowser.open", "pip.main", "sys.exit",
        "os._exit", "copyreg._reconstructor", "operator.getitem", "weakref.finalize", "logging.config.dictConfig",
        "hydra.utils.instantiate", "argparse.FileType", "pathlib.Path.write_text", "transformers.AutoModel",
        "myproject.tasks.Config",
    )),
    ("collections.OrderedDict.fromkeys", whole(name_by_stack("collections", "OrderedDict.fromkeys"), push(("x",)),
                                               REDUCE)),
    ("subprocess.Popen", whole(name("subprocess.Popen"), b")", NEWOBJ)),
    ("subprocess.Popen", whole(name("subprocess.Popen"), b")", push({"args": "x"}), NEWOBJ_EX)),
    ("omegaconf.os.system", whole(name_by_stack("omegaconf", "os.system"), push((SHELL,)), REDUCE)),
    ("fairseq.models.__init__.__globals__", whole(name_by_stack("fairseq.models", "__init__.__globals__"))),
    ("fairseqx.evil", whole(call("fairseqx.evil"))),
    ("torch.FloatStorage", whole(call("torch.FloatStorage", 10))),
    ("sets the state of `collections.OrderedDict`",
     whole(name("collections.OrderedDict"), push((None, {"x": 1})), BUILD)),
    ("sets the state of `omegaconf.base.Node`", whole(name("omegaconf.base.Node"), push({}), BUILD)),
    ("sets the state of `list`", whole(push([]), push({"__class__": 1}), BUILD)),
    ("calls a str", whole(push("os.system"), push(("x",)), REDUCE)),
    ("calls a Inert", whole(call("fairseq.tasks.x"), b")", REDUCE)),
    ("calls a str", whole(push("os.system"), b")", push({}), NEWOBJ_EX)),
    ("EXT1", whole(b"\x82\x01", b")", REDUCE)),
    ("EXT4", whole(b"\x84\x01\x00\x00\x00")),
    ("NEXT_BUFFER", whole(b"\x97")),
    ("BYTEARRAY8", whole(b"\x96" + (1).to_bytes(8, "little") + b"x")),
    ("refers to something outside the file", whole(push(("module", "os", "x", "y", "z")), b"Q")),
    ("refers to something outside the file", whole(push(("storage", "os", "x", "y", 3)), b"Q")),
    ("refers to something outside the file", b"Pos.system\n."),
]  # fmt: skip


def zip_file(path: Path, data: bytes, **members: bytes) -> Path:
    """A checkpoint whose structure is a given pickle."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/version", "3\n")
        for member, content in members.items():
            archive.writestr(f"archive/{member.replace('__', '/')}", content)
    return path


def legacy_file(path: Path, data: bytes) -> Path:
    """The same in the older container."""
    head = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}]
    path.write_bytes(b"".join(pickle.dumps(part, 2) for part in head) + data + pickle.dumps([], 2))
    return path


@pytest.fixture
def canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    mark = tmp_path / "canary"
    monkeypatch.setenv(CANARY, str(mark))
    return mark


@pytest.mark.parametrize(
    ("wanted", "attack"), LIVE, ids=[f"{n}-{w}" for n, (w, _) in enumerate(LIVE)]
)
def test_an_attack_that_works_on_pickle_is_refused_by_name(
    tmp_path: Path, canary: Path, wanted: str, attack: bytes
) -> None:
    assert len(LIVE) >= 20
    for make in (zip_file, legacy_file):
        with pytest.raises(InputError) as refused:
            convert.run(make(tmp_path / "a.pt", attack), tmp_path / "out")
        assert f"asks for `{wanted}`" in str(refused.value)
        assert "nothing in it was run" in str(refused.value)
        assert not canary.exists()
        assert not (tmp_path / "out").exists()
    # The attack is a real one: Python's own pickle runs it.
    program = f"import pickle; pickle.loads({attack!r})"
    subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ,
        capture_output=True,
        check=False,
        timeout=60,
    )
    for _ in range(100):  # Popen does not wait for its shell
        if canary.exists():
            break
        subprocess.run(["sleep", "0.02"], check=True)
    assert canary.exists()


@pytest.mark.parametrize(
    ("wanted", "attack"), OTHERS, ids=[f"{n}-{w}" for n, (w, _) in enumerate(OTHERS)]
)
def test_everything_beyond_data_is_refused_by_name(
    tmp_path: Path, wanted: str, attack: bytes
) -> None:
    for make in (zip_file, legacy_file):
        with pytest.raises(InputError) as refused, open_archive(make(tmp_path / "a.pt", attack)):
            pass
        assert wanted in str(refused.value)
        assert "which could run code" in str(refused.value)


def test_an_attack_behind_a_whole_checkpoint_is_refused(tmp_path: Path, canary: Path) -> None:
    """Also where it hides in a part that would be dropped."""

    class Hidden:
        def __reduce__(self) -> Any:
            return os.system, (SHELL,)

    content = files.entries(files.weights(files.TINY), files.sections(files.TINY))
    content["last_optimizer_state"]["hidden"] = Hidden()
    for form in ("legacy-omegaconf", "zip-dict"):
        path = files.save(tmp_path / "a.pt", content, form=form)
        with pytest.raises(InputError, match=r"asks for `posix\.system`"):
            convert.run(path, tmp_path / "out")
        assert not canary.exists()
    torch.load(tmp_path / "a.pt", weights_only=False, pickle_module=pickle)
    assert canary.exists()


def test_objects_of_known_packages_stay_inert() -> None:
    """Not even fairseq's own classes are looked up: `os` within fairseq is a record with a name."""
    before = set(sys.modules)
    record = unpickle(io.BytesIO(whole(call("fairseq.os.system", SHELL))), "a")
    assert isinstance(record, Inert)
    assert (str(record.kind), record.arguments) == ("fairseq.os.system", (SHELL,))
    assert {m for m in set(sys.modules) - before if m.startswith(("fairseq", "omegaconf"))} == set()


def tensor(
    numel: int, offset: int, size: tuple[int, ...], stride: tuple[int, ...], key: str = "0"
) -> bytes:
    """A checkpoint with one tensor."""
    storage = (
        group(push("storage"), name("torch.FloatStorage"), push(key), push("cpu"), push(numel))
        + b"Q"
    )
    made = name("torch._utils._rebuild_tensor_v2") + group(
        storage, push(offset), push(size), push(stride), push(False), push({})
    )
    return whole(b"}", push("model"), b"}", push("mask_emb"), made, REDUCE, b"s", b"s")


@pytest.mark.parametrize(
    ("data", "phrase"),
    [
        (tensor(4, 0, (10**12,), (0,)), "lies outside its storage of 4 numbers"),
        (tensor(4, 3, (2,), (1,)), "lies outside its storage of 4 numbers"),
        (tensor(4, -1, (2,), (1,)), "offset -1"),
        (tensor(4, 0, (2,), (-1,)), "strides (-1,)"),
        (tensor(4, 0, (-2, -2), (1, 1)), "size (-2, -2)"),
        (tensor(4, 0, (2, 2), (1,)), "differ in length"),
        (tensor(-4, 0, (1,), (1,)), "of -4 numbers"),
        (tensor(4, 0, (4,), (1,), "../../../etc/passwd"), "must hold 16 bytes in archive/data/../../../etc/passwd"),
        (tensor(5, 0, (4,), (1,)), "must hold 20 bytes in archive/data/0, but has 16"),
        (tensor(4, 0, (4,), (1,), "9"), "must hold 16 bytes in archive/data/9, but has none"),
    ],
)  # fmt: skip
def test_tensors_stay_inside_their_file(tmp_path: Path, data: bytes, phrase: str) -> None:
    path = zip_file(tmp_path / "a.pt", data, data__0=b"\0" * 16)
    with pytest.raises(InputError) as refused, open_archive(path) as archive:
        archive.read(archive.content["model"]["mask_emb"])
    assert phrase in str(refused.value)


def test_a_packed_archive_is_refused(tmp_path: Path) -> None:
    """A small file must not unpack into a large one."""
    path = tmp_path / "a.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", tensor(10**6, 0, (10**6,), (1,)))
        archive.writestr("archive/data/0", b"\0" * 4 * 10**6)
    assert path.stat().st_size < 10_000
    with pytest.raises(InputError, match="must be stored uncompressed"), open_archive(path):
        pass


def test_settings_without_end_are_refused(tmp_path: Path) -> None:
    """A list that holds the same list twice, forty times over, has a thousand billion members."""
    cfg: Any = files.sections(files.TINY)
    bomb: list[Any] = []
    for _ in range(30):
        bomb = [bomb, bomb]
    loop: list[Any] = []
    loop.append(loop)
    for number, hostile in enumerate((bomb, loop)):
        content = files.entries(files.weights(files.TINY), {**cfg, "common": hostile})
        path = files.save(tmp_path / f"{number}.pt", content)
        with pytest.raises(InputError, match="they contain themselves"):
            convert.run(path, tmp_path / "out")


def test_damage_is_a_sentence(tmp_path: Path) -> None:
    content = files.entries(files.weights(files.TINY), files.sections(files.TINY))
    for container in ("zip", "legacy"):
        path = files.save(tmp_path / f"{container}.pt", content, form=f"{container}-dict")
        good = path.read_bytes()
        for end in (
            0,
            1,
            100,
            5_000,
            len(good) // 8,
            len(good) // 2 if container == "zip" else len(good) // 4,
        ):
            path.write_bytes(good[:end])
            with pytest.raises(InputError, match=r"damaged|cut off"):
                convert.run(path, tmp_path / "out")
        assert not (tmp_path / "out").exists()
    flipped = bytearray(files.save(tmp_path / "zip.pt", content).read_bytes())
    at = flipped.find(content["model"]["post_extract_proj.weight"].numpy().tobytes())
    flipped[at + 5] ^= 1
    (tmp_path / "zip.pt").write_bytes(flipped)
    with pytest.raises(InputError, match="is damaged or cut off: Bad CRC-32"):
        convert.run(tmp_path / "zip.pt", tmp_path / "out")


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    state = files.weights(files.TINY)
    state["encoder.layers.1.fc2.weight"][3, 4] = float("nan")
    path = files.save(tmp_path / "a.pt", files.entries(state, files.sections(files.TINY)))
    with pytest.raises(InputError, match="but 1 of 2048 numbers of wav2vec2"):
        convert.run(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


_SAMPLE = pickle.dumps({"model": {"a": [1, 2.5, ("x", None)]}, "cfg": {"k": {3, 4}}}, 4)


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    cuts=st.lists(
        st.tuples(st.integers(0, len(_SAMPLE) - 1), st.integers(0, 255)), min_size=1, max_size=6
    )
)
@example(cuts=[(0, 0)])
def test_any_bytes_end_in_a_value_or_a_sentence(cuts: list[tuple[int, int]]) -> None:
    data = bytearray(_SAMPLE)
    for at, byte in cuts:
        data[at] = byte
    try:
        unpickle(io.BytesIO(bytes(data)), "a")
    except InputError as error:
        assert str(error).startswith("a ")


@given(data=st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_random_bytes_end_in_a_value_or_a_sentence(data: bytes) -> None:
    try:
        unpickle(io.BytesIO(data), "a")
    except InputError as error:
        assert str(error).startswith("a ")

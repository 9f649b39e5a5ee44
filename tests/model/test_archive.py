"""Files of tensors: streamed in and out, and refused where they cannot be read."""

import weakref
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mmflow.model.archive import Archive, Outgoing, files_of, write_file


def test_what_is_written_is_what_the_library_reads(tmp_path: Path) -> None:
    tensors = {
        "a": torch.randn(3, 5),
        "b": torch.randn(2, 2, 2).bfloat16(),
        "c": torch.tensor(1.5),
        "d": torch.randn(4, 6).half().T,
        "none": torch.zeros(0, 3),
    }
    outgoing = [Outgoing(n, tuple(t.shape), t.dtype, lambda t=t: t) for n, t in tensors.items()]
    write_file(tmp_path / "x.safetensors", outgoing, {"title": "x"})
    found = load_file(tmp_path / "x.safetensors")
    assert found.keys() == tensors.keys() and all(torch.equal(found[n], t) for n, t in tensors.items())
    read = Archive.of([tmp_path / "x.safetensors"])
    assert {n: (tuple(t.shape), t.dtype) for n, t in read.meta().items()} == {
        n: (tuple(t.shape), t.dtype) for n, t in tensors.items()
    }
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]


def test_one_tensor_at_a_time_is_in_memory(tmp_path: Path) -> None:
    alive: list[int] = []

    def make() -> torch.Tensor:
        alive.append(sum(ref() is not None for ref in references))
        tensor = torch.zeros(1000)
        references.append(weakref.ref(tensor))
        return tensor

    references: list[weakref.ref] = []
    write_file(tmp_path / "x", [Outgoing(str(i), (1000,), torch.float32, make) for i in range(20)], {})
    assert len(alive) == 20 and max(alive) <= 1


def test_a_file_that_fails_half_way_is_not_there(tmp_path: Path) -> None:
    def fail() -> torch.Tensor:
        raise RuntimeError("no numbers")

    with pytest.raises(RuntimeError):
        write_file(tmp_path / "x.safetensors", [Outgoing("a", (1,), torch.float32, fail)], {})
    assert not (tmp_path / "x.safetensors").exists()


@pytest.mark.parametrize("name", ["model.bin", "model.pt", "model.pth", "model.ckpt"])
def test_pickles_are_refused_with_the_way_to_convert(name: str, tmp_path: Path) -> None:
    torch.save({"w": torch.ones(1)}, tmp_path / name)
    with pytest.raises(ValueError, match=rf"{name} is a pickle.*Convert it.*weights_only=True.*model\.safetensors"):
        Archive.of([tmp_path / name])


def test_the_way_to_convert_works(tmp_path: Path) -> None:
    torch.save({"state_dict": {"w": torch.ones(1)}}, tmp_path / "model.ckpt")
    with pytest.raises(ValueError) as raised:
        Archive.of([tmp_path / "model.ckpt"])
    program = str(raised.value).split('python -c "')[1].removesuffix('"')
    exec(program, {})
    assert Archive.of([tmp_path / "model.safetensors"])["w"].item() == 1


def test_gguf_and_fp8_are_named_as_unsupported(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF\x03\x00\x00\x00")
    (tmp_path / "hidden.safetensors").write_bytes(b"GGUF\x03\x00\x00\x00")
    for name in ("model.gguf", "hidden.safetensors"):
        with pytest.raises(ValueError, match=rf"{name} is a GGUF file"):
            Archive.of([tmp_path / name])
    save_file({"w": torch.ones(2).to(torch.float8_e4m3fn)}, tmp_path / "fp8.safetensors")
    with pytest.raises(ValueError, match=r"fp8\.safetensors: w is of type F8_E4M3: fp8 weights cannot be trained"):
        Archive.of([tmp_path / "fp8.safetensors"])["w"]


def test_a_folder_s_files(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no diffusion_pytorch_model\.safetensors"):
        files_of(tmp_path)
    torch.save({}, tmp_path / "diffusion_pytorch_model.bin")
    with pytest.raises(ValueError, match="is a pickle"):
        files_of(tmp_path)
    for name in ("diffusion_pytorch_model.fp16.safetensors", "diffusion_pytorch_model.safetensors"):
        save_file({"w": torch.ones(1)}, tmp_path / name)
        assert [p.name for p in files_of(tmp_path)] == [name]


def test_one_name_in_two_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_file({"w": torch.ones(1)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(ValueError, match=r"w stands in .*a\.safetensors and in .*b\.safetensors"):
        Archive.of([tmp_path / "a.safetensors", tmp_path / "b.safetensors"])

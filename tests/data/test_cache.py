"""Caches: training from one is training online, and one that is not of this run is refused in words that say why."""

import errno
import json
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from media import make_shards
from test_module import attached, on_shards

from mmflow.batch import Batch
from mmflow.data.cache import Cache, describe, tar_digests
from mmflow.data.cache_shard import CacheFull, ShardReader
from mmflow.data.container import UnreadableSample
from mmflow.data.encode import Encoding, Total, claim, encode_tars
from mmflow.data.index import build_index
from mmflow.data.module import FlowData
from mmflow.encoders.autoencoder import AbstractAutoencoder
from mmflow.encoders.text import HashedWords


def settings(folder: Path, **more: object) -> dict:
    return {**on_shards(str(folder)), "crops": "middle", **more}


def encoded(
    shards: Path, out: Path, dtype: str = "float32", only: tuple[str, ...] = ("latents", "words"), **more
) -> Path:
    """A cache of what a data module of these settings needs."""
    data = FlowData(**settings(shards, **more))
    autoencoder, text = data.encoders.identities()
    framing = data.cache_use.framing
    made = describe(autoencoder if "latents" in only else None, text if "words" in only else {}, framing, dtype, False)
    claim(out, made)
    for _ in encode_tars(data.mix.tars(), data.encoders, Encoding(out, made, framing, ("picture", "clip"), 4)):
        pass
    return out


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shards(tmp_path_factory.mktemp("shards"), pictures=[7, 5], clips=[1, 2])


@pytest.fixture(scope="module")
def cache(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encoded(shards, tmp_path_factory.mktemp("cache") / "out")


def steps(data: FlowData, number: int = 4) -> list[Batch]:
    made = zip(range(number), data.train_dataloader(), strict=False)
    return [data.on_after_batch_transfer(batch, 0) for _, batch in made]


def differ(a: list[Batch], b: list[Batch]) -> float:
    """By how much of their length latents and features are apart; keys, u, noise and captions must be the same."""
    worst = 0.0
    for x, y in zip(a, b, strict=True):
        assert (x.keys, x.captions, x.planned) == (y.keys, y.captions, y.planned)
        assert torch.equal(x.u, y.u) and all(torch.equal(e, f) for e, f in zip(x.eps, y.eps, strict=True))
        assert torch.equal(x.conditioning.text.lengths, y.conditioning.text.lengths)
        pairs = [*zip(x.latents, y.latents, strict=True)]
        pairs += [(getattr(x.conditioning.text, n), getattr(y.conditioning.text, n)) for n in ("context", "pooled")]
        worst = max([worst, *(float((p - q).norm() / q.norm()) for p, q in pairs if q.norm())])
    return worst


@pytest.mark.parametrize(("dtype", "bound"), [("float32", 0.0), ("float16", 1e-3), ("bfloat16", 1e-2)])
def test_training_from_the_cache_is_training_online(shards: Path, tmp_path: Path, dtype: str, bound: float) -> None:
    out = str(encoded(shards, tmp_path / "cache", dtype))
    dropped = {"caption_dropout": 0.4}
    online = attached(**settings(shards, **dropped))
    recalled = attached(**settings(shards, cache="require", cache_folder=out, **dropped))
    batches = steps(recalled)
    assert all(len(pixels) == 0 for batch in batches for pixels in batch.pixels), "nothing was decoded"
    assert differ(batches, steps(online)) <= bound
    both = (recalled.val_dataloader(), online.val_dataloader())
    ours, theirs = (
        [d.on_after_batch_transfer(b, 0) for b in loader] for d, loader in zip((recalled, online), both, strict=True)
    )
    assert differ(ours, theirs) <= bound


class Noisy(AbstractAutoencoder):
    """Its posterior lies around the colours, wider where it is brighter."""

    channels, stride, frame_step, is_drawn = 3, (1, 1, 1), 1, True

    def load(self) -> None:
        pass

    def identity(self, whole: bool = False) -> dict:
        return {"kind": "Noisy", "posterior": "mean and log-variance"}

    def encode_raw(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels

    def encode_kept(self, pixels: torch.Tensor) -> torch.Tensor:
        return torch.cat([pixels, pixels - 2], 1)

    def normalise(self, raw: torch.Tensor) -> torch.Tensor:
        return raw * 2

    decode = encode_raw


@pytest.mark.parametrize(("dtype", "bound"), [("float32", 0.0), ("float16", 1e-3)])
def test_latents_drawn_from_the_posterior_are_those_of_online_training(
    shards: Path, tmp_path: Path, dtype: str, bound: float
) -> None:
    noisy = {"autoencoder": Noisy()}
    out = str(encoded(shards, tmp_path / "cache", dtype, **noisy))
    recalled = attached(**settings(shards, cache="require", cache_folder=out, **noisy))
    batches, online = steps(recalled), steps(attached(**settings(shards, **noisy)))
    assert all(raw.shape[1] == 6 for batch in batches for raw in batch.raw), "mean and log-variance"
    assert differ(batches, online) <= bound
    for batch in online:
        for z, pixels, eps, noise in zip(batch.latents, batch.pixels, batch.eps, batch.posterior, strict=True):
            mean = pixels.float() / 127.5 - 1
            assert torch.equal(z, (mean + ((mean - 2) / 2).exp() * noise) * 2)
            assert not any(torch.equal(a, b) for a, b in zip(eps, noise, strict=True))
    validation = [recalled.on_after_batch_transfer(batch, 0) for batch in recalled.val_dataloader()]
    assert all(len(z) == len(e) for batch in validation for z, e in zip(batch.latents, batch.eps, strict=True))
    with pytest.raises(ValueError, match=r'latents\.encoder\.kind: "Noisy" in the cache, "RgbAutoencoder" now'):
        attached(**settings(shards, cache="require", cache_folder=out))


def test_a_visit_draws_from_the_posterior_anew_and_no_layout_matters(shards: Path) -> None:
    one, two = (by_key(steps(attached(**settings(shards, autoencoder=Noisy(), packing=p)), 9)) for p in PACKINGS)
    both = one.keys() & two.keys()
    assert len(both) >= 6 and all(torch.equal(one[key], two[key]) for key in both)
    again = [(key, visit) for key, visit in one if visit and (key, 0) in one]
    assert again and not any(torch.equal(one[key, 0], one[key, visit]) for key, visit in again)


PACKINGS = ("packed", "bucketed")


def test_a_cache_may_hold_words_only_and_crops_stay_random(shards: Path, tmp_path: Path) -> None:
    out = encoded(shards, tmp_path / "cache", only=("words",))
    online = attached(**settings(shards, crops="random"))
    recalled = attached(**settings(shards, crops="random", cache="require", cache_folder=str(out)))
    assert differ(steps(recalled), steps(online)) == 0
    assert all(batch.said and batch.raw is None for batch in steps(recalled))


def test_cached_words_are_not_asked_for_again(shards: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recalled = attached(**settings(shards, cache="require", cache_folder=str(cache)))

    def asked(*_: object) -> None:
        raise AssertionError("the encoder was asked")

    monkeypatch.setattr(recalled.encoders.autoencoder, "encode_raw", asked)
    monkeypatch.setattr(HashedWords, "_positions", asked)
    assert len(steps(recalled)) == 4


FOREIGN = {
    "buckets": ({"resolution": 24}, r"latents\.buckets: .* in the cache, .* now"),
    "fps": ({"fps": 4.0}, r"latents\.fps: 5\.0 in the cache, 4\.0 now"),
    "background": ({"background": (0, 0, 0)}, r"latents\.background"),
    "an encoder": ({"text_encoder": HashedWords(width=48)}, r"text\.words\.width: 96 in the cache, 48 now"),
    "captions": ({"captions": {"txt": 1.0, "long": 1.0}}, "captions: long not in the cache"),
    "random crops": ({"crops": "random"}, r"--data\.crops middle"),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_a_foreign_cache_is_refused_with_what_differs(what: str, shards: Path, cache: Path) -> None:
    changed, message = FOREIGN[what]
    with pytest.raises(ValueError, match=message):
        attached(**settings(shards, cache="require", cache_folder=str(cache), **changed))


def test_a_stale_or_incomplete_cache_is_refused(shards: Path, cache: Path, tmp_path: Path) -> None:
    copied, own = shutil.copytree(shards, tmp_path / "shards"), shutil.copytree(cache, tmp_path / "cache")
    required = settings(copied, cache="require", cache_folder=str(own))
    attached(**required)
    more = make_shards(tmp_path / "more", pictures=[3], clips=[0])
    shutil.copy(more / "00000.tar", copied / "00001.tar")
    build_index(copied / "00001.tar")
    with pytest.raises(ValueError, match=r"lacks 1 of 2 shards: .*00001\.tar changed since it was encoded.*encode"):
        attached(**required)
    next(own.glob("00000-*.done.parquet")).unlink()
    with pytest.raises(ValueError, match=r"lacks 2 of 2 shards"):
        attached(**required)
    with pytest.raises(ValueError, match="no cache: it has no cache"):
        attached(**{**required, "cache_folder": str(tmp_path)})
    with pytest.raises(ValueError, match=r"needs data\.cache_folder"):
        attached(**{**required, "cache_folder": None})
    with pytest.raises(ValueError, match="samples that repeat"):
        attached(cache="require", cache_folder="x")


def test_another_description_is_not_written_over(shards: Path, cache: Path) -> None:
    with pytest.raises(ValueError, match=r"made otherwise:\n  latents\.frames: \[4\] in the cache, \[6\] now"):
        encoded(shards, cache, frames=6)


class Barrier:
    root_device = torch.device("cpu")

    def barrier(self) -> None:
        """One rank waits for nobody."""


def filled(shards: Path, out: Path, **more: object) -> FlowData:
    data = FlowData(**settings(shards, num_workers=0, batch_size=8, cache="fill", cache_folder=str(out), **more))
    data.trainer = attached().trainer
    data.trainer.strategy = Barrier()
    data.setup("fit")
    return data


def test_fill_makes_what_is_missing_and_goes_on_after_a_stop(shards: Path, tmp_path: Path) -> None:
    out = tmp_path / "cache"
    first = steps(filled(shards, out))
    files = {file.name: file.stat().st_mtime_ns for file in out.iterdir()}
    assert sum(name.endswith(".done.parquet") for name in files) == 2 and not list(out.glob(".*"))
    next(out.glob("00001-*.done.parquet")).unlink()  # as if stopped before the marker
    (out / ".00001-x.host.1.part").write_bytes(b"broken off")
    again = filled(shards, out)
    assert differ(first, steps(again)) == 0 and not again.cache_use.cache.missing
    kept = {name for name in files if (out / name).stat().st_mtime_ns == files[name]}
    assert kept == {name for name in files if name.startswith("00000") or name == "cache.json"}
    assert any("kB per sample" in line for line in again.cache_use.lines(8))


@pytest.mark.parametrize(("dtype", "bound"), [("fp32", 0.0), ("fp16", 1e-3)])
def test_fill_keeps_what_it_is_told_to(shards: Path, tmp_path: Path, dtype: str, bound: float) -> None:
    batches = steps(filled(shards, tmp_path / "cache", cache_dtype=dtype))
    assert all(raw.dtype is DTYPE[dtype] for batch in batches for raw in batch.raw)
    assert differ(batches, steps(attached(**settings(shards)))) <= bound
    whole = tmp_path / "cache"
    assert json.loads((whole / "cache.json").read_text())["whole"] == {}, "neither of these networks has weights"
    other = next(each for each in DTYPE if each != dtype)
    with pytest.raises(ValueError, match=f"cache has numbers of float.., data.cache_dtype says {other}"):
        filled(shards, whole, cache_dtype=other)
    filled(shards, whole)


DTYPE = {"fp32": torch.float32, "fp16": torch.float16}


def by_key(batches: list[Batch]) -> dict[tuple, torch.Tensor]:
    return {
        (key, visit): latents
        for batch in batches
        for key, visit, latents in zip(
            batch.keys, batch.visits, [x for group in batch.latents for x in group], strict=True
        )
    }


def full(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    whole, left = tarfile.TarFile.addfile, [after]

    def addfile(self: tarfile.TarFile, *arguments: object) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        whole(self, *arguments)

    monkeypatch.setattr(tarfile.TarFile, "addfile", addfile)


def test_a_full_disk_ends_encoding_and_leaves_whole_shards(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        full(patched, after=10)  # in the second shard
        with pytest.raises(CacheFull, match=r"no room left .* 2 samples were done.*finished shards are"):
            encoded(shards, tmp_path / "cache")
    names = sorted(file.name.split("-")[0] for file in (tmp_path / "cache").iterdir())
    assert names == ["00000", "00000", "cache.json"]
    encoded(shards, tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 5


def test_a_full_disk_does_not_end_a_run(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full(monkeypatch, after=10)
    with pytest.warns(UserWarning, match="no room left .* is encoded online"):
        data = filled(shards, tmp_path / "cache")
    assert len(data.cache_use.cache.missing) == 1 and "encoded online" in data.cache_use.lines(8)[0]
    mixed, online = (by_key(steps(each)) for each in (data, attached(**settings(shards))))
    assert mixed.keys() == online.keys()
    assert all(torch.allclose(mixed[key], online[key], rtol=1e-3, atol=1e-3) for key in online)


def test_damage_costs_the_sample_and_is_found(shards: Path, cache: Path, tmp_path: Path) -> None:
    own = shutil.copytree(cache, tmp_path / "cache")
    tar = next(own.glob("00000-*.tar"))
    shard = ShardReader(str(own), tar.stem)
    start, size, _ = shard._rows["000000003"]
    data = bytearray(tar.read_bytes())
    data[start + size - 5] ^= 1
    data[shard._rows["000000004"][0]] ^= 255  # the header's length
    tar.write_bytes(data)
    shard.read("000000003")
    for key, check in (("000000003", True), ("000000004", False), ("9", False)):
        with pytest.raises(UnreadableSample, match="cache"):
            shard.read(key, check)
    recalled = attached(**settings(shards, cache="require", cache_folder=str(own)), batch_size=20)
    holes = [hole for _, batch in zip(range(1), recalled.train_dataloader(), strict=False) for hole in batch.holes]
    assert [(hole.key[-1], hole.reason) for hole in holes][:1] == [("000000004", "cache")]


def test_what_could_not_be_read_is_told_again(shards: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(shards, tmp_path / "shards")
    data = (copied / "00000.tar").read_bytes()
    at = data.index(b"\x89PNG", 512) + 60
    (copied / "00000.tar").write_bytes(data[:at] + bytes(40) + data[at + 40 :])
    build_index(copied / "00000.tar")  # from headers alone
    out = encoded(copied, tmp_path / "cache")
    shard = Cache(str(out), tar_digests([str(copied / "00000.tar")])).shard(str(copied / "00000.tar"))
    assert list(shard.done.failed) == ["000000000"] and shard.done.samples == 7
    with pytest.raises(UnreadableSample, match=shard.done.failed["000000000"][0]):
        shard.read("000000000")
    assert Total().plus(shard.done).failed[0][0] == "00000.tar: 000000000"


def test_numbers_that_do_not_fit_are_refused(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = HashedWords.say
    monkeypatch.setattr(HashedWords, "say", lambda *a: replace(x := said(*a), states=x.states * 1e5))
    with pytest.raises(ValueError, match=r"words: numbers that float16 cannot hold; --dtype bf16"):
        encoded(shards, tmp_path / "cache", "float16")
    assert json.loads((tmp_path / "cache" / "cache.json").read_text())["dtype"] == "float16"
    assert len(list((tmp_path / "cache").iterdir())) == 1

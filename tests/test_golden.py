"""Files of settled versions of the format decode to what they decoded to when they were made (`tests/golden`)."""

from __future__ import annotations

import hashlib
import json
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lmvic_ns.bitstream import layout
from lmvic_ns.bitstream.reader import Reader
from lmvic_ns.bitstream.writer import Writer
from lmvic_ns.codec.multiview import load_codec
from lmvic_ns.codec.symbols import SymbolReader
from lmvic_ns.codec.view_mode import Mode
from lmvic_ns.errors import BitstreamError

GOLDEN = Path(__file__).resolve().parent / "golden"
RECORDS = GOLDEN / "records.json"
NAMES = sorted(path.stem for path in GOLDEN.glob("*.lmvic"))
WEIGHTS = GOLDEN / "small.safetensors"


def decoded_facts(path: Path, weights: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Each view's picture in 8 bits; and what is exact: the mode, digests of its symbols and of its depth."""
    digests: list[Any] = []
    plain = SymbolReader.code

    def code(self, symbols, indexes):
        values = plain(self, symbols, indexes)
        digests[-1].update(values.to(torch.int32).numpy().tobytes())
        return values

    pictures, facts = {}, {}
    SymbolReader.code = code  # type: ignore[method-assign]
    try:
        codec = load_codec(weights)
        with Reader(path) as reader:
            names = [view.name for view in reader.header.views]
            modes = {name: reader.unit(number).image[0] for number, name in enumerate(names)}
            digests.append(hashlib.sha256())
            for view in codec.decode(reader):
                pictures[view.name] = (view.image * 255).round().byte().numpy()
                depth = None
                if view.inverse_depth is not None:
                    steps = (view.inverse_depth.double() / reader.header.inverse_depth_scale * 65536).round().int()
                    depth = hashlib.sha256(steps.numpy().tobytes()).hexdigest()[:32]
                facts[view.name] = {"mode": modes[view.name], "symbols": digests[-1].hexdigest()[:32], "depth": depth}
                digests.append(hashlib.sha256())
    finally:
        SymbolReader.code = plain  # type: ignore[method-assign]
    return pictures, facts


def section_facts(path: Path) -> dict[str, str]:
    """Digests of the file's sections."""
    with Reader(path) as reader:
        return {tag: hashlib.sha256(reader.section(tag) or b"").hexdigest()[:32] for tag in reader.sections()}


def test_all_kinds_of_units_are_here() -> None:
    records = json.loads(RECORDS.read_text())
    modes = {view["mode"] & 0x0F for record in records.values() for view in record["views"].values()}
    assert modes == {int(mode) for mode in Mode}
    assert any(view["mode"] & 0x10 for record in records.values() for view in record["views"].values())
    assert {tag for record in records.values() for tag in record["sections"]} >= {"META", "MASK", "PHOT"}


@pytest.mark.parametrize("name", NAMES)
def test_golden_files_decode(name: str) -> None:
    expected = json.loads(RECORDS.read_text())[name]
    pictures, facts = decoded_facts(GOLDEN / f"{name}.lmvic", WEIGHTS)
    assert facts == expected["views"]
    assert section_facts(GOLDEN / f"{name}.lmvic") == expected["sections"]
    with np.load(GOLDEN / f"{name}.npz") as kept:
        assert set(kept.files) == set(pictures)
        for view, picture in pictures.items():
            error = np.square(kept[view].astype(float) - picture).mean()
            # rounding of another machine: a few pixels by one level
            assert error == 0 or 10 * math.log10(255**2 / error) > 60


def with_section(path: Path, tag: str) -> Path:
    """A golden file again with one section more."""
    with Reader(GOLDEN / "alone.lmvic") as reader, Writer(path, reader.header) as writer:
        for view in reader.header.order:
            unit = reader.unit(view)
            writer.add_unit(view, unit.depth, unit.image)
        writer.add_section(tag, b"of a later version")
    return path


def test_a_newer_minor_version_and_its_sections_are_read(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(layout, "MINOR", layout.MINOR + 3)
    path = with_section(tmp_path / "newer.lmvic", "NEWS")
    with Reader(path) as reader:
        assert reader.sections() == ("NEWS",) and not reader.problems
    assert len(list(load_codec(WEIGHTS).decode(path))) == 4


def test_a_section_that_must_be_known_is_refused(tmp_path) -> None:
    path = with_section(tmp_path / "other.lmvic", "xNEW")
    with pytest.raises(BitstreamError, match="xNEW: this version does not know it"):
        Reader(path)


def test_a_damaged_tag_does_not_cost_the_file(tmp_path) -> None:
    data = bytearray((GOLDEN / "capture.lmvic").read_bytes())
    data[data.index(layout.SECTION_SYNC + b"META") + 4] ^= 0x20  # the bit between M and m
    path = tmp_path / "damaged.lmvic"
    path.write_bytes(data)
    with Reader(path) as reader:
        assert "META" not in reader.sections() and list(reader.damaged_tags()) == ["mETA"]
    assert len(list(load_codec(WEIGHTS).decode(path))) == 4


@pytest.mark.parametrize("major", [0, 2, 6, 7])
def test_versions_of_before_are_named(major: int) -> None:
    fields = layout.PREAMBLE.pack(layout.MAGIC, major, 0, 0, 10, 10)
    with pytest.raises(BitstreamError, match=f"found version {major} of before the format was settled"):
        layout.stored_header_bytes(fields + struct.pack("<I", 0))


def test_weights_are_found_by_their_hash(tmp_path, monkeypatch) -> None:
    from lmvic_ns.codec.file import codec_of_file
    from lmvic_ns.errors import WeightsError

    with Reader(GOLDEN / "alone.lmvic") as reader:
        with pytest.raises(WeightsError, match="LMVIC_WEIGHTS"):
            codec_of_file(reader)
        (tmp_path / "any name.safetensors").write_bytes(WEIGHTS.read_bytes())
        (tmp_path / "other.safetensors").write_bytes(b"no weights")
        monkeypatch.setenv("LMVIC_WEIGHTS", str(tmp_path))
        assert codec_of_file(reader).weights.name == "small"

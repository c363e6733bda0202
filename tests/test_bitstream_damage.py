"""The .lmvic file: nothing unfinished looks whole, interrupted encodes go on, damage is named."""

from __future__ import annotations

import dataclasses
import errno
import os
import struct
from pathlib import Path

import pytest
from bitstream_files import ORDER, VIEWS, parts, replaced, scene, write

from lmvic_ns.bitstream import layout
from lmvic_ns.bitstream import writer as writer_module
from lmvic_ns.bitstream.crc32c import crc32c
from lmvic_ns.bitstream.header import FileHeader, pack_header
from lmvic_ns.bitstream.reader import Reader
from lmvic_ns.bitstream.writer import Writer
from lmvic_ns.errors import BitstreamError, LmvicError


@pytest.fixture
def header() -> FileHeader:
    return FileHeader.build(**scene())


@pytest.fixture
def path(tmp_path: Path, header: FileHeader) -> Path:
    return write(tmp_path / "scene.lmvic", header)


# ---------------------------------------------------------------------------------------------------------------------
# interruption


def test_an_exception_leaves_nothing(tmp_path: Path, header: FileHeader) -> None:
    with pytest.raises(RuntimeError), Writer(tmp_path / "a.lmvic", header) as writer:
        writer.add_unit(0, b"d", b"i")
        assert not (tmp_path / "a.lmvic").exists()
        raise RuntimeError("stop")
    assert list(tmp_path.iterdir()) == []


def test_an_older_file_stays_until_the_new_one_is_whole(path: Path, header: FileHeader) -> None:
    before = path.read_bytes()
    with pytest.raises(RuntimeError), Writer(path, header) as writer:
        writer.add_unit(0, b"d", b"i")
        raise RuntimeError("stop")
    assert path.read_bytes() == before


@pytest.mark.parametrize("torn", [0, 1, 30, 200])
def test_resume_goes_on_after_the_last_whole_unit(path: Path, header: FileHeader, torn: int) -> None:
    """The result is byte for byte that of an encode without interruption."""
    whole = path.read_bytes()
    path.unlink()
    writer = Writer.resume(path, header)
    writer.add_section("META", b'{"software": "test"}')
    for view in ORDER[:3]:
        writer.add_unit(view, *parts(view))
    writer.abort()
    partial = path.with_name(path.name + ".partial")
    assert partial.exists() and not path.exists()
    if torn:
        partial.write_bytes(partial.read_bytes() + whole[partial.stat().st_size :][:torn])
    with Writer.resume(path, header) as writer:
        assert writer.done == frozenset(ORDER[:3])
        assert writer.has_section("META")
        assert writer.unit(ORDER[1]).image == parts(ORDER[1])[1]
        for view in ORDER[3:]:
            writer.add_unit(view, *parts(view))
    assert path.read_bytes() == whole and not partial.exists()


def test_resume_after_a_kill_at_any_byte(tmp_path: Path, header: FileHeader, path: Path) -> None:
    whole = path.read_bytes()
    target = tmp_path / "b.lmvic"
    for size in [*range(0, len(whole), 61), len(whole)]:
        (tmp_path / "b.lmvic.partial").write_bytes(whole[:size])
        with Writer.resume(target, header) as writer:
            if not writer.has_section("META"):
                writer.add_section("META", b'{"software": "test"}')
            for view in ORDER:
                if view not in writer.done:
                    writer.add_unit(view, *parts(view))
        assert target.read_bytes() == whole


def test_without_resume_an_interrupted_encode_is_not_lost(tmp_path: Path, header: FileHeader) -> None:
    target, partial = tmp_path / "a.lmvic", tmp_path / "a.lmvic.partial"
    writer = Writer.resume(target, header)
    writer.abort()
    Writer(target, header).abort()  # no view is in it
    writer = Writer.resume(target, header)
    writer.add_unit(0, *parts(0))
    writer.abort()
    before = partial.read_bytes()
    with pytest.raises(LmvicError, match=f"holds 1 of {VIEWS} views of an interrupted encode"):
        Writer(target, header)
    assert partial.read_bytes() == before
    partial.write_bytes(b"notes of mine")
    with pytest.raises(LmvicError, match="is not a file that lmvic began"):
        Writer(target, header)
    assert partial.read_bytes() == b"notes of mine"


@pytest.mark.parametrize("change", [{"quality": 20}, {"encode": bytes(7) + b"!"}])
def test_units_of_another_encode_are_not_whole_in_this_file(path: Path, header: FileHeader, change: dict) -> None:
    """Even with the same cameras and names: a child decoded with another encode's reference would be wrong without a word."""
    own = path.read_bytes()
    other = write(path.with_name("b.lmvic"), FileHeader.build(**scene(**change))).read_bytes()
    front = layout.PREAMBLE_BYTES + layout.stored_header_bytes(own)
    others = layout.PREAMBLE_BYTES + layout.stored_header_bytes(other)
    with Reader(replaced(path, own[:front] + other[others:])) as reader:  # under the other file's index
        assert sorted(reader.damaged_views()) == list(range(VIEWS))
        with pytest.raises(BitstreamError, match="section META: damaged"):
            reader.section("META")
    with Reader(replaced(path, own[:front] + other[others:-40])) as reader:  # and found by searching
        assert sorted(reader.damaged_views()) == list(range(VIEWS)) and reader.sections() == ()


def test_resume_refuses_another_header(tmp_path: Path, header: FileHeader) -> None:
    Writer.resume(tmp_path / "a.lmvic", header).abort()
    other = FileHeader.build(**scene(quality=20))
    with pytest.raises(LmvicError, match="begun with other settings"):
        Writer.resume(tmp_path / "a.lmvic", other)
    assert (tmp_path / "a.lmvic.partial").exists()


@pytest.mark.parametrize("resume", [False, True])
def test_a_full_disk_is_one_clear_line(
    tmp_path: Path, header: FileHeader, monkeypatch: pytest.MonkeyPatch, resume: bool
) -> None:
    writer = Writer(tmp_path / "a.lmvic", header, resume=resume)
    writer.add_unit(0, *parts(0))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(writer_module.Writer, "_append", full)
    with pytest.raises(LmvicError, match=r"cannot write .*No space left"):
        writer.add_unit(1, *parts(1))
    assert [p.name for p in tmp_path.iterdir()] == (["a.lmvic.partial"] if resume else [])
    monkeypatch.undo()
    with pytest.raises(LmvicError, match="closed"):
        writer.add_unit(1, *parts(1))
    if resume:
        with Writer.resume(tmp_path / "a.lmvic", header) as again:
            assert again.done == {0}
            for view in range(1, VIEWS):
                again.add_unit(view, *parts(view))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a device that is always full")
def test_a_really_full_disk(tmp_path: Path, header: FileHeader) -> None:
    (tmp_path / "a.lmvic.partial").symlink_to("/dev/full")
    with pytest.raises(LmvicError, match="No space left"):
        Writer(tmp_path / "a.lmvic", header)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_one_clear_line(tmp_path: Path, header: FileHeader) -> None:
    with pytest.raises(LmvicError, match=r"cannot write .*No such file"):
        Writer(tmp_path / "no" / "a.lmvic", header)
    with pytest.raises(BitstreamError, match=r"cannot read .*No such file"):
        Reader(tmp_path / "a.lmvic")
    with pytest.raises(BitstreamError, match="cannot read"):
        Reader(tmp_path)


# ---------------------------------------------------------------------------------------------------------------------
# damage


def test_a_flip_in_one_unit_names_it_and_leaves_the_others(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[data.find(parts(1)[1]) + 5] ^= 4
    with Reader(replaced(path, data)) as reader:
        assert reader.problems == []
        with pytest.raises(BitstreamError, match=r"view 1 \(images/frame_00001.jpg\): image part: damaged: expected CRC"):
            reader.unit(1)
        assert set(reader.damaged_views()) == {1, 3, 4}
        assert len(reader.verify()) == 1
        for view in (0, 2, 3, 4, 5):
            assert (reader.unit(view).depth, reader.unit(view).image) == parts(view)


@pytest.mark.parametrize("kind", ["cut", "lengthened", "hole", "inserted", "index"])
def test_units_are_found_again_without_the_index(path: Path, kind: str) -> None:
    data = path.read_bytes()
    inside = data.find(parts(1)[1]) + 100  # of view 1, third in the file
    if kind == "cut":
        data, lost = data[:inside], {1, 3, 4, 5}
    elif kind == "lengthened":
        data, lost = data + b"more", set()
    elif kind == "hole":
        data, lost = data[:inside] + data[inside + 50 :], {1}
    elif kind == "inserted":
        data, lost = data[:inside] + bytes(1000) + data[inside:], {1}
    else:
        data, lost = data[:-20] + b"\xff\xff" + data[-18:], set()
    with Reader(replaced(path, data)) as reader:
        assert "searched the file" in reader.problems[0]
        for view in range(VIEWS):
            if view in lost:
                with pytest.raises(BitstreamError, match=f"view {view} .*found no intact one"):
                    reader.unit(view)
            else:
                assert (reader.unit(view).depth, reader.unit(view).image) == parts(view)
        assert {view for view, size in enumerate(reader.sizes()) if size is None} == lost
        assert reader.section("META") is not None


def test_unknown_sections_are_skipped(tmp_path: Path, header: FileHeader) -> None:
    with Writer(tmp_path / "a.lmvic", header) as writer:
        for view in ORDER:
            writer.add_section(f"SEC{view}", bytes(view))
            writer.add_unit(view, *parts(view))
    with Reader(tmp_path / "a.lmvic") as reader:
        assert reader.verify() == [] and len(reader.sections()) == VIEWS
        assert reader.section("SEC5") == bytes(5)


def test_a_damaged_header_stops_at_once(path: Path) -> None:
    data = path.read_bytes()
    for at in (0, 8, 10, 12, 16, 20, 24, 60):
        damaged = bytearray(data)
        damaged[at] ^= 1
        with pytest.raises(BitstreamError, match=r"scene.lmvic: "):
            Reader(replaced(path, damaged))
    for size in (0, 5, 23, 24, 80):
        with pytest.raises(BitstreamError):
            Reader(replaced(path, data[:size]))


def resealed(fields: bytes, stored: bytes) -> bytes:
    return fields + struct.pack("<I", crc32c(stored, crc32c(fields))) + stored


def test_a_header_that_claims_to_expand_without_bound_is_refused(path: Path) -> None:
    import zlib

    bomb = zlib.compress(bytes(1 << 24), 9)
    for claimed in (1 << 24, 1 << 31, 4 * len(bomb)):
        fields = layout.PREAMBLE.pack(layout.MAGIC, layout.MAJOR, 0, 1, len(bomb), claimed)
        with pytest.raises(BitstreamError, match="header: expected"):
            Reader(replaced(path, resealed(fields, bomb)))


def test_a_newer_version_says_so(path: Path, header: FileHeader) -> None:
    body = pack_header(header)
    for major, flags in ((8, 0), (layout.MAJOR, 2)):
        fields = layout.PREAMBLE.pack(layout.MAGIC, major, 0, flags, len(body), len(body))
        with pytest.raises(BitstreamError, match="newer lmvic-ns"):
            Reader(replaced(path, resealed(fields, body)))
    fields = layout.PREAMBLE.pack(layout.MAGIC, layout.MAJOR, 7, 0, len(body), len(body))  # a newer minor version is readable
    assert Reader(replaced(path, resealed(fields, body))).header == header


def test_an_older_version_says_so(path: Path, header: FileHeader) -> None:
    body = pack_header(header)
    fields = layout.PREAMBLE.pack(layout.MAGIC, layout.MAJOR - 1, 0, 0, len(body), len(body))
    with pytest.raises(BitstreamError, match=f"found version {layout.MAJOR - 1} of before"):
        Reader(replaced(path, resealed(fields, body)))


def hostile(path: Path, blocks: list[layout.Block]) -> Path:
    data = path.read_bytes()
    size = layout.TRAILER.unpack(data[-layout.TRAILER.size :])[0]
    return replaced(path, data[: -layout.TRAILER.size - size] + layout.pack_index_and_trailer(blocks))


def test_a_hostile_index_cannot_point_outside_or_twice(path: Path) -> None:
    with Reader(path) as reader:
        section = next(iter(reader._sections.values()))
        good = sorted([section, *reader._units.values()], key=lambda block: block.offset)
    original = path.read_bytes()
    cases = {
        "blocks inside the file": [*good[:-1], dataclasses.replace(good[-1], size=1 << 31)],
        "each of 6 views once": [*good[:-1], dataclasses.replace(good[-1], entry=good[1].entry)],
        "its blocks to end": good[:-1],
        "they end": [*good[:-1], dataclasses.replace(good[-1], size=good[-1].size - 1)],
        "found view 98": [*good[:-1], dataclasses.replace(good[-1], entry=99)],
        "is missing": [*good[:-1], dataclasses.replace(good[-1], entry=0)],
        "found one of 3 bytes": [dataclasses.replace(good[0], size=3), *good[1:]],
    }
    for message, blocks in cases.items():
        path.write_bytes(original)
        with Reader(hostile(path, blocks)) as reader:
            assert message in reader.problems[0]
            for view in range(VIEWS):
                assert (reader.unit(view).depth, reader.unit(view).image) == parts(view)
    path.write_bytes(original)
    swapped = [good[0], dataclasses.replace(good[1], entry=good[2].entry), *good[2:]]
    swapped[2] = dataclasses.replace(good[2], entry=good[1].entry)
    with Reader(hostile(path, swapped)) as reader:
        assert reader.problems == []
        for view in range(VIEWS):  # found where they are, not where the index says
            assert (reader.unit(view).depth, reader.unit(view).image) == parts(view)
        assert None not in reader.sizes()


def test_forged_marks_do_not_make_the_search_slow(path: Path) -> None:
    import time

    data = path.read_bytes()
    start = data.find(layout.UNIT_SYNC)
    head = layout.UNIT_FIELDS.pack(layout.UNIT_SYNC, 0, 0, 2_000_000) + bytes(8)
    forged = data[:start] + head * 100_000 + bytes(2_000_000)
    begin = time.perf_counter()
    with Reader(replaced(path, forged)) as reader:
        assert reader.problems and len(reader.damaged_views()) == VIEWS
    assert time.perf_counter() - begin < 5


def test_views_larger_than_a_program_affords_are_refused(path: Path) -> None:
    with pytest.raises(BitstreamError, match=r"view 0: expected at most 0\.001 megapixels, found 3072x2048"):
        Reader(path, max_pixels=1000)

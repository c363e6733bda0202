"""Damages files in every way and checks how decoding ends: `python benchmarks/fuzz.py --cases 20000`.

Two kinds of cases. *Damage* leaves checksums as they are: every view whose unit, and whose ancestors' units, are still
whole somewhere in the file must decode to exactly what it was, every other view must end in a `BitstreamError`. *Hostile*
cases repair every checksum: decoding may give another picture, but must end, with views that were not touched unchanged.
In all cases: no other exception, no crash, no hang over 10 s, memory at most twice that of a normal decode (programs pass
`max_pixels`, here that of the whole file), and errors that name the place and what was expected. Cases run in a child
process, so a crash is counted and not suffered.

Compact sparse points are decoded with the views and judged like one more view, which no other needs; so are the capture's
records (META), masks (MASK) and photograph data (PHOT). A section that is gone must not be gone without a word. Of real
files, one view of each case is also written as a dataset, in one of several forms.

Without `--codec` the files are synthetic, with the structure of real ones (two-step entropy-coded parts, references);
with `--codec FILE...` they are real and the codec decodes them; `--codec made` makes small ones with each of the weights:

    python benchmarks/fuzz.py --cases 100000 --codec made --weights tiny base --memory 1024

(some ten cases a second on one core). `--memory MB` is what the process may take beyond its normal decodes; without it
only Python's and numpy's memory is watched, and torch's is not.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import re
import resource
import signal
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

from fuzz_capture import CAPTURE_MUTATIONS
from fuzz_mutations import FILE_MUTATIONS, FileParts, Mutated
from fuzz_real import (
    RealCodec,
    capture_data,
    decode_capture,
    decode_point_sections,
    limit_memory,
    points_section,
    write_real_files,
)

from lmvic_ns._util.output import check_new, write_whole
from lmvic_ns.bitstream import rans
from lmvic_ns.bitstream.header import FileHeader
from lmvic_ns.bitstream.reader import Reader
from lmvic_ns.bitstream.tables import gaussian_tables
from lmvic_ns.bitstream.writer import Writer
from lmvic_ns.errors import BitstreamError, WeightsError
from lmvic_ns.sparse_points.compact import TAG
from lmvic_ns.sparse_points.grid import Pinholes

TIME_LIMIT = 10.0  # processor seconds a case; a machine that is busy with other work makes no hang
WAIT_LIMIT = 300.0  # seconds a case, so that one that waits for something forever is found as well
MEMORY_LIMIT = 2.0  # times that of a normal decode
MEMORY_FLOOR = 1 << 18  # bytes: a normal decode of a file of two thumbnails takes less than what inflating a header takes
NAMES_THE_PLACE = re.compile(r"view \d+|header|index|trailer|section|magic number")
SAYS_WHAT_WAS_EXPECTED = re.compile(r"expected|not what an encoder writes|were made with|was made with")

MUTATIONS = {**FILE_MUTATIONS, **CAPTURE_MUTATIONS}
Decoded = dict[int, str]  # digest of each view that decoded
Decode = Callable[[Path, int], tuple[Decoded, dict[int, str]]]  # file, most pixels a view -> digests, reasons


class HangError(Exception):
    """A case took longer than the limit."""


# --- what decodes ----------------------------------------------------------------------------------------------------


class SyntheticCodec:
    """Stands in for the networks: entropy coding, conditional tables and references are those of a real file."""

    channels = 8

    def __init__(self) -> None:
        self.tables = gaussian_tables(np.exp(np.linspace(np.log(0.05), np.log(20), 24)).tolist(), certain_below=0.06)

    def shapes(self, width: int, height: int) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
        """Of hyper-latent and latent: at 1/32 and 1/8 of the picture."""
        return (4, -(-height // 32), -(-width // 32)), (self.channels, -(-height // 8), -(-width // 8))

    def latent_indexes(self, hyper: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
        """Tables of the latent, from the decoded hyper-latent alone."""
        level = np.abs(hyper.astype(np.int64)).sum(axis=0).repeat(4, axis=0).repeat(4, axis=1)[: shape[1], : shape[2]]
        return np.broadcast_to(np.minimum(level, len(self.tables) - 1), shape).astype(np.uint8)

    def encode_part(self, rng: np.random.Generator, width: int, height: int) -> bytes:
        hyper_shape, shape = self.shapes(width, height)
        hyper = np.rint(rng.normal(0, 3, hyper_shape)).astype(np.int16)
        indexes = self.latent_indexes(hyper, shape)
        latent = np.rint(rng.normal(0, 0.05 * 1.3 ** indexes.astype(float))).astype(np.int16)
        latent[self.tables.sizes[indexes] == 1] = 0
        encoder = rans.Encoder(self.tables)
        encoder.encode(hyper, np.full(hyper_shape, 20, np.uint8))
        encoder.encode(latent, indexes)
        return encoder.finish()

    def decode_part(self, data: bytes, width: int, height: int, name: str) -> np.ndarray:
        hyper_shape, shape = self.shapes(width, height)
        decoder = rans.Decoder(data, self.tables, name=name)
        hyper = decoder.decode(np.full(hyper_shape, 20, np.uint8))
        latent = decoder.decode(self.latent_indexes(hyper, shape))
        decoder.finish()
        return latent.astype(np.int64)

    def write(self, path: Path, views: int = 6, width: int = 160, height: int = 120, seed: int = 0) -> None:
        """A file whose tree has branches; the last view is a root of its own, and smaller."""
        rng = np.random.default_rng(seed)
        motions = np.tile(np.eye(4), (views, 1, 1))
        motions[:, :3, 3] = rng.normal(size=(views, 3))
        header = FileHeader.build(
            names=[f"frame_{i:03d}.png" for i in range(views)],
            intrinsics=np.tile([[200.0, 0, width / 2], [0, 200.0, height / 2], [0, 0, 1]], (views, 1, 1)),
            world_to_camera=motions,
            height=[height] * (views - 1) + [height // 2],
            width=[width] * views,
            parent=[-1, *[(i - 1) // 2 for i in range(1, views - 1)], -1],
            order=range(views),
            preset="synthetic",
            weights_name="none",
            weights_hash=bytes(16),
            quality=10.0,
            view_quality=[10.0] * (views - 1) + [20.0],
            inverse_depth_scale=0.5,
            parameters={"near": 0.5},
        )
        with Writer(path, header) as writer:
            for tag, data in capture_data([(view.height, view.width) for view in header.views], path.parent, seed).items():
                writer.add_section(tag, data)
            writer.add_section(TAG, points_section(Pinholes.of_file(header), 100, seed))
            for view in header.order:
                record = header.views[view]
                depth, image = (self.encode_part(rng, record.width, record.height) for _ in range(2))
                writer.add_unit(view, depth, image)

    def __call__(self, path: Path, max_pixels: int) -> tuple[Decoded, dict[int, str]]:
        decoded: Decoded = {}
        reasons: dict[int, str] = {}
        states: dict[int, np.ndarray] = {}
        with Reader(path, max_pixels=max_pixels) as reader:
            reader.sizes()
            for view in reader.header.order:
                record = reader.header.views[view]
                if record.parent in reasons:
                    reasons[view] = reasons[record.parent]
                    continue
                try:
                    unit = reader.unit(view)
                    parts = [
                        self.decode_part(data, record.width, record.height, f"view {view}: {part} part")
                        for part, data in (("depth", unit.depth), ("image", unit.image))
                    ]
                except BitstreamError as error:
                    reasons[view] = str(error)
                    continue
                state = parts[0] * 3 + parts[1]
                if record.parent >= 0:
                    parent = states[record.parent]
                    state = state + parent.sum()
                states[view] = state
                decoded[view] = hashlib.sha256(state.tobytes()).hexdigest()
            decode_point_sections(reader, decoded, reasons)
            decode_capture(reader, decoded, reasons)
        return decoded, reasons


# --- one case --------------------------------------------------------------------------------------------------------


@dataclass
class Result:
    """How one case ended."""

    mutation: str
    outcome: str  # whole, partial, refused, other (hostile files that decode to something else), or failure
    seconds: float
    memory: float  # traced peak, times that of a normal decode; 0 where it was not traced
    resident: float  # megabytes, of the process so far
    failure: str = ""


def undamaged(parts: FileParts, data: bytes) -> set[int]:
    """Views that must still decode: front of the file whole, own unit and those of all ancestors somewhere in it."""
    if not data.startswith(parts.front):
        return set()
    whole = {view for view, unit in parts.units.items() if unit in data}
    return {view for view in whole if whole.issuperset(parts.header.ancestors(view))}


def judge(parts: FileParts, case: Mutated, normal: Decoded, decoded: Decoded, reasons: dict[int, str]) -> tuple[str, str]:
    """Outcome and, for a failure, what is wrong."""
    changed = {view for view, digest in decoded.items() if normal.get(view) != digest}
    if not case.hostile:
        must = undamaged(parts, case.data)
        if changed:
            return "failure", f"views {sorted(changed)} decoded to something else without an error"
        if must - set(decoded):
            view = min(must - set(decoded))
            return "failure", f"view {view} is whole but was refused: {reasons.get(view)}"
        silent = set(normal) - set(decoded) - set(reasons)
        if silent and -1 not in reasons:
            return "failure", f"{sorted(silent)} are gone without a word"
    elif case.untouched is not None:
        wrong = {view for view in case.untouched if decoded.get(view) != normal[view]}
        if wrong:
            return "failure", f"views {sorted(wrong)} were not touched but changed: {reasons.get(min(wrong))}"
    for view, reason in reasons.items():
        if not (NAMES_THE_PLACE.search(reason) and SAYS_WHAT_WAS_EXPECTED.search(reason)):
            return "failure", f"view {view}: the message names no place or no expectation: {reason}"
    if changed or (case.hostile and set(decoded) - set(normal)):
        return "other", ""
    return ("whole" if set(decoded) == set(normal) else "partial"), ""


def run_case(decode: Decode, parts: FileParts, normal: Decoded, normal_peak: int, path: Path, seed: tuple[int, ...]) -> Result:
    """Damage one file, decode it, and judge."""
    rng = np.random.default_rng(seed)
    name = list(MUTATIONS)[seed[-1] % len(MUTATIONS)]
    case = MUTATIONS[name](parts, rng)
    path.write_bytes(case.data)
    # tracing makes a case five times slower: always where sizes are forged, else in every eighth round
    traced = "header" in name or seed[-1] // len(MUTATIONS) % 8 == 0
    if traced:
        tracemalloc.start()
    begin = time.process_time()
    signal.setitimer(signal.ITIMER_PROF, 3 * TIME_LIMIT)
    signal.setitimer(signal.ITIMER_REAL, WAIT_LIMIT)
    try:
        decoded, reasons = decode(path, parts.max_pixels)
        outcome, failure = judge(parts, case, normal, decoded, reasons)
    except (BitstreamError, WeightsError) as error:
        outcome, failure = "refused", ""
        message = str(error)
        if not (NAMES_THE_PLACE.search(message) or isinstance(error, WeightsError)) or not SAYS_WHAT_WAS_EXPECTED.search(
            message
        ):
            outcome, failure = "failure", f"the message names no place or no expectation: {message}"
        elif not case.hostile and case.data.startswith(parts.front):
            outcome, failure = "failure", f"refused as a whole though its header is whole: {message}"
        elif case.untouched is not None:
            outcome, failure = "failure", f"refused as a whole though views were not touched: {message}"
    except HangError:
        outcome, failure = "failure", f"hang: over {3 * TIME_LIMIT:.0f} s of work or {WAIT_LIMIT:.0f} s of waiting"
    except Exception as error:
        outcome, failure = "failure", f"{type(error).__name__}: {error}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
    seconds = time.process_time() - begin
    memory = tracemalloc.get_traced_memory()[1] / max(normal_peak, MEMORY_FLOOR)  # 0 if not traced
    tracemalloc.stop()
    if seconds > TIME_LIMIT:
        outcome, failure = "failure", f"{seconds:.1f} s"
    if memory > MEMORY_LIMIT:
        outcome, failure = "failure", f"memory: {memory:.1f} times that of a normal decode"
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return Result(name, outcome, seconds, memory, resident, failure)


def raise_hang(*_: Any) -> None:
    raise HangError


@dataclass
class Job:
    """What a child process is to do; `first` moves on if it has to be started again."""

    files: list[Path]
    cases: int
    seed: int
    weights: Sequence[str] | None
    memory: int | None = None  # megabytes beyond what normal decodes take
    first: int = 0
    names: list[str] = field(default_factory=list)


def child(job: Job, pipe: Any) -> None:
    """Runs cases and sends each result; the parent notices if it dies."""
    signal.signal(signal.SIGALRM, raise_hang)
    signal.signal(signal.SIGPROF, raise_hang)
    decode: Decode = SyntheticCodec() if job.weights is None else RealCodec(job.weights)
    prepared = []
    for path in job.files:
        parts = FileParts.read(path)
        decode(path, parts.max_pixels)  # compiled and cached by now
        tracemalloc.start()
        normal, reasons = decode(path, parts.max_pixels)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        if reasons or not set(range(len(parts.header.views) + len(parts.sections))) <= set(normal):
            raise SystemExit(f"{path}: does not decode as it is: {reasons}")
        prepared.append((parts, normal, peak))
    for parts, _, _ in prepared:
        parts.others = [other.data for other, _, _ in prepared if other is not parts]
    pipe.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    if job.memory is not None:
        limit_memory(job.memory)
    with tempfile.TemporaryDirectory() as folder:
        for number in range(job.first, job.cases):
            parts, normal, peak = prepared[number // len(MUTATIONS) % len(prepared)]
            pipe.send((number, run_case(decode, parts, normal, peak, Path(folder) / "case.lmvic", (job.seed, number))))
    pipe.send(None)


def run_all(
    job: Job, progress: Callable[[int], None] = lambda number: None, seconds: float = float("inf")
) -> tuple[list[Result], float]:
    """All cases, or as many as the time allows; and the resident megabytes of a process after normal decodes."""
    context = multiprocessing.get_context("spawn")
    results: list[Result] = []
    baseline = 0.0
    end = time.monotonic() + seconds
    while True:
        receive, send = context.Pipe(duplex=False)
        process = context.Process(target=child, args=(job, send), daemon=True)
        process.start()
        send.close()
        try:
            started = receive.recv()
            baseline = baseline or started
            while (message := receive.recv()) is not None:
                results.append(message[1])
                job.first = message[0] + 1
                progress(job.first)
                if time.monotonic() > end:
                    process.terminate()
                    break
            process.join()
            return results, baseline
        except EOFError:
            process.join()
            if not baseline:
                raise SystemExit("the files do not decode as they are") from None
            name = list(MUTATIONS)[job.first % len(MUTATIONS)]
            results.append(Result(name, "failure", 0, 0, 0, f"case {job.first}: the process died: {process.exitcode}"))
            job.first += 1


def table(results: list[Result], baseline: float) -> str:
    """Markdown: a row for each kind of mutation."""
    outcomes = ("whole", "partial", "refused", "other", "failure")
    head = ["mutation", "cases", "all views right", "some right, rest named", "refused", "other picture", "failures"]
    lines = ["| " + " | ".join([*head, "slowest, ms", "memory"]) + " |", "|---" + "|---:" * (len(head) + 1) + "|"]
    for name in [*MUTATIONS, "all"]:
        rows = [r for r in results if name in ("all", r.mutation)]
        if rows:
            counts = [str(sum(r.outcome == outcome for r in rows)) for outcome in outcomes]
            slowest, memory = max(r.seconds for r in rows) * 1000, max(r.memory for r in rows)
            lines.append(f"| {name} | {len(rows)} | {' | '.join(counts)} | {slowest:.0f} | {memory:.2f} |")
    resident = max(r.resident for r in results)
    lines.append(f"\nResident memory: {baseline:.0f} MB after normal decodes, {resident:.0f} MB at most in all cases.")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--codec", type=Path, nargs="+", metavar="FILE", help="real files, decoded by the codec; `made`: made here"
    )
    parser.add_argument("--weights", nargs="+", default=["tiny"], help="names or paths of the codec's weights")
    parser.add_argument("--memory", type=int, metavar="MB", help="most that a process may take beyond its normal decodes")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after this time")
    parser.add_argument("--json", type=Path, help="write all failures and the counts here")
    arguments = parser.parse_args()
    if arguments.json:
        check_new(arguments.json, inputs=arguments.codec or ())
    with tempfile.TemporaryDirectory() as folder:
        files = arguments.codec or []
        if files == [Path("made")]:
            files = write_real_files(Path(folder), arguments.weights)
        elif not files:
            for i, (views, width, height) in enumerate([(6, 160, 120), (2, 48, 40), (12, 96, 64), (3, 640, 480)]):
                files.append(Path(folder) / f"synthetic_{i}.lmvic")
                SyntheticCodec().write(files[-1], views, width, height, seed=i)
        job = Job(files, arguments.cases, arguments.seed, arguments.weights if arguments.codec else None, arguments.memory)
        begin = time.perf_counter()

        def progress(number: int) -> None:
            if number % 1000 == 0:
                print(f"{number} cases, {time.perf_counter() - begin:.0f} s", file=sys.stderr, flush=True)

        results, baseline = run_all(job, progress, arguments.seconds)
    print(table(results, baseline))
    failures = [(number, r) for number, r in enumerate(results) if r.outcome == "failure"]
    for number, result in failures[:20]:
        print(f"case {number} ({result.mutation}): {result.failure}")
    if arguments.json:
        report = {"cases": len(results), "failures": [{"case": n, **asdict(r)} for n, r in failures]}
        write_whole(arguments.json, json.dumps(report, indent=2))
    raise SystemExit(1 if failures else 0)


if __name__ == "__main__":
    main()

"""From a data config to batches: planned, decoded, bucketed, the same whatever the process count, resumed exactly.

The order is plan -> make -> rows of this process -> batch. Step s of training is a pure function of the config, the
seed and s: windows of consecutive examples are planned from the index, sorted by length, cut into batches, and the
batches of a window are shuffled. So all processes draw the same bucket at each step, and the whole state of the data
is one integer.

A data config (defaults in ``DEFAULTS``; ``source`` and ``examples`` are needed)::

    dict(source="samples:speech",                            # jaxtok.data.sources.open_source
         examples=dict(target="jaxtok.data.speech:Utterances"),
         languages=(),                                       # only these in training; () for all
         evaluation=dict(languages=(), words=1, seconds=0.0),  # what of a held-out split is evaluated
         # of images and their tokens instead: groups=(), styles=(), evaluation=dict(groups=(), styles=())
         window=16,                                          # batches that are sorted by length together
         workers=0,                                          # decoding processes; 0 decodes in a thread
         prefetch=2,                                         # batches decoded ahead
         max_corrupt=0.01)                                   # the share of unreadable records that stops a run
"""

import difflib
import functools
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import grain
import numpy as np
from absl import logging

from jaxtok.build import build
from jaxtok.data import records, sources
from jaxtok.data.schedule import Bucket, Row, Rows, Schedule
from jaxtok.data.sources import CorruptRecord

DEFAULTS: dict[str, Any] = {
    "evaluation": {},
    "window": 16,
    "workers": 0,
    "prefetch": 2,
    "max_corrupt": 0.01,
}
_EVALUATION_ORDER = 20260101  # the fixed seed that orders a split, so that `limit` takes a mixture


def training(
    data: Mapping[str, Any], *, batch_size: int, seed: int, process_index: int = 0, process_count: int = 1
) -> "Batches":
    """Endless training batches: an iterator of dicts of numpy arrays with the rows of this process.

    Rows ``[p * B / n, (p + 1) * B / n)`` of the global batch belong to process p of n, as
    ``jax.make_array_from_process_local_data`` wants them. ``get_state``/``set_state`` hold one integer, the next
    step; the state of one process count or number of workers resumes another. It is a Grain iterator, so Orbax
    checkpoints it as it is.

    Raises:
      ValueError: in one sentence, for an unknown key, an unusable source, or a batch that processes cannot share.
    """
    config = settings(data)
    local = _local_rows(batch_size, process_count)
    source, examples, planner = _planned(config)
    schedule = Schedule(planner, batch_size, int(config["window"]), seed)
    reader = Reader(examples, source, planner, seed, float(config["max_corrupt"]))
    rows = functools.partial(Rows, schedule, process_index * local, local)
    return Batches(rows, reader, local, int(config["workers"]), int(config["prefetch"]))


def training_examples(data: Mapping[str, Any]) -> int:
    """How many examples ``training`` draws from: those of the split that its filters and buckets leave."""
    return len(_planned(settings(data))[2].anchors)


def _planned(config: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    """The source, the examples and the planner of training."""
    source, examples = _opened(config)
    chosen = source.index.select("train", **_filters(config, source, training=True))
    planner = examples.planner(source.index, chosen, training=True)
    what = f"{len(chosen)} training {source.index.kind}"
    if planner.left_out:
        logging.info("%s: %d of %s left out, a usable one %s", source.name, planner.left_out, what, planner.needs)
    if not len(planner.anchors):
        raise ValueError(f"data source {source.name!r}: none of {what} {planner.needs}")
    return source, examples, planner


def evaluation(
    data: Mapping[str, Any],
    *,
    split: str,
    batch_size: int,
    limit: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> "Evaluation":
    """The examples of a split, one by one, as a finite iterable (again and again) of batches of this process's rows.

    ``index`` is the position in the source; ``example_mask [B]`` is False for rows that fill up a bucket's last batch
    and for unreadable records. The order is fixed, and ``limit`` takes the first so many of a fixed mixture.

    Raises:
      ValueError: in one sentence, as for ``training``, and when nothing in the split passes the config's filter.
    """
    config = settings(data)
    local = _local_rows(batch_size, process_count)
    if split not in records.SPLITS:
        raise ValueError(f"split {split!r}: expected one of {', '.join(records.SPLITS)}")
    source, examples = _opened(config)
    filters = _filters(config, source, training=False)
    chosen = source.index.select(split, **filters)
    planner = examples.planner(source.index, chosen, training=False)
    what = f"{len(chosen)} {source.index.kind} of split {split!r}"
    if planner.left_out:
        logging.info("%s: %d of %s left out, a usable one %s", source.name, planner.left_out, what, planner.needs)
    if not len(planner.anchors):
        raise ValueError(f"data source {source.name!r}: {what} pass {filters}, but none {planner.needs}")
    order = np.random.default_rng(_EVALUATION_ORDER).permutation(len(planner.anchors))
    anchors = planner.anchors[order][: limit or None]
    reader = Reader(examples, source, planner, 0, float(config["max_corrupt"]))
    return Evaluation(reader, anchors.tolist(), batch_size, slice(process_index * local, (process_index + 1) * local))


def summary(data: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """What each split of the config's source amounts to, for reports; decodes nothing.

    Of speech: ``utterances``, their ``words`` and ``hours``; of images: ``images``, ``groups`` and ``items``.
    """
    index = sources.open_source(settings(data)["source"]).index
    return {split: index.totals(index.split == split) for split in records.SPLITS}


def classes(data: Mapping[str, Any]) -> list[str]:
    """What the numbers of ``label`` stand for in a data config of images or tokens; decodes nothing."""
    return build(data["examples"]).classes(sources.open_source(data["source"]).index)


def settings(data: Mapping[str, Any]) -> dict[str, Any]:
    """The config with its defaults, checked; ValueError of one sentence naming the key."""
    known = {"source", "examples", *DEFAULTS, *(name for kind in sources.INDICES for name in kind.filters)}
    for key in data:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            raise ValueError(f"data.{key}: no such key" + (f", did you mean {near[0]}?" if near else ""))
    for key in ("source", "examples"):
        if key not in data:
            raise ValueError(f"data.{key}: is missing from the config")
    out = DEFAULTS | {key: data[key] for key in data}
    known = dict.fromkeys(name for kind in sources.INDICES for name in kind.held_out_filters)
    if wrong := set(out["evaluation"]) - set(known):
        raise ValueError(f"data.evaluation.{min(wrong)}: no such key, known: {', '.join(known)}")
    for key, low in (("window", 1), ("workers", 0), ("prefetch", 0)):
        if out[key] < low:
            raise ValueError(f"data.{key}: found {out[key]}, expected at least {low}")
    if not 0 <= out["max_corrupt"] <= 1:
        raise ValueError(f"data.max_corrupt: found {out['max_corrupt']}, expected a share from 0 to 1")
    return out


def _opened(config: Mapping[str, Any]) -> tuple[sources.Source, Any]:
    """The source and the examples of a config; ValueError when one makes what the other does not hold."""
    source, examples = sources.open_source(config["source"]), build(config["examples"])
    if getattr(examples, "kind", source.index.kind) != source.index.kind:
        raise ValueError(
            f"data.examples: {type(examples).__name__} are made of {examples.kind}, but data source {source.name!r} "
            f"holds {source.index.kind}"
        )
    return source, examples


def _filters(config: Mapping[str, Any], source: sources.Source, *, training: bool) -> dict[str, Any]:
    """By what the source's index is filtered; ValueError for a filter of another kind of data."""
    index = source.index
    defaults, given, where = (
        (index.filters, {key: config[key] for key in config if key not in {"source", "examples", *DEFAULTS}}, "data")
        if training
        else (index.held_out_filters, config["evaluation"], "data.evaluation")
    )
    for key in given:
        if key not in defaults and given[key]:
            raise ValueError(f"{where}.{key}: no such filter of {index.kind}, known: {', '.join(defaults)}")
    return {key: given.get(key, default) for key, default in defaults.items()}


def _local_rows(batch_size: int, process_count: int) -> int:
    if batch_size < 1 or batch_size % process_count:
        raise ValueError(f"batch_size {batch_size}: expected a positive multiple of the {process_count} processes")
    return batch_size // process_count


class Reader:
    """Makes planned rows; replaces corrupt records, counts and names them, and stops when they are too many."""

    def __init__(self, examples: Any, source: sources.Source, planner: Any, seed: int, max_corrupt: float):
        self.examples, self.source, self.planner = examples, source, planner
        self._seed, self._max_corrupt = seed, max_corrupt
        self.seen, self.corrupt = 0, 0
        self._named: set[int] = set()
        self._lock = threading.Lock()

    def __call__(self, row: Row) -> dict[str, np.ndarray]:
        """The example of a row; ValueError when the source has too many corrupt records."""
        plan, bad = row.plan, []
        while True:
            try:
                out = self.examples.make(plan, row.bucket, self.source)
                break
            except CorruptRecord as error:
                self.count(1, error)
                bad.append(error.position)
                plan = self.planner.replacement(plan, bad, self._seed, row.bucket)
        self.count(len(plan.records))
        return out | {"index": np.array(row.number % 2**31, np.int32)}

    def count(self, seen: int, error: CorruptRecord | None = None) -> None:
        """Adds to what was seen; logs a corrupt record once; ValueError over the configured share."""
        with self._lock:
            self.seen += seen
            if error is None:
                return
            self.corrupt += 1
            if error.position not in self._named:
                self._named.add(error.position)
                logging.warning("%s: corrupt record left out: %s", self.source.name, error)
            if self.corrupt > self._max_corrupt * max(self.seen, 100):
                raise ValueError(
                    f"data source {self.source.name!r}: {self.corrupt} of {self.seen} records read are corrupt, more "
                    f"than data.max_corrupt={self._max_corrupt:g} allows; the last: {error}; see jaxtok data check"
                ) from error

    def __getstate__(self):
        return self.__dict__ | {"_lock": None}

    def __setstate__(self, state):
        self.__dict__.update(state, _lock=threading.Lock())


class Batches(grain.DatasetIterator):
    """The training iterator: its state is the next step, ``{"step": n}``."""

    def __init__(self, rows: Any, reader: Reader, local: int, workers: int, prefetch: int):
        super().__init__()
        self._rows, self._reader, self._local = rows, reader, local
        self._workers, self._prefetch = workers, prefetch
        self._step, self._inner = 0, None

    def __next__(self) -> dict[str, np.ndarray]:
        self._assert_not_closed()
        batch = next(self._open())
        self._step += 1
        return batch

    def get_state(self) -> dict[str, Any]:
        """The next step."""
        return {"step": self._step}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Goes on at a step; ValueError when the state is none of this iterator."""
        if set(state) != {"step"} or int(state["step"]) < 0:
            raise ValueError(f"data state {dict(state)}: expected {{'step': n}}")
        self._shut()
        self._step = int(state["step"])

    def start_prefetch(self) -> None:
        """Begins decoding ahead."""
        self._open().start_prefetch()

    def close(self) -> None:
        """Ends threads and worker processes."""
        self._shut()
        super().close()

    def _open(self) -> Any:
        if self._inner is None:
            dataset = grain.MapDataset.source(self._rows(self._step)).map(self._reader)
            dataset = dataset.batch(self._local, batch_fn=stack)
            threads = 1 if self._prefetch and not self._workers else 0
            options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=self._prefetch if threads else 0)
            stream = dataset.to_iter_dataset(options)
            if self._workers:
                _parse_flags()
                stream = stream.mp_prefetch(
                    grain.MultiprocessingOptions(
                        num_workers=self._workers, per_worker_buffer_size=max(1, self._prefetch)
                    )
                )
            self._inner = iter(stream)
        return self._inner

    def _shut(self) -> None:
        if self._inner is not None:
            self._inner.close()
            self._inner = None


class Evaluation:
    """A finite iterable of batches; iterating again gives the same batches, what was decoded coming from memory."""

    def __init__(self, reader: Reader, anchors: list[int], batch_size: int, rows: slice):
        self._reader, self._rows = reader, rows
        self.examples = len(anchors)
        groups: dict[Bucket, list[Row]] = {}
        for position in anchors:
            plan = reader.planner.single(position)
            bucket = reader.planner.bucket([plan])
            groups.setdefault(bucket, []).append(Row(position, plan, bucket))
        self._batches: list[list[Row]] = []
        for bucket in sorted(groups, key=lambda bucket: bucket.length):
            group = groups[bucket]
            self._batches += [group[start : start + batch_size] for start in range(0, len(group), batch_size)]
        self._batch_size = batch_size

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        for batch in self._batches:
            rows: list[Row | None] = [*batch, *[None] * (self._batch_size - len(batch))]
            yield stack([self._one(row, batch[0]) for row in rows[self._rows]])

    def _one(self, row: Row | None, first: Row) -> dict[str, np.ndarray]:
        if row is not None:
            try:
                out = self._reader.examples.make(row.plan, row.bucket, self._reader.source)
                self._reader.count(1)
                return out | _labels(row.number, True)
            except CorruptRecord as error:
                self._reader.count(1, error)
        blank = self._reader.examples.blank(first.bucket)
        return blank | _labels((row or first).number, False)


def _labels(index: int, valid: bool) -> dict[str, np.ndarray]:
    return {"index": np.array(index, np.int32), "example_mask": np.array(valid)}


def stack(items: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Rows to a batch."""
    return {name: np.stack([item[name] for item in items]) for name in items[0]}


def _parse_flags() -> None:
    """Grain's workers inherit absl's flags, which outside ``absl.app.run`` (notebooks, tests) nobody has parsed."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()

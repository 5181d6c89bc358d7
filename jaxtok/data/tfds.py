"""TensorFlow Datasets as a source, read through ``as_data_source`` without TensorFlow; nothing is ever downloaded.

The examples need an audio feature (the bytes of an audio file; or samples, with a ``rate`` feature or tfds's own
Audio feature, which alone needs TensorFlow to be installed) and a text feature. The names looked for, in order, are
in ``NAMES``. The set must have been prepared with ``file_format="array_record"``.
"""

import hashlib
import io
import json
import os
import pathlib
from typing import Any

import numpy as np
from etils import epath

from jaxtok.data import records, splits
from jaxtok.files import write_whole

NAMES = {
    "audio": ("audio", "speech"),
    "text": ("text", "transcript", "transcription", "sentence"),
    "speaker": ("speaker", "speaker_id", "client_id"),
    "language": ("language", "locale"),
    "file": ("file", "path", "id"),
    "rate": ("rate", "sample_rate", "sampling_rate"),
}
_PREFIXES = (("train", "train"), ("valid", "validation"), ("dev", "validation"), ("test", "test"))


class TfdsSource:
    """``tfds:name[/config][:version]``, or ``tfds:/path/to/name/version`` for a prepared folder.

    The splits are the set's own (``train*``, ``valid*`` or ``dev*``, ``test*``); a set with only one is split by a hash
    of the sentence. The first opening reads every example once for the index, which is kept in the user's cache.
    """

    def __init__(self, rest: str, *, name: str = ""):
        self.name = name or f"tfds:{rest}"
        builder = _builder(rest, self.name)
        self._features = _features(builder, self.name)
        names = [split for split in sorted(builder.info.splits) if _split(split)]
        if not names:
            raise ValueError(f"{self.name}: has splits {list(builder.info.splits)}, expected train, validation or test")
        names.sort(key=lambda split: records.SPLITS.index(_split(split)))
        try:
            self._data = [(_split(split), builder.as_data_source(split=split)) for split in names]
        except NotImplementedError as error:
            raise ValueError(
                f"{self.name}: was prepared in another file format; prepare it again with file_format='array_record'"
            ) from error
        self._starts = np.cumsum([0, *(len(data) for _, data in self._data)])
        self.index = self._read_index(builder)

    def record(self, position: int) -> records.Record:
        """The record at a position."""
        part = int(np.searchsorted(self._starts, position, side="right")) - 1
        split, data = self._data[part]
        try:
            example = data[position - int(self._starts[part])]
        except Exception as error:  # array_record and the feature decoders raise many kinds for damaged data
            raise ValueError(f"{self.name}, example {position}: cannot be read ({error!r})") from error
        values = {key: example[name] for key, (name, _) in self._features.items()}
        label = self._label
        return records.Record(
            audio=self._encoded(values, position), text=_string(values["text"]).strip(),
            file=label("file", values) or f"{split}-{position}", language=label("language", values),
            speaker=label("speaker", values), split=split,
        )  # fmt: skip

    def _label(self, key: str, values: dict[str, Any]) -> str:
        if key not in values:
            return ""
        feature = self._features[key][1]
        if hasattr(feature, "int2str"):
            return feature.int2str(int(values[key]))
        return _string(values[key])

    def _encoded(self, values: dict[str, Any], position: int) -> bytes:
        sound = values["audio"]
        if isinstance(sound, bytes):
            return sound
        samples = np.asarray(sound)
        rate = int(values["rate"]) if "rate" in values else getattr(self._features["audio"][1], "sample_rate", 0)
        if samples.dtype == object or samples.ndim > 2 or not rate:
            raise ValueError(
                f"{self.name}, example {position}: audio of {samples.dtype}, shape {samples.shape} and rate {rate} Hz,"
                " expected the bytes of a file, or samples with a rate"
            )
        import soundfile

        if np.issubdtype(samples.dtype, np.integer):
            samples = samples.astype(np.float64) / 32768
        buffer = io.BytesIO()
        soundfile.write(buffer, samples, rate, format="WAV", subtype="FLOAT")
        return buffer.getvalue()

    def _read_index(self, builder: Any) -> records.Index:
        cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "jaxtok" / "tfds"
        sizes = [(split, info.num_examples, info.num_bytes) for split, info in sorted(builder.info.splits.items())]
        made = (epath.Path(builder.data_path) / "dataset_info.json").stat().mtime
        key = json.dumps([str(builder.data_path), sizes, made]).encode()
        file = epath.Path(cache / f"{hashlib.sha256(key).hexdigest()[:32]}.tsv")
        if file.exists():
            index = records.Index.from_tsv(file.read_text(), str(file))
            if len(index) == self._starts[-1]:
                return index
        rows, texts = [], []
        for position in range(int(self._starts[-1])):
            record = self.record(position)
            rows.append(records.Row.of(record, seconds=_seconds(record.audio)))
            texts.append(record.text)
        if len(self._data) == 1:
            keys = [(text, row.language, row.seconds) for text, row in zip(texts, rows)]
            rows = [records.replace_split(row, split) for row, split in zip(rows, splits.assign(keys))]
        index = records.Index(rows)
        write_whole(file, index.to_tsv().encode())
        return index


def _builder(rest: str, name: str) -> Any:
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder_from_directory(rest) if rest.startswith(("/", "gs://")) else tfds.builder(rest)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{name}: its features need the package {error.name!r}, which is not installed (tfds's Audio feature "
            "needs tensorflow); store the bytes of the audio files instead, or pack a folder with jaxtok data pack"
        ) from error
    except (ValueError, OSError, AttributeError) as error:
        reason = (str(error).splitlines() or [repr(error)])[0]
        raise ValueError(f"{name}: TensorFlow Datasets cannot open it ({reason})") from error
    if not builder.info.splits:
        raise ValueError(
            f"{name}: is not prepared in {builder.data_path}; run tfds.builder({rest!r}, file_format='array_record')"
            ".download_and_prepare() first"
        )
    return builder


def _features(builder: Any, name: str) -> dict[str, tuple[str, Any]]:
    features = builder.info.features
    found = {}
    for key, names in NAMES.items():
        chosen = next((feature for feature in names if feature in features), None)
        if chosen is not None:
            found[key] = (chosen, features[chosen])
        elif key in ("audio", "text"):
            raise ValueError(
                f"{name}: has features {sorted(features)}, expected one of {', '.join(names)} for the {key}"
            )
    return found


def _split(split: str) -> str:
    return next((ours for prefix, ours in _PREFIXES if split.startswith(prefix)), "")


def _string(value: Any) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)


def _seconds(data: bytes) -> float:
    """The length by the header; 0.0 where the bytes are no audio (named when they are used)."""
    import soundfile

    try:
        info = soundfile.info(io.BytesIO(data))
    except (RuntimeError, TypeError):
        return 0.0
    return info.frames / info.samplerate

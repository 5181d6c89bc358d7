"""TensorFlow Datasets as a source, read through ``as_data_source`` without TensorFlow; nothing is ever downloaded.

Speech needs an audio feature (the bytes of an audio file; or samples, with a ``rate`` feature or tfds's own Audio
feature, which alone needs TensorFlow to be installed) and a text feature. Images need an image feature, and may have a
label and a caption. The names looked for, in order, are in ``NAMES`` and ``IMAGE_NAMES``. The set must have been
prepared with ``file_format="array_record"``.
"""

import abc
import hashlib
import io
import json
import os
import pathlib
from typing import Any

import numpy as np
from etils import epath

from jaxtok.data import image_records, picture, records, splits
from jaxtok.files import write_whole

NAMES = {
    "audio": ("audio", "speech"),
    "text": ("text", "transcript", "transcription", "sentence"),
    "speaker": ("speaker", "speaker_id", "client_id"),
    "language": ("language", "locale"),
    "file": ("file", "path", "id"),
    "rate": ("rate", "sample_rate", "sampling_rate"),
}
IMAGE_NAMES = {
    "image": ("image",),
    "group": ("label", "group", "class"),
    "style": ("style",),
    "caption": ("caption", "text"),
    "file": ("file", "file_name", "filename", "image/filename", "path", "id"),
}
_PREFIXES = (("train", "train"), ("valid", "validation"), ("dev", "validation"), ("test", "test"))


def open_set(rest: str, *, name: str = "") -> "TfdsSource":
    """``tfds:name[/config][:version]``, or ``tfds:/path/to/name/version`` for a prepared folder.

    Raises:
      ValueError: in one sentence, when the set is unknown or not prepared, or holds neither speech nor images.
    """
    name = name or f"tfds:{rest}"
    builder = _builder(rest, name)
    features = builder.info.features
    if any(feature in features for feature in NAMES["audio"]):
        return SpeechSource(builder, _features(features, NAMES, ("audio", "text"), name), name)
    if any(feature in features for feature in IMAGE_NAMES["image"]):
        return ImageSource(builder, _features(features, IMAGE_NAMES, ("image",), name), name)
    wanted = ", ".join((*NAMES["audio"], *IMAGE_NAMES["image"]))
    raise ValueError(f"{name}: has features {sorted(features)}, expected one of {wanted}")


class TfdsSource(abc.ABC):
    """A prepared set, whose records a subclass makes.

    The splits are the set's own (``train*``, ``valid*`` or ``dev*``, ``test*``); a set with only one is split by a hash
    (of the sentence, or of the image's name). The first opening reads every example once for the index, which is kept
    in the user's cache.
    """

    kind: type[records.Columns]

    def __init__(self, builder: Any, features: dict[str, tuple[str, Any]], name: str):
        self.name, self._features = name, features
        names = [split for split in sorted(builder.info.splits) if _split(split)]
        if not names:
            raise ValueError(f"{self.name}: has splits {list(builder.info.splits)}, expected train, validation or test")
        names.sort(key=lambda split: records.SPLITS.index(_split(split)))
        try:
            self._data = [
                (_split(split), builder.as_data_source(split=split, decoders=self._decoders())) for split in names
            ]
        except NotImplementedError as error:
            raise ValueError(
                f"{self.name}: was prepared in another file format; prepare it again with file_format='array_record'"
            ) from error
        self._starts = np.cumsum([0, *(len(data) for _, data in self._data)])
        self.index: Any = self._read_index(builder)

    def record(self, position: int) -> Any:
        """The record at a position."""
        part = int(np.searchsorted(self._starts, position, side="right")) - 1
        split, data = self._data[part]
        try:
            example = data[position - int(self._starts[part])]
        except Exception as error:  # array_record and the feature decoders raise many kinds for damaged data
            raise ValueError(f"{self.name}, example {position}: cannot be read ({error!r})") from error
        return self._record({key: example[name] for key, (name, _) in self._features.items()}, position, split)

    def _decoders(self) -> Any:
        return None

    @abc.abstractmethod
    def _record(self, values: dict[str, Any], position: int, split: str) -> Any:
        """The record of an example's features."""

    @abc.abstractmethod
    def _row(self, record: Any) -> Any:
        """Its line of the index."""

    @abc.abstractmethod
    def _key(self, record: Any, row: Any) -> tuple:
        """What decides the split of a record where the set has only one."""

    @abc.abstractmethod
    def _assign(self, keys: list[tuple]) -> list[str]:
        """The splits of a set that has only one."""

    def _label(self, key: str, values: dict[str, Any]) -> str:
        if key not in values:
            return ""
        feature = self._features[key][1]
        if hasattr(feature, "int2str"):
            return feature.int2str(int(values[key]))
        return _string(values[key])

    def _read_index(self, builder: Any) -> Any:
        cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "jaxtok" / "tfds"
        sizes = [(split, info.num_examples, info.num_bytes) for split, info in sorted(builder.info.splits.items())]
        made = (epath.Path(builder.data_path) / "dataset_info.json").stat().mtime
        key = json.dumps([str(builder.data_path), sizes, made]).encode()
        file = epath.Path(cache / f"{hashlib.sha256(key).hexdigest()[:32]}.tsv")
        if file.exists():
            index = self.kind.from_tsv(file.read_text(), str(file))
            if len(index) == self._starts[-1]:
                return index
        rows, keys = [], []
        for position in range(int(self._starts[-1])):
            record = self.record(position)
            rows.append(self._row(record))
            keys.append(self._key(record, rows[-1]))
        if len(self._data) == 1:
            rows = [records.replace_split(row, split) for row, split in zip(rows, self._assign(keys))]
        index = self.kind(rows)
        write_whole(file, index.to_tsv().encode())
        return index


class SpeechSource(TfdsSource):
    """Utterances: an audio feature and a text feature."""

    kind = records.Index

    def _record(self, values: dict[str, Any], position: int, split: str) -> records.Record:
        return records.Record(
            audio=self._encoded(values, position), text=_string(values["text"]).strip(),
            file=self._label("file", values) or f"{split}-{position}", language=self._label("language", values),
            speaker=self._label("speaker", values), split=split,
        )  # fmt: skip

    def _row(self, record: records.Record) -> records.Row:
        return records.Row.of(record, seconds=_seconds(record.audio))

    def _key(self, record: records.Record, row: records.Row) -> tuple[str, str, float]:
        return record.text, row.language, row.seconds

    def _assign(self, keys: list[tuple]) -> list[str]:
        return splits.assign(keys)

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


class ImageSource(TfdsSource):
    """Images: an image feature, and perhaps a label (the group), a style and a caption (in English)."""

    kind = image_records.Index

    def _decoders(self) -> Any:
        """tfds's own Image feature is not decoded, so that the bytes of its file are kept."""
        import tensorflow_datasets as tfds

        name, feature = self._features["image"]
        return {name: tfds.decode.SkipDecoding()} if isinstance(feature, tfds.features.Image) else None

    def _record(self, values: dict[str, Any], position: int, split: str) -> image_records.Picture:
        caption = _string(values["caption"]).strip() if "caption" in values else ""
        return image_records.Picture(
            image=self._encoded(values["image"], position), file=self._label("file", values) or f"{split}-{position}",
            group=self._class(values), style=self._label("style", values),
            captions={"en": caption} if caption else {}, split=split,
        )  # fmt: skip

    def _class(self, values: dict[str, Any]) -> str:
        label = self._label("group", values)
        return f"{int(label):05d}" if label.isdecimal() else label  # alphabetical order is that of the numbers

    def _row(self, record: image_records.Picture) -> image_records.Row:
        return image_records.Row.of(record)

    def _key(self, record: image_records.Picture, row: image_records.Row) -> tuple[str, str]:
        return row.group, row.file

    def _assign(self, keys: list[tuple]) -> list[str]:
        return splits.by_item(keys)

    def _encoded(self, image: Any, position: int) -> bytes:
        if isinstance(image, bytes):
            return image
        pixels = np.asarray(image)
        if (
            pixels.dtype != np.uint8
            or pixels.ndim not in (2, 3)
            or (pixels.ndim == 3 and pixels.shape[-1] not in (1, 3))
        ):
            raise ValueError(
                f"{self.name}, example {position}: an image of {pixels.dtype} and shape {pixels.shape}, expected the "
                "bytes of a file, or uint8 [H, W, 3]"
            )
        return picture.png(pixels)


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


def _features(
    features: Any, names: dict[str, tuple[str, ...]], needed: tuple[str, ...], name: str
) -> dict[str, tuple[str, Any]]:
    """What of a set is read: by our names, the set's name and its feature. Sequences are passed over."""
    found = {}
    for key, candidates in names.items():
        chosen = next((feature for feature in candidates if feature in features), None)
        if chosen is None and key in needed:
            raise ValueError(
                f"{name}: has features {sorted(features)}, expected one of {', '.join(candidates)} for the {key}"
            )
        if chosen is not None and (key in needed or not hasattr(features[chosen], "feature")):
            found[key] = (chosen, features[chosen])
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

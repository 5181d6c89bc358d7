"""Metrics, pictures and sound."""

import numpy as np

from jaxtok.train.writer import NAME, Writer, read_lines


def test_pictures_and_sound_reach_tensorboard(tmp_path):
    writer = Writer(tmp_path)
    writer.write(1, {"loss": np.float32(0.5), "count": 3})
    writer.images(1, {"mel": np.zeros((4, 6, 3), np.uint8)})
    writer.audio(1, {"voice": np.sin(np.arange(2400) / 20)}, rate=24_000)
    writer.close()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path)).Reload()
    assert events.Images("mel")[0].width == 6
    assert events.Audio("voice")[0].sample_rate == 24_000
    assert read_lines(tmp_path / NAME) == [{"step": 1, "loss": 0.5, "count": 3}]


def test_without_append_the_file_is_whole_after_each_flush(tmp_path):
    writer = Writer(tmp_path)
    writer._file.close()
    writer._file = None  # as in a bucket
    for step in (1, 2, 3):
        writer.write(step, {"loss": float(step)})
    writer.flush()
    assert [line["step"] for line in read_lines(tmp_path / NAME)] == [1, 2, 3]
    again = Writer(tmp_path, step=2)
    again.close()
    assert [line["step"] for line in read_lines(tmp_path / NAME)] == [1, 2]
    Writer(tmp_path / "other", active=False).write(1, {"loss": 1.0})
    assert not (tmp_path / "other").exists()

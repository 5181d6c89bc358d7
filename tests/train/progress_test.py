"""What the person at the terminal is told."""

import logging

import jax
import jax.numpy as jnp

from jaxtok.train.progress import Progress
from jaxtok.train.writer import Writer


def test_a_warning_about_a_subject_is_given_once(tmp_path, caplog):
    def warnings(step, metrics):
        return {"a": f"a at {step}: {metrics['loss']:g}"} if step > 1 else {}

    mesh = jax.make_mesh((1,), ("data",), devices=jax.devices()[:1])
    plan = {"steps": 4, "log_every": 1, "batch_size": 1}
    writer = Writer(tmp_path)
    out = {"loss": jnp.float32(0.5), "signal": jnp.asarray([0, -1])}
    with caplog.at_level(logging.WARNING, logger="jaxtok"):
        for show in (True, False):
            progress = Progress(writer, plan, step=0, mesh=mesh, show=show, warnings=warnings)
            for step in (1, 2, 3, 4):
                progress.push(step, out, 0.0)
            progress.drain()
            progress.close()
    writer.close()
    assert [record.getMessage() for record in caplog.records] == ["a at 2: 0.5"]

"""Where a run's batches come from."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxtok.build import build


def source_of(data: Mapping[str, Any]) -> Any:
    """What gives ``training(...)`` and ``evaluation(...)``: the house's pipeline, or what ``data.target`` names."""
    if "target" in data:
        return build(data)
    from jaxtok.data import pipeline

    return _Pipeline(data, pipeline)


@dataclasses.dataclass(frozen=True)
class _Pipeline:
    data: Mapping[str, Any]
    module: Any

    def training(self, **fields: Any) -> Any:
        return self.module.training(self.data, **fields)

    def evaluation(self, **fields: Any) -> Any:
        return self.module.evaluation(self.data, **fields)

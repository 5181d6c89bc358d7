"""Configuration to objects: the string is the address.

A config names what it wants by its address and gives the fields beside it::

    dict(target="jaxtok.quantizers.bsq:BSQ", bits=14)       # BSQ(bits=14)
    dict(ref="jaxtok.diffusion.times:uniform")              # the function itself
    dict(ref="jaxtok.diffusion.times:logit_normal", s=1.0)  # functools.partial(logit_normal, s=1.0)

Nothing is registered: go-to-definition and grep find the address.
"""

import functools
import importlib
import inspect
from collections.abc import Mapping
from typing import Any


def symbol(address: str) -> Any:
    """The object at ``"package.module:Name"``.

    Raises:
      ValueError: in one sentence, when the address has another form, or no such module or name exists.
    """
    module_name, colon, name = address.partition(":")
    if not (module_name and colon and name):
        raise ValueError(f"address {address!r}: expected 'package.module:Name'")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and (module_name == error.name or module_name.startswith(error.name + ".")):
            raise ValueError(f"address {address!r}: there is no module {error.name!r}") from error
        raise
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            raise ValueError(f"address {address!r}: {module_name} has no {name!r}")
        found = getattr(found, part)
    return found


def build(spec: Any, **fields: Any) -> Any:
    """Builds what ``spec`` describes; anything that is not a description is returned as it is.

    Args:
      spec: a mapping with ``target`` (called with the other entries) or ``ref`` (taken as it is, or as a
        ``functools.partial`` of the other entries); mappings, tuples and lists are built through.
      **fields: further fields of the outermost object; they take precedence over the spec's.

    Raises:
      ValueError: in one sentence, for a wrong address or a field that the target does not have.
    """
    if hasattr(spec, "copy_and_resolve_references"):  # a ConfigDict, which is no Mapping
        spec = spec.copy_and_resolve_references().to_dict()
    if isinstance(spec, Mapping):
        entries = {str(key): build(spec[key]) for key in spec if key not in ("target", "ref")} | fields
        if "target" in spec and "ref" in spec:
            raise ValueError(f"a description takes 'target' or 'ref', found both: {spec['target']!r}, {spec['ref']!r}")
        if "target" in spec:
            target = symbol(spec["target"])
            _check_fields(spec["target"], target, entries)
            return target(**entries)
        if "ref" in spec:
            target = symbol(spec["ref"])
            return functools.partial(target, **entries) if entries else target
        return entries
    if isinstance(spec, (tuple, list)):
        return type(spec)(build(item) for item in spec)
    return spec


def _check_fields(address: str, target: Any, fields: Mapping[str, Any]) -> None:
    try:
        signature = inspect.signature(target)
    except (TypeError, ValueError):  # a builtin without a signature: Python's own error will do
        return
    try:
        signature.bind(**fields)
    except TypeError as error:
        names = ", ".join(name for name in signature.parameters if name not in ("self", "parent", "name"))
        raise ValueError(f"{address} cannot be built: {error}; its fields are {names}") from error

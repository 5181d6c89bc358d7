"""The options of a command: absl flags and config files."""

import sys
from typing import Any

from absl import flags

from jaxtok import recipes


class Options:
    """The options of one command: absl flags with values of their own, so that nothing is global."""

    def __init__(self, command: str):
        self._command, self._values = command, flags.FlagValues()
        self.boolean("help", False, "show this")

    def string(self, name: str, default: str | None, text: str) -> None:
        """Text."""
        flags.DEFINE_string(name, default, text, flag_values=self._values)

    def strings(self, name: str, text: str) -> None:
        """Text that may be given several times."""
        flags.DEFINE_multi_string(name, [], text, flag_values=self._values)

    def integer(self, name: str, default: int | None, text: str) -> None:
        """A whole number."""
        flags.DEFINE_integer(name, default, text, flag_values=self._values)

    def number(self, name: str, default: float | None, text: str) -> None:
        """A number."""
        flags.DEFINE_float(name, default, text, flag_values=self._values)

    def boolean(self, name: str, default: bool, text: str) -> None:
        """A switch."""
        flags.DEFINE_boolean(name, default, text, flag_values=self._values)

    def config(self) -> None:
        """``--config FILE:VARIANT`` (or SLUG:VARIANT) with ``--config.key=value``."""
        from ml_collections import config_flags

        config_flags.DEFINE_config_file(
            "config", help_string="a config file or a system's name, with :VARIANT", flag_values=self._values
        )

    def parse(self, argv: list[str]) -> list[str]:
        """Reads the command line; returns what is no option."""
        argv = [f"jaxtok {self._command}", *_resolve_configs([self._underscored(word) for word in argv])]
        given, sys.argv = sys.argv, argv  # config flags look for overrides there
        try:
            rest = self._values(argv)[1:]
        except (AttributeError, KeyError, TypeError, ValueError) as error:  # how config flags tell of a wrong key
            raise ValueError(f"jaxtok {self._command}: {_first_line(error)}") from error
        finally:
            sys.argv = given
        if self["help"]:
            print(f"options of jaxtok {self._command}:\n{self._values.main_module_help()}")
            raise SystemExit(0)
        if "config" in self._values and self._values["config"].value is None:
            raise ValueError(
                f"jaxtok {self._command}: --config is missing (such as --config configs/tadicodec.py:mini)"
            )
        return rest

    def _underscored(self, word: str) -> str:
        """``--prompt-text`` as ``--prompt_text``, where there is an option of that name."""
        name, equals, value = word.removeprefix("--").partition("=")
        known = word.startswith("--") and name.replace("-", "_") in self._values
        return f"--{name.replace('-', '_')}{equals}{value}" if known else word

    def required(self, name: str) -> str:
        """The value of an option that must be given."""
        if not self[name]:
            raise ValueError(f"jaxtok {self._command}: --{name} is missing")
        return self[name]

    def __getitem__(self, name: str) -> Any:
        return self._values[name].value


def _resolve_configs(argv: list[str]) -> list[str]:
    """Turns the value of ``--config`` into the path of a file that exists, wherever the package keeps it."""
    out, is_value = [], False
    for word in argv:
        if is_value or word.startswith("--config="):
            prefix, name = ("", word) if is_value else ("--config=", word.removeprefix("--config="))
            word, is_value = prefix + recipes.locate(name), False
        elif word in ("--config", "-config"):
            is_value = True
        out.append(word)
    return out


def _first_line(error: Exception) -> str:
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    return text.strip().splitlines()[0] if text.strip() else type(error).__name__

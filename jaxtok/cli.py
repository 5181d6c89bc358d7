"""The ``jaxtok`` command.

jaxtok train --config configs/tadicodec.py:mini --workdir runs/first [--config.train.steps=100]
jaxtok evaluate --model runs/first [--input samples:speech --output out]
jaxtok reconstruct --model runs/first --input a.wav --text "..." --output out
jaxtok sample --model runs/generator --class 3 --count 8 --output grid.png
jaxtok sample --model runs/mgm --text "..." --prompt voice.wav --prompt-text "..." --output out.wav
jaxtok encode | decode | export | convert | compile | data | list

Bad input ends with one sentence on stderr and exit status 2, a failed run with one sentence and exit status 1.
"""

import json
import logging
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

from absl import flags
from etils import epath

from jaxtok import recipes
from jaxtok.build import build, symbol
from jaxtok.commands.options import Options

USAGE = """usage: jaxtok COMMAND [OPTIONS]

  train        train from a config, or go on with a run that was stopped
  evaluate     evaluate a run on a held-out split, or measure codecs on recordings
  reconstruct  audio files through a model's tokens and back
  encode       files, or all images or utterances of a data source, to tokens
  decode       tokens or latents to audio or images
  sample       a grid of images, or speech, from a generator
  export       a run's weights alone, in one file, to be shared
  convert      released weights to a model's directory
  compile      compile a config's steps for a slice of devices, ahead of time
  data         'data pack FOLDER OUT' or 'data check SOURCE'
  list         the systems and their status, and the weights that ship

'jaxtok COMMAND --help' lists the options of a command."""


def main(argv: list[str] | None = None) -> int:
    """Runs one command; returns its exit status."""
    name, *rest = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("--help", "-h", "help"):
        print(USAGE)
        return 0
    if name == "--version":
        from jaxtok import __version__

        print(__version__)
        return 0
    commands: dict[str, Callable[[list[str]], int]] = {
        "train": train, "evaluate": evaluate, "reconstruct": reconstruct, "encode": encode, "decode": decode,
        "sample": sample, "export": export, "convert": convert, "compile": compile_steps, "data": data,
        "list": list_systems,
    }  # fmt: skip
    if name not in commands:
        return _fail(f"no command named {name!r}; known: {', '.join(commands)}", 2)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("absl").setLevel(logging.WARNING)
    logging.getLogger("jax").setLevel(logging.WARNING)
    try:
        return commands[name](rest)
    except (ValueError, flags.Error) as error:
        return _fail(str(error), 2)
    except (RuntimeError, OSError) as error:
        if type(error).__module__.startswith(("jaxtok.", "builtins")):
            return _fail(str(error), 1)
        raise
    except MemoryError as error:
        return _fail(f"out of memory: {error}" if str(error) else "out of memory", 1)


def train(argv: list[str]) -> int:
    """Trains from a config, or goes on where the workdir's last checkpoint ends; then runs the config's ``after``."""
    options = Options("train")
    options.string("workdir", "", "where checkpoints, logs and the report go; local or gs://")
    options.boolean("distributed", False, "call jax.distributed.initialize() first (TPU pods, Slurm)")
    options.config()
    options.parse(argv)
    workdir = options.required("workdir")
    if options["distributed"]:
        import jax

        jax.distributed.initialize()
    from jaxtok.train import processes
    from jaxtok.train.loop import train as run

    result = run(options["config"], workdir)
    if result.reason == "done":
        config = recipes.of_run(workdir)
        for spec in config.get("after", ()):
            build(spec)(result, config, workdir)
        processes.barrier("the reports")  # the first process writes them; the others must not leave before
    return 0


def evaluate(argv: list[str]) -> int:
    """Evaluates a run on a split of its own data, or, with ``--input``, measures codecs of sound on recordings.

    The former writes ``evaluation-SPLIT.json`` into the run, the latter ``metrics.json`` and ``metrics.md`` into
    ``--output``.
    """
    options = Options("evaluate")
    options.strings("model", "the directory of a run or of converted weights; with --input several, also with commas")
    options.string("split", "test", "train, validation or test; of a source in --input too")
    options.integer("limit", 0, "at most so many examples; 0 for all")
    options.strings("input", "audio files, a folder, or a source such as samples:speech")
    options.strings("text", "input: the transcript; once per recording, in order")
    options.string("metrics", "", "input: such as pesq,stoi; empty for all whose packages are installed")
    options.string("swap", "", "input: text,tokens,both: a model of speech also by another recording's")
    options.string("prompt", "", "input: an audio file whose voice models of speech follow")
    options.string("prompt_text", "", "input: its transcript")
    options.string("output", "", "input: the folder to write to")
    options.integer("steps", 32, "input: sampling steps")
    options.number("guidance", 2.0, "input: guidance scale; 1 for none")
    options.integer("seed", 0, "input: of the noise")
    files = options.parse(argv)
    names = [name for given in options["model"] for name in given.split(",") if name]
    if not names:
        raise ValueError("jaxtok evaluate: --model is missing")
    if options["input"] or files:
        from jaxtok.commands import audio as audio_commands

        print(audio_commands.evaluate(names, [*options["input"], *files], options), end="")
        return 0
    for name in ("output", "metrics", "swap", "text", "prompt", "prompt_text"):
        if options[name]:
            raise ValueError(f"--{name}: given without --input, expected recordings to measure")
    if len(names) > 1:
        raise ValueError(f"--model: expected one run, or --input with recordings, found {len(names)}")
    workdir, split = epath.Path(names[0]), options["split"]
    from jaxtok.train.evaluate import evaluate_run

    numbers = evaluate_run(workdir, split=split, limit=options["limit"])
    _write_json(workdir / f"evaluation-{split}.json", numbers)
    for name, value in numbers.items():
        print(f"{name:24} {value:.5g}")
    return 0


def reconstruct(argv: list[str]) -> int:
    """Encodes files and decodes them again; writes NAME.wav or NAME.png and prints the codes' size."""
    options = _codec_options("reconstruct")
    _sampler_options(options)
    paths, output, model, commands = _codec(options, options.parse(argv), writes=(".wav", ".png"))
    commands.reconstruct(model, paths, output, options)
    return 0


def encode(argv: list[str]) -> int:
    """Encodes files to NAME.safetensors with ``codes`` int32 [N, Q] (images: [h, w, Q]), or a source to a set."""
    options = _codec_options("encode")
    options.string(
        "source", "", "a data source, such as samples:emoji: its images or utterances become a set of tokens"
    )
    options.string("split", "", "source: train, validation or test; empty for all")
    options.boolean("flip", False, "source of images: the mirrored ones too")
    options.integer("shards", 0, "source: number of files; 0 for one per 4096 records")
    files = options.parse(argv)
    if options["source"]:
        if found := [*options["input"], *options["text"], *files]:
            raise ValueError(f"--source: given beside {found[0]!r}, expected a source or files")
        from jaxtok.commands.encode_dataset import encode_dataset

        settings = {name: options[name] for name in ("split", "flip", "shards")}
        print(encode_dataset(options.required("model"), options["source"], options.required("output"), **settings))
        return 0
    paths, output, model, commands = _codec(options, files)
    commands.encode(model, paths, output)
    return 0


def decode(argv: list[str]) -> int:
    """Decodes what ``encode`` wrote; writes NAME.wav or NAME.png."""
    options = _codec_options("decode")
    _sampler_options(options)
    paths, output, model, commands = _codec(options, options.parse(argv))
    commands.decode(model, paths, output, options)
    return 0


def sample(argv: list[str]) -> int:
    """Samples a generator: a PNG grid with a row for each class or text, or a WAV file of a text that is spoken."""
    options = Options("sample")
    options.string("model", "", "the directory of a generator's run")
    options.strings("class", "images: a class's name or number; may be repeated; all classes where none is given")
    options.strings("text", "what a generator that reads text shall show (may be repeated) or say")
    options.integer("count", None, "images: samples of each class; 8 where it is not given")
    options.string("prompt", "", "speech: an audio file whose voice is followed")
    options.string("prompt_text", "", "speech: its transcript")
    options.number("seconds", None, "speech: how long it lasts; by the prompt where it is not given")
    options.integer("decoder_steps", None, "speech: of the tokenizer's decoder; the run's own where it is not given")
    options.number("decoder_guidance", None, "speech: likewise")
    options.string("output", "", "the file to write; samples.png or sample.wav where it is not given")
    options.integer("seed", 0, "of the noise")
    settings: dict[str, str] = {
        "steps": "sampling steps", "guidance": "guidance scale; 1 for none", "method": "the sampler, such as heun",
        "shift": "of the time grid", "temperature": "of the tokens' choice", "top_k": "choose among so many tokens",
        "top_p": "choose among tokens of this probability together",
    }  # fmt: skip
    for name, text in settings.items():
        whole, words = name in ("steps", "top_k"), name == "method"
        add = options.string if words else options.integer if whole else options.number
        add(name, None, f"{text}; the run's own where it is not given")
    if rest := options.parse(argv):
        raise ValueError(f"sample: takes no further words, found {rest[0]!r}")
    from jaxtok.commands import generator as generator_commands
    from jaxtok.model import load
    from jaxtok.models.generator import GeneratorModel
    from jaxtok.models.speech_generator import SpeechGenerator

    name = options.required("model")
    model = load(name)
    given = {key: options[key] for key in settings if options[key] is not None}
    if isinstance(model, SpeechGenerator):
        generator_commands.speak(model, options, given)
    elif isinstance(model, GeneratorModel):
        generator_commands.draw(model, options, recipes.of_run(recipes.place(name)), given)
    else:
        raise ValueError(f"model {name!r}: is a {type(model).__name__}, expected a generator")
    return 0


def export(argv: list[str]) -> int:
    """Writes a run's weights alone, in one safetensors file with its config: what to share, or to ship."""
    options = Options("export")
    options.string("model", "", "the directory of a run")
    options.string("output", "", "the directory to write")
    options.integer("step", -1, "which checkpoint; -1 for the newest")
    options.boolean("half", False, "float32 as float16, in half the space; it is loaded as float32 again")
    if rest := options.parse(argv):
        raise ValueError(f"export: takes no further words, found {rest[0]!r}")
    from jaxtok.model import export as write

    name, output = options.required("model"), epath.Path(options.required("output"))
    write(name, output, step=options["step"], half=options["half"])
    size = (output / "weights.safetensors").stat().length
    print(f"{name} -> {output}: {size / 1e6:.2f} MB, to be loaded by jaxtok.load({str(output)!r})")
    return 0


def convert(argv: list[str]) -> int:
    """Converts released weights (safetensors) to a model's directory that ``jaxtok.load`` reads."""
    options = Options("convert")
    from jaxtok import convert as converters

    options.string("family", "", f"the layout: {', '.join(converters.FAMILIES)}")
    options.string("weights", "", "the .safetensors file")
    options.string("output", "", "the directory to write")
    options.config()
    options.parse(argv)
    from jaxtok.model import save

    config = options["config"].copy_and_resolve_references().to_dict()
    family = options.required("family")
    weights = converters.read(options.required("weights"))
    variables = converters.variables_from_reference(family, weights, config["model"])
    params = variables.pop("params")
    save(options.required("output"), config, params, variables)
    print(f"{options['weights']} -> {options['output']}: every key accounted for")
    return 0


def compile_steps(argv: list[str]) -> int:
    """Compiles train, encode and decode steps for a topology; prints memory, FLOPs, collectives and a roofline time."""
    options = Options("compile")
    options.string("topology", "", "such as v5e:4x4, v5p:4x4x4, or cpu:8")
    options.string("mesh", "", "such as data=4,fsdp=4; empty takes the config's")
    options.integer("batch", 0, "global batch size; 0 takes the config's")
    options.string("output", "", "a JSON file for the numbers; empty prints only")
    options.config()
    options.parse(argv)
    topology = options.required("topology")
    report = symbol("jaxtok.train.compile:report")
    numbers, text = report(options["config"], topology=topology, mesh=options["mesh"], batch_size=options["batch"])
    print(text)
    if options["output"]:
        _write_json(epath.Path(options["output"]), numbers)
    return 0


def data(argv: list[str]) -> int:
    """``pack FOLDER OUT`` writes speech or images as sharded ArrayRecord; ``check SOURCE`` names every bad file."""
    options = Options("data")
    options.integer("shards", 0, "pack: number of shards; 0 chooses by size")
    options.string("holdout", "5%", "pack: what validation and test get each, such as 5%, en=40,es=12 or cat=40,dog=40")
    options.integer("words", 4, "pack, speech: words that a held-out sentence has at least")
    options.number("seconds", 0.0, "pack, speech: seconds that a held-out sentence lasts at least")
    options.boolean("skip_bad", False, "pack: leave bad files out instead of stopping")
    options.integer("rate", 0, "check, speech: the rate in Hz that every file should have; 0 for the most common")
    arguments = options.parse(argv)
    known = {"pack": ("FOLDER", "OUT"), "check": ("SOURCE",)}
    what, *rest = arguments or [""]
    if what not in known or len(rest) != len(known[what]):
        raise ValueError(
            f"data: expected 'pack FOLDER OUT' or 'check SOURCE', found {' '.join(arguments) or 'nothing'!r}"
        )
    if what == "pack":
        from jaxtok.data.pack import pack

        names = ("shards", "holdout", "words", "seconds", "skip_bad")
        print(pack(*rest, **{name: options[name] for name in names}))
        return 0
    from jaxtok.data.check import check

    report = check(rest[0], rate=options["rate"])
    print(report)
    return 1 if report.problems else 0


def list_systems(argv: list[str]) -> int:
    """Prints every system that has a config, and the names of the weights that ship with the package."""
    options = Options("list")
    options.boolean("markdown", False, "as the README's table")
    options.parse(argv)
    if options["markdown"]:
        print(recipes.index())
        return 0
    for slug in recipes.slugs():
        paper = recipes.module(slug).PAPER
        print(f"{slug:20} {paper['modality']:10} {paper['status']}\n{'':20} {paper['title']} ({paper['url']})")
    print(f"weights to load by name: {', '.join(recipes.shipped())}")
    return 0


def _codec_options(command: str) -> Options:
    options = Options(command)
    options.string("model", "", "the directory of a run or of converted weights")
    options.strings("input", "a file; may be repeated, further words are inputs too")
    options.strings("text", "the transcript; once per input, in order")
    options.string("output", "", "the folder to write to")
    return options


def _sampler_options(options: Options) -> None:
    options.integer("steps", 32, "sampling steps")
    options.number("guidance", 2.0, "guidance scale; 1 for none")
    options.string("prompt", "", "an audio file whose voice is followed, or (reconstruct) self:SECONDS of the input")
    options.string("prompt_text", "", "its transcript")
    options.integer("seed", 0, "of the noise")


def _codec(
    options: Options, files: list[str], *, writes: tuple[str, ...] = ()
) -> tuple[list[str], epath.Path, Any, Any]:
    """The inputs' paths, the output folder, the model, and the commands for its kind of media.

    Refuses what would write over an input (a file with one of the suffixes ``writes``) or twice to one file.
    """
    import jaxtok
    from jaxtok.commands import audio as audio_commands
    from jaxtok.commands import image as image_commands
    from jaxtok.models.audio import AudioModel
    from jaxtok.models.image import ImageModel
    from jaxtok.models.speech import SpeechModel
    from jaxtok.models.vocoder import VocoderModel

    paths = [*options["input"], *files]
    if not paths:
        raise ValueError("--input: expected at least one file, found none")
    if options["text"] and len(options["text"]) != len(paths):
        raise ValueError(f"--text: expected {len(paths)} transcripts, one per input, found {len(options['text'])}")
    output = epath.Path(options.required("output"))
    names = [epath.Path(path).stem for path in paths]
    for path, name in zip(paths, names):
        if names.count(name) > 1:
            raise ValueError(f"--input: {path} and another input would both be written to {output / name}; rename one")
        file = epath.Path(path)
        if file.suffix in writes and os.path.abspath(file.parent) == os.path.abspath(output):
            raise ValueError(f"--output: {path} lies in {output} and would be overwritten; choose another folder")
    model = jaxtok.load(options.required("model"))
    if isinstance(model, SpeechModel):
        return paths, output, model, audio_commands
    if not isinstance(model, (AudioModel, ImageModel, VocoderModel)):
        raise ValueError(f"model {options['model']!r}: is a {type(model).__name__}, expected a tokenizer")
    if options["text"]:
        kind = "images" if isinstance(model, ImageModel) else "waveforms"
        raise ValueError(f"--text: given for a model of {kind}, which takes none")
    return paths, output, model, image_commands if isinstance(model, ImageModel) else audio_commands


def _write_json(path: epath.Path, numbers: Mapping[str, Any]) -> None:
    from jaxtok.files import write_whole

    write_whole(path, json.dumps(numbers, indent=1) + "\n")


def _fail(sentence: str, status: int) -> int:
    print(f"jaxtok: {' '.join(sentence.split())}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())

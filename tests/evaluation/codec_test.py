"""Measuring codecs: closed forms by a codec that halves, failures that are counted, and the command."""

import json

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile

import jaxtok
from jaxtok import cli
from jaxtok import model as model_lib
from jaxtok.build import build
from jaxtok.data.recordings import Recording
from jaxtok.evaluation import codec as audio_evaluation
from jaxtok.evaluation import codec_runs
from jaxtok.metrics import codec
from jaxtok.metrics.judge import Unjudged
from jaxtok.models.audio import AudioModel
from jaxtok.models.tokens import Tokens
from jaxtok.nn import seanet
from jaxtok.quantizers import EMAVQ, ResidualVQ
from jaxtok.tasks import codec_report
from jaxtok.tokenizers.waveform import WaveformTokenizer

RATE = 16000
KEY = jax.random.key(0)


class Books:
    codebook_size, num_codebooks = 4, 2


class Module:
    quantizer = Books()


@flax.struct.dataclass
class Halving:
    """A codec that gives half of what it gets; its tokens count 0, 1, 2, 3 in the first book and are 0 in the other."""

    weight: jax.Array
    module: Module = flax.struct.field(pytree_node=False, default=Module())
    rate: int = flax.struct.field(pytree_node=False, default=RATE)
    token_rate: float = flax.struct.field(pytree_node=False, default=100.0)
    bitrate: float = flax.struct.field(pytree_node=False, default=400.0)
    gain: float = flax.struct.field(pytree_node=False, default=0.5)

    def encode(self, waves):
        length = max(map(len, waves))
        codes = np.zeros((len(waves), length // 160, 2), np.int32)
        codes[..., 0] = np.arange(codes.shape[1]) % 4
        mask = np.stack([np.arange(codes.shape[1]) < len(wave) // 160 for wave in waves])
        latents = np.stack([np.pad(wave, (0, length - len(wave))) for wave in waves])
        return Tokens(codes, latents, mask, np.asarray([len(wave) for wave in waves]))

    def decode(self, tokens):
        return [self.gain * wave[:count] for wave, count in zip(tokens.latents, tokens.samples)]


def sound(samples, seed, level=0.1):
    return (level * np.random.default_rng(seed).standard_normal(samples)).astype(np.float32)


def recording(name, wave, **fields):
    return Recording(name, lambda: (wave, RATE), **fields)


def _loud(wave, rate):
    if not wave.any():
        raise Unjudged("it is silent")
    return float(np.abs(wave).max())


LEVEL = codec.Judge(
    {"level": codec.Row("peak", "higher")}, _loud, lambda a, b, text: {"level": b}, alone=lambda a, text: {"level": a}
)
READER = codec.Judge(
    {"words": codec.Row("words", "lower")}, _loud, lambda a, b, text: {"words": (1, len(text.split()))}, reads=True
)


@pytest.fixture(scope="module")
def halved():
    found = [
        recording("a", sound(8000, 0), text="one two", language="en"),
        recording("b", np.zeros(8000, np.float32), text="three", language="en"),
        recording("c", sound(4800, 1), text="cuatro", language="es"),
        recording("d", sound(8000, 2), text="four five six"),
    ]
    names = ("mel_distance", "multi_scale_mel", "stft_distance", "si_sdr", "sdr", "ci_sdr")
    judges = {name: codec.JUDGES[name] for name in names} | {"level": LEVEL, "reader": READER}
    return audio_evaluation.measure({"half": Halving(jnp.zeros(3))}, found, judges, absent={"pesq": "PESQ is not here"})


def test_half_the_level_has_its_closed_form(halved):
    scores = halved["models"]["half"]["scores"]
    expected = {
        "mel_distance": np.log(2),
        "multi_scale_mel": 7 * np.log10(2),
        "stft_distance": 0.5 + np.log(2),
        "si_sdr": 100.0,
        "sdr": 20 * np.log10(2),
        "ci_sdr": 100.0,
    }
    for name, value in expected.items():
        assert scores[name]["mean"] == pytest.approx(value, abs=2e-3), name
        assert scores[name]["judged"] == 3 and scores[name]["failed"] == 1
        assert scores[name]["failures"] == {"b": "the recording: it is silent"}
        assert scores[name]["values"][1] is None
    levels = [halved["original"]["level"]["values"][i] for i in (0, 2, 3)]
    np.testing.assert_allclose(scores["level"]["mean"], np.mean(levels) / 2, rtol=1e-6)
    error = np.std(levels, ddof=1) / 2 / np.sqrt(3)
    np.testing.assert_allclose(scores["level"]["error"], error, rtol=1e-6)


def test_a_judge_that_reads_hears_english_alone(halved):
    words = halved["models"]["half"]["scores"]["words"]
    assert words["values"] == [(1, 2), None, None, (1, 3)]
    assert words["mean"] == pytest.approx(2 / 5)  # one error in two words and one in three
    assert (words["judged"], words["failed"]) == (2, 1)  # the Spanish one is neither


def test_costs_of_the_tokens(halved):
    costs = halved["models"]["half"]["codec"]
    assert costs["tokens"] == 50 + 50 + 30 + 50
    assert (costs["tokens_per_second"], costs["bits_per_second"], costs["parameters"]) == (200.0, 400.0, 3)
    assert costs["entropy_bits_per_second"] == pytest.approx(
        100 * 2, rel=1e-3
    )  # two bits in one book, none in the other
    assert costs["usage"] == pytest.approx((1 + 1 / 4) / 2)
    assert costs["encode_real_time_factor"] > 0 and costs["decode_real_time_factor"] > 0


def test_a_books_bits_are_those_of_every_token():
    """EnCodec's at 24 kHz: 75 frames a second, 8 books of 10 bits."""
    sizes = dict(dimension=8, width=2, strides=(2, 4, 5, 8))
    books = ResidualVQ(layers=tuple(EMAVQ(size=1024, width=8) for _ in range(8)))
    module = WaveformTokenizer(seanet.Encoder(**sizes), books, seanet.Decoder(**sizes))
    model = AudioModel({}, module, 24000)
    assert (model.token_rate, books.num_codebooks, books.codebook_size, model.bitrate) == (75, 8, 1024, 6000)


def test_what_cannot_be_reconstructed_is_said(place):
    long = sound(int(2.6 * RATE), 0)
    counts: dict = {}
    model = jaxtok.load(place / "speech")  # its window is 128 frames of 20 ms
    spoken, keys = recording("long", long, text="words"), jax.random.split(KEY, 1)
    found = codec_runs.through(model, [(long, RATE)], [spoken], keys, {}, counts)
    assert "longer than the 2.56 s" in str(found[0]) and isinstance(found[0], Unjudged) and not counts
    assert codec_runs.times(model, spoken, {}) == {"encode_real_time_factor": None, "decode_real_time_factor": None}
    found = codec_runs.through(model, [(long, RATE)], [recording("long", long)], keys, {"steps": 1}, pieces := {})
    assert found[0].shape == (int(2.6 * model.rate),) and pieces[0].sum() == 17  # without text piece by piece
    wave = sound(1600, 0)
    broken = Halving(jnp.zeros(3)).replace(gain=np.nan)
    found = codec_runs.through(broken, [(wave, RATE)], [recording("a", wave)], jax.random.split(KEY, 1), {}, counts)
    assert str(found[0]) == "NaN or Inf among its samples" and counts[0].sum() == 10


def test_the_table_says_what_failed_and_what_is_absent(halved):
    text = codec_report.markdown(halved | {"input": "four", "text": "by hand", "decoding": ""})
    assert "| mel distance below 8 kHz, nats | lower | 4 |  | 0.693 ± 0.000 (25% failed) |" in text
    assert "| bit/s | 400 |" in text and "| codebooks x size | 2 x 4 |" in text
    assert "- Transcripts: by hand." in text and "- Not measured: PESQ is not here." in text
    assert "- Failed, original; half, 8 scores: 1 (the recording: it is silent): b\n" in text
    json.loads(json.dumps(halved))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a waveform tokenizer, a speech tokenizer that samples, and recordings."""
    folder = tmp_path_factory.mktemp("evaluation")
    config = jaxtok.get_config("wavtokenizer:tiny").copy_and_resolve_references().to_dict()
    shapes = jax.eval_shape(build(config["model"]).init, jax.random.key(0), jnp.zeros((1, 600)))
    rng = np.random.default_rng(0)
    drawn = jax.tree.map(lambda s: (rng.standard_normal(s.shape) * 0.4).astype(s.dtype), shapes)
    state = {"codebook": drawn["codebook"], "hits": np.zeros(8)}
    model_lib.save(folder / "waves", config, {"generator": drawn["params"]}, state)
    config = jaxtok.get_config("tadicodec:tiny").copy_and_resolve_references().to_dict()
    config["vocoder"]["iterations"] = 2
    module, cond = build(config["model"]), {"text_ids": jnp.zeros((1, 4), jnp.int32)}
    params = jax.jit(lambda: module.init(jax.random.key(0), jnp.zeros((1, 16, 128)), jnp.ones(1), cond=cond))()
    model_lib.save(folder / "speech", config, params["params"])
    (folder / "sounds").mkdir()
    for n, name in enumerate(("a", "b")):
        soundfile.write(folder / f"sounds/{name}.wav", sound(16000, n), RATE)
    return folder


def test_the_command_compares_models(place, capsys):
    command = "evaluate --model {0}/waves,{0}/speech --input {0}/sounds --output {0}/out --metrics mel_distance,si_sdr"
    assert cli.main([*command.format(place).split(), "--steps", "1", "--text", "one", "--text", "two"]) == 0
    out = capsys.readouterr().out
    assert out == (place / "out/metrics.md").read_text()
    assert "2 recordings, 0.0 minutes" in out and "Transcripts: the command line." in out
    assert "Models that sample: steps 1, guidance 2, seed 0." in out and "| bit/s | 120 | 87.5 |" in out
    numbers = json.loads((place / "out/metrics.json").read_text())
    assert list(numbers["models"]) == [f"{place}/waves", f"{place}/speech"] and list(numbers["rows"]) == [
        "mel_distance",
        "si_sdr",
    ]
    for model in numbers["models"].values():
        assert model["scores"]["mel_distance"]["mean"] > 0 and model["scores"]["si_sdr"]["judged"] == 2
        assert np.isfinite([value for value in model["scores"]["si_sdr"]["values"]]).all()


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("--input {}/sounds", "--model is missing"),
        ("--model {}/waves --input {}/sounds", "--output is missing"),
        ("--model {}/waves --output {}/out", "--output: given without --input"),
        ("--model {}/waves,{}/speech", "--model: expected one run, or --input with recordings, found 2"),
        (
            "--model {}/waves --output {}/o --input {}/sounds --metrics loudness",
            "no metric named 'loudness', known: mel",
        ),
        ("--model {}/waves --output {}/o --input {}/sounds --text a", "--text: expected 2 transcripts"),
        ("--model {}/waves --output {}/o --input {}/none.wav", "none.wav: no such file"),
        ("--model {}/absent --output {}/o --input {}/sounds", "no run there"),
        ("--model emoji-judge --output {}/o --input {}/sounds", "is a ClassifierModel, expected a tokenizer of sound"),
    ],
)
def test_bad_input_gives_one_sentence(place, command, said, capsys):
    assert cli.main(["evaluate", *command.replace("{}", str(place)).split()]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1

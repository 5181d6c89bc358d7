"""Which recordings a codec is measured with, and in which order."""

import numpy as np
import pytest
import soundfile

from jaxtok.data import recordings


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "deep").mkdir()
    for name, level in (("b.wav", 0.1), ("deep/a.flac", 0.2)):
        soundfile.write(tmp_path / name, np.full(100, level), 8000)
    (tmp_path / "texts.tsv").write_text("file\ttext\tlanguage\nb.wav\tHello, you.\ten-GB\n")
    return tmp_path


def test_samples_are_the_test_split_by_name():
    found, origin = recordings.find(["samples:speech"])
    names = [one.name for one in found]
    assert len(names) == 131 and names == sorted(names) and origin == "the transcripts of samples:speech"
    first = recordings.find(["samples:speech"], limit=2)[0]
    assert [one.name for one in first] == names[:2]
    assert first[0].language == "en" and first[0].text.startswith("That agent is already logged on")
    wave, rate = first[0].read()
    assert rate == 16000 and wave.dtype == np.float32 and abs(len(wave) / rate - 5.52) < 0.01
    train = recordings.find(["samples:speech"], split="train", limit=3)[0]
    assert not {one.name for one in train} & set(names)


def test_a_folder_gives_its_files_and_what_is_written_about_them(folder):
    found, origin = recordings.find([str(folder)])
    assert [(one.name, one.text, one.language) for one in found] == [
        ("b.wav", "Hello, you.", "en-GB"),
        ("deep/a.flac", None, ""),
    ]
    assert origin.endswith("texts.tsv")
    assert [round(float(one.read()[0][0]), 1) for one in found] == [0.1, 0.2]


def test_files_keep_their_order_and_take_texts(folder):
    paths = [str(folder / "deep/a.flac"), str(folder / "b.wav")]
    found, origin = recordings.find(paths)
    assert [one.name for one in found] == paths and origin == "none" and found[0].text is None
    found, origin = recordings.find(paths, texts=["one", "two"])
    assert [one.text for one in found] == ["one", "two"] and origin == "the command line"


@pytest.mark.parametrize(
    ("inputs", "settings", "said"),
    [
        ([], {}, "--input: expected audio files, a folder or a data source, found none"),
        (["{}/b.wav"], {"limit": -1}, "--limit: expected a number of recordings, or 0 for all, found -1"),
        (["{}", "{}/b.wav"], {}, "is given beside others, expected it alone"),
        (["samples:speech", "{}/b.wav"], {}, "samples:speech is given beside others"),
        (["{}/b.wav"], {"texts": ["a", "b"]}, "--text: expected 1 transcripts, one per recording, found 2"),
        (["{}/empty"], {}, "holds no audio file"),
        (["samples:emoji"], {}, "samples:emoji holds images, expected sound"),
        (["samples:speech"], {"split": "dev"}, "has no recording in the split 'dev'"),
    ],
)
def test_other_inputs_are_refused_in_one_sentence(folder, inputs, settings, said):
    (folder / "empty").mkdir()
    with pytest.raises(ValueError, match=said) as error:
        recordings.find([name.replace("{}", str(folder)) for name in inputs], **settings)
    assert "\n" not in str(error.value)

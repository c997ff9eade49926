"""The self-test: right here, and wrong where a decoder is missing or lies."""

import imagecodecs
import pydicom
import pytest
from pydicom import uid

from mammoflow import cli, self_test
from mammoflow.imaging import encode, isolated, plugins


def test_every_decoder_that_is_used_is_right(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    assert cli.main(["self-test"]) == 0
    printed = capsys.readouterr().out
    assert "every decoder that is used is right" in printed
    for syntax in encode.SYNTAXES:
        assert f"({syntax[len('1.2.840.10008.1.2') :] or '.0'})" in printed
    for name in ("imagecodecs", "gdcm", "pylibjpeg", "pydicom"):
        assert name in printed


def test_it_knows_every_syntax_that_conversion_decodes():
    assert set(plugins.PREFERENCE) <= set(encode.SYNTAXES)


def test_pylibjpeg_s_wrong_pixels_are_seen_and_do_not_matter():
    results = {result.backend: result for result in self_test.examine(uid.JPEGLosslessSV1)}
    assert (results["imagecodecs"].rank, results["imagecodecs"].word) == (1, "exact")
    assert (results["gdcm"].rank, results["gdcm"].word) == (2, "exact")
    assert results["pylibjpeg"].word.startswith("wrong (")
    assert not results["pylibjpeg"].failed


def test_a_lying_decoder_fails_it(capsys, monkeypatch):
    decode = imagecodecs.jpegls_decode
    monkeypatch.setitem(plugins._DECODE, uid.JPEGLSLossless, lambda frame: decode(frame) ^ 1)
    monkeypatch.setattr(self_test.encode, "SYNTAXES", (uid.JPEGLSLossless,))
    monkeypatch.setattr(isolated, "decode", lambda *_: pytest.fail("gdcm is asked in its own process only"))
    monkeypatch.setattr(self_test, "find_spec", lambda name: None)
    assert cli.main(["self-test"]) == 1
    assert "imagecodecs is wrong (3417 of 3417 pixels)" in capsys.readouterr().out


def test_a_missing_first_choice_fails_it_and_a_missing_second_does_not(capsys, monkeypatch):
    decoder = pydicom.pixels.get_decoder(uid.JPEG2000Lossless)
    monkeypatch.setattr(self_test.encode, "SYNTAXES", (uid.JPEG2000Lossless,))
    monkeypatch.setattr(self_test, "find_spec", lambda name: None)
    kept = dict(decoder._available)
    for lost, status in (("pylibjpeg", 0), ("imagecodecs", 1)):
        monkeypatch.setattr(decoder, "_available", {name: call for name, call in kept.items() if name != lost})
        assert cli.main(["self-test"]) == status
    assert "imagecodecs is not installed" in capsys.readouterr().out


def test_a_decoder_that_refuses_is_an_answer():
    results = {result.backend: result for result in self_test.examine(uid.JPEGExtended12Bit)}
    assert results["gdcm"].word.startswith("refuses it")
    assert not results["gdcm"].failed
    assert results["pylibjpeg"].word == "close"

"""Every transfer syntax gives the stored pixels or a named error; the decoder is named; nothing else escapes."""

import hashlib
import io
import os
import warnings
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom import uid
from pydicom.encaps import encapsulate

from made_images import breast_picture, dicom, save
from mammoflow.imaging import encode, errors, isolated, layout, plugins
from mammoflow.imaging.decode import decode_frame, read_image, sniff_format
from mammoflow.imaging.errors import DecodeError
from mammoflow.imaging.pictures import Film

REAL = Path(os.environ.get("MAMMOFLOW_REAL_DATA") or Path(__file__).parents[3] / "shared" / "data")
CODECS = REAL / "dicom-codecs"
FILMS = REAL / "ddsm-ljpeg-pvrg"

LOSSLESS = {
    uid.ImplicitVRLittleEndian: "pydicom",
    uid.ExplicitVRLittleEndian: "pydicom",
    uid.ExplicitVRBigEndian: "pydicom",
    uid.DeflatedExplicitVRLittleEndian: "pydicom",
    uid.JPEGLossless: "imagecodecs",
    uid.JPEGLosslessSV1: "imagecodecs",
    uid.JPEGLSLossless: "imagecodecs",
    uid.JPEGLSNearLossless: "imagecodecs",
    uid.JPEG2000Lossless: "imagecodecs",
    uid.JPEG2000: "imagecodecs",
    uid.HTJ2KLossless: "imagecodecs",
    uid.RLELossless: "pylibjpeg",
}


@pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda syntax: syntax.keyword)
@pytest.mark.parametrize(("top", "bits"), [(255, 8), (4095, 12), (65535, 16)])
def test_lossless_syntaxes_give_the_stored_pixels(tmp_path, syntax, top, bits):
    pixels = breast_picture(67, 51, top=top)
    pixels[:2] = np.random.default_rng(1).integers(0, top, (2, 51), endpoint=True)
    pixels = pixels.astype(np.uint8) if bits == 8 else pixels
    path = save(dicom(pixels, syntax, BitsStored=bits), tmp_path / "a.dcm")
    image = read_image(path)
    np.testing.assert_array_equal(image.pixels, pixels)
    assert image.pixels.dtype == pixels.dtype
    assert (image.decoder, image.transfer_syntax) == (LOSSLESS[syntax], syntax)
    assert image.header.bits_stored == bits
    assert image.flags == ()


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.JPEG2000Lossless, uid.RLELossless])
def test_signed_pixels_stay_signed(tmp_path, syntax):
    pixels = np.array([[-2000, -1], [0, 2047]], np.int16).repeat(20, 0).repeat(20, 1)
    image = read_image(save(dicom(pixels, syntax, BitsStored=16), tmp_path / "a.dcm"))
    np.testing.assert_array_equal(image.pixels, pixels)
    assert image.pixels.dtype == np.int16
    assert image.header.signed


@pytest.mark.parametrize("signed_header", [False, True])
@pytest.mark.parametrize("signed_stream", [False, True])
@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("syntax", [uid.JPEG2000Lossless, uid.HTJ2KLossless, uid.JPEGLSLossless, uid.JPEGLosslessSV1])
def test_the_sign_is_the_headers(syntax, bits, signed_stream, signed_header):
    stored = np.random.default_rng(3).integers(0, 1 << bits, (40, 32)).astype(np.uint8 if bits == 8 else np.uint16)
    size = stored.dtype.itemsize
    signed = (stored << (8 * size - bits)).view(f"i{size}") >> (8 * size - bits)
    if signed_stream and syntax == uid.JPEG2000Lossless:
        stream = imagecodecs.jpeg2k_encode(signed, level=0, reversible=True, codecformat="j2k", bitspersample=bits)
    else:
        stream = encode.frame(stored, syntax, bits)
    ds = dicom(stored, syntax, BitsStored=bits, PixelRepresentation=int(signed_header))
    ds.PixelData = encapsulate([stream])
    ds["PixelData"].is_undefined_length = True
    found = decode_frame(ds, syntax, 0, "imagecodecs")
    # What is 12 bits in 16 in the stream too is left to the grey-scale table, as with plain samples.
    extended = signed_header and syntax == uid.JPEG2000Lossless
    expected = signed if extended else stored.view(f"{'ui'[signed_header]}{size}")
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == expected.dtype


@pytest.mark.parametrize(
    ("syntax", "top", "decoder"),
    [(uid.JPEGBaseline8Bit, 255, "imagecodecs"), (uid.JPEGExtended12Bit, 4095, "pylibjpeg")],
)
def test_lossy_jpeg_is_close(tmp_path, syntax, top, decoder):
    y, x = np.mgrid[:64, :48]
    pixels = ((x + y) * top / 112).astype(np.uint8 if top == 255 else np.uint16)
    image = read_image(save(dicom(pixels, syntax, BitsStored=top.bit_length()), tmp_path / "a.dcm"))
    assert image.decoder == decoder
    assert np.abs(image.pixels.astype(int) - pixels).max() <= 0.02 * top


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 15])
def test_differences_modulo_2_16_are_right(tmp_path, bits):
    """T.81 H.1.2.1; pylibjpeg clamps them (its issue 90) and libjpeg-turbo keeps the carry."""
    pixels = np.random.default_rng(0).integers(0, 1 << bits, (67, 51)).astype(np.uint8 if bits == 8 else np.uint16)
    ds = dicom(pixels, uid.JPEGLosslessSV1, BitsStored=bits)
    ds.PixelData = encapsulate([encode.wrapping_frame(pixels, bits)])
    ds["PixelData"].is_undefined_length = True
    path = save(ds, tmp_path / "a.dcm")
    image = read_image(path)
    assert image.decoder == "imagecodecs"
    np.testing.assert_array_equal(image.pixels, pixels)
    if bits in (8, 12):
        np.testing.assert_array_equal(isolated.decode(path.read_bytes(), "gdcm", 0), pixels)


def test_eight_bit_samples_in_a_sixteen_bit_object(tmp_path):
    pixels = breast_picture(40, 30, top=255)
    ds = dicom(pixels, BitsStored=8)
    ds.file_meta.TransferSyntaxUID = uid.JPEGLSLossless
    ds.PixelData = encapsulate([imagecodecs.jpegls_encode(pixels.astype(np.uint8))])
    ds["PixelData"].is_undefined_length = True
    image = read_image(save(ds, tmp_path / "a.dcm"))
    np.testing.assert_array_equal(image.pixels, pixels)


def test_the_source_key_is_that_of_the_bytes(tmp_path):
    path = save(dicom(breast_picture(20, 20)), tmp_path / "a.dcm")
    os.utime(path, ns=(1, 1_700_000_000_123_456_789))
    source = read_image(path).source
    assert source.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert source.size == path.stat().st_size
    assert source.mtime_ns == path.stat().st_mtime_ns


def test_the_ledger_names_the_decoder_that_really_decoded(tmp_path, monkeypatch):
    pixels = breast_picture(40, 30)
    path = save(dicom(pixels, uid.JPEG2000Lossless, BitsStored=12), tmp_path / "a.dcm")

    def refuse(*_, **__):
        raise ValueError("a stream that this decoder refuses")

    monkeypatch.setitem(plugins._DECODE, uid.JPEG2000Lossless, refuse)
    image = read_image(path)
    assert image.decoder == "pylibjpeg"
    np.testing.assert_array_equal(image.pixels, pixels)


@pytest.mark.parametrize("syntax", [uid.JPEGLossless, uid.JPEGLosslessSV1])
def test_pylibjpeg_never_decodes_lossless_jpeg_where_another_is_installed(tmp_path, monkeypatch, syntax):
    assert plugins.plugins_for(syntax) == ("imagecodecs", "gdcm")
    path = save(dicom(breast_picture(40, 30), syntax, BitsStored=12), tmp_path / "a.dcm")

    def refuse(*_, **__):
        raise ValueError("no")

    monkeypatch.setitem(plugins._DECODE, syntax, refuse)
    assert read_image(path).decoder == "gdcm"
    decoder = pydicom.pixels.get_decoder(syntax)
    monkeypatch.setattr(decoder, "_available", {"pylibjpeg": decoder._available["pylibjpeg"]})
    monkeypatch.setattr(plugins, "_DECODE", {})
    monkeypatch.setattr(plugins, "find_spec", lambda name: None)
    plugins.plugins_for.cache_clear()
    try:
        image = read_image(path)
        assert (image.decoder, image.flags) == ("pylibjpeg", ("decoder_fallback",))
    finally:
        plugins.plugins_for.cache_clear()


def test_a_decoder_that_crashes_ends_only_its_own_process(tmp_path):
    pixels = breast_picture(64, 48)
    path = save(dicom(pixels, uid.JPEGLosslessSV1, BitsStored=12), tmp_path / "a.dcm")
    content = bytearray(path.read_bytes())
    np.testing.assert_array_equal(isolated.decode(bytes(content), "gdcm", 0), pixels)
    content[content.index(b"\xff\xc3\x00\x0b") + 4] = 255  # bits per sample: imagecodecs refuses, gdcm segfaults
    path.write_bytes(bytes(content))
    with pytest.raises(errors.CorruptPixelData, match="gdcm: the decoder ended its process with signal"):
        read_image(path)


@pytest.mark.parametrize("syntax", [uid.JPEG2000Lossless, uid.JPEGLosslessSV1, uid.JPEGLSLossless, uid.HTJ2KLossless])
def test_a_stream_of_another_size_is_refused_before_it_is_decoded(tmp_path, syntax):
    path = save(dicom(breast_picture(64, 48), syntax, BitsStored=12, Rows=48, Columns=64), tmp_path / "a.dcm")
    with pytest.raises(errors.CorruptPixelData, match="announces 64 x 48"):
        read_image(path)


def test_invalid_uids_and_values_read_without_a_word(tmp_path, capfd):
    ds = dicom(breast_picture(20, 20), BitsStored=12)
    digest = hashlib.md5(b"x", usedforsecurity=False).hexdigest()  # as VinDr-Mammo's pseudonymisation writes
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = ds.StudyInstanceUID = digest
        ds.file_meta.MediaStorageSOPClassUID = "1.2.3.4"
        ds.PatientAge = "not an age"
    path = save(ds, tmp_path / "a.dcm")
    capfd.readouterr()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", category=UserWarning, module=r"pydicom(\.|$)")  # what decode.py sets
        read_image(path)
    assert capfd.readouterr() == ("", "")


def test_a_file_without_its_meta_group_reads(tmp_path):
    pixels = breast_picture(20, 20)
    ds = dicom(pixels, uid.ImplicitVRLittleEndian, BitsStored=12)
    del ds.file_meta
    pydicom.dcmwrite(tmp_path / "a.dcm", ds, implicit_vr=True, little_endian=True)
    image = read_image(tmp_path / "a.dcm", "dicom")
    np.testing.assert_array_equal(image.pixels, pixels)
    assert image.transfer_syntax == uid.ImplicitVRLittleEndian


def frames(tmp_path, count=3):
    pixels = np.stack([breast_picture(20, 20, seed=n) for n in range(count)])
    ds = dicom(pixels[0], BitsStored=12)
    ds.NumberOfFrames, ds.PixelData = count, pixels.tobytes()
    return save(ds, tmp_path / "a.dcm"), pixels


def test_a_frame_is_read_by_its_number_from_one(tmp_path):
    path, pixels = frames(tmp_path)
    np.testing.assert_array_equal(read_image(path, member="2").pixels, pixels[1])
    for member in (None, "4", "0", "second"):
        with pytest.raises(errors.MultiFrame):
            read_image(path, member=member)


def refused(tmp_path, **tags):
    return save(dicom(breast_picture(20, 20), **tags), tmp_path / "a.dcm")


def test_a_huge_header_is_refused_before_anything_is_allocated(tmp_path):
    with pytest.raises(errors.TooLarge):
        read_image(refused(tmp_path, Rows=65535, Columns=65535))
    (tmp_path / "a.pgm").write_bytes(b"P5 100000 100000 255\n")
    with pytest.raises(errors.TooLarge):
        read_image(tmp_path / "a.pgm")
    Image.new("1", (13000, 13000)).save(tmp_path / "a.png")
    assert layout.MAX_PIXELS < 13000**2
    with pytest.raises(DecodeError):
        read_image(tmp_path / "a.png")


def test_colour_and_pixelless_objects_are_refused(tmp_path):
    with pytest.raises(errors.ColourImage):
        read_image(refused(tmp_path, SamplesPerPixel=3, PhotometricInterpretation="RGB"))
    ds = dicom(breast_picture(20, 20))
    del ds.PixelData
    with pytest.raises(errors.MissingPixelData):
        read_image(save(ds, tmp_path / "b.dcm"))


def test_an_unknown_transfer_syntax_is_named(tmp_path):
    ds = dicom(breast_picture(20, 20), uid.JPEGLSLossless, BitsStored=12)
    ds.file_meta.TransferSyntaxUID = uid.MPEG2MPML
    with pytest.raises(errors.UnsupportedSyntax, match="MPEG2"):
        read_image(save(ds, tmp_path / "a.dcm"))


@pytest.mark.parametrize("syntax", LOSSLESS, ids=lambda syntax: syntax.keyword)
@pytest.mark.parametrize("share", [0.3, 0.9, 0.999])
def test_a_truncated_file_never_gives_pixels(tmp_path, syntax, share):
    pixels = np.random.default_rng(0).integers(0, 4096, (64, 64), dtype=np.uint16)
    path = save(dicom(pixels, syntax, BitsStored=12), tmp_path / "a.dcm")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(DecodeError):
        read_image(path)


def test_a_codestream_that_ends_early_inside_a_whole_file_is_refused(tmp_path):
    """libjpeg would fill the rest with grey and only warn."""
    ds = dicom(breast_picture(64, 64), uid.JPEGLosslessSV1, BitsStored=12)
    frame = pydicom.encaps.get_frame(ds.PixelData, 0, number_of_frames=1)
    ds.PixelData = encapsulate([frame[: len(frame) // 2]])
    with pytest.raises(errors.TruncatedPixelData, match="end-of-image"):
        read_image(save(ds, tmp_path / "a.dcm"))


@pytest.mark.parametrize("name", ["absent.dcm", "empty.dcm", "folder", "text.dcm"])
def test_what_is_no_image_is_named(tmp_path, name):
    (tmp_path / "empty.dcm").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "text.dcm").write_text("not an image at all" * 20)
    with pytest.raises(DecodeError) as caught:
        read_image(tmp_path / name, "dicom")
    assert caught.value.word.startswith(type(caught.value).__name__ + ": ")
    assert "\n" not in caught.value.word


@given(st.data())
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_bytes_give_an_image_or_a_named_error(tmp_path, data):
    syntax = data.draw(
        st.sampled_from([uid.ExplicitVRLittleEndian, uid.JPEGLSLossless, uid.JPEG2000Lossless, uid.RLELossless])
    )
    path = save(dicom(breast_picture(24, 20), syntax, BitsStored=12), tmp_path / "a.dcm")
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(132, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(content))
    try:
        image = read_image(path)
    except DecodeError:
        return
    assert image.pixels.ndim == 2
    assert image.pixels.dtype.itemsize <= 2


def test_pgm(tmp_path):
    pixels = np.arange(600, dtype=np.uint16).reshape(20, 30)
    (tmp_path / "a.pgm").write_bytes(b"P5\n# a comment\n30 20\n# another\n1023\n" + pixels.astype(">u2").tobytes())
    image = read_image(tmp_path / "a.pgm")
    np.testing.assert_array_equal(image.pixels, pixels)
    assert image.header.bits_stored == 10
    (tmp_path / "b.pgm").write_bytes(b"P5 3 2 255\n" + bytes(range(6)))
    np.testing.assert_array_equal(read_image(tmp_path / "b.pgm").pixels, [[0, 1, 2], [3, 4, 5]])
    (tmp_path / "c.pgm").write_bytes(b"P5 3 2 255\n" + bytes(range(5)))
    with pytest.raises(errors.TruncatedPixelData):
        read_image(tmp_path / "c.pgm")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_png_and_tiff(tmp_path, dtype):
    pixels = breast_picture(40, 30, top=np.iinfo(dtype).max).astype(dtype)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "a.tif", pixels, byteorder=">")
    for name in ("a.png", "a.tif"):
        image = read_image(tmp_path / name)
        np.testing.assert_array_equal(image.pixels, pixels)
        assert image.pixels.dtype == dtype
        assert image.transfer_syntax is None


def test_a_tiff_that_shows_zero_as_white_is_monochrome1(tmp_path):
    pixels = breast_picture(40, 30, top=255).astype(np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="miniswhite")
    image = read_image(tmp_path / "a.tif")
    np.testing.assert_array_equal(image.pixels, pixels)
    assert image.header.photometric == "MONOCHROME1"


def test_jpeg_and_colour_pictures(tmp_path):
    grey = Image.fromarray(breast_picture(40, 30, top=255).astype(np.uint8))
    grey.save(tmp_path / "a.jpg")
    assert read_image(tmp_path / "a.jpg").pixels.shape == (40, 30)
    grey.convert("RGB").save(tmp_path / "b.jpg")
    tifffile.imwrite(tmp_path / "b.tif", np.zeros((4, 4, 3), np.uint8), photometric="rgb")
    for name in ("b.jpg", "b.tif"):
        with pytest.raises(errors.ColourImage):
            read_image(tmp_path / name)
    data = (tmp_path / "a.jpg").read_bytes()  # cut inside the scan, behind the headers
    (tmp_path / "c.jpg").write_bytes(data[: len(data) * 9 // 10])
    with pytest.raises(errors.TruncatedPixelData):
        read_image(tmp_path / "c.jpg")


def test_the_content_decides_the_format(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(buffer, "PNG")
    (tmp_path / "misnamed.dcm").write_bytes(buffer.getvalue())
    assert read_image(tmp_path / "misnamed.dcm", "dicom").decoder == "pillow"
    assert sniff_format(b"something else") is None


# --- real files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "decoder"),
    [("RG3_JPLL", "imagecodecs"), ("RG3_J2KR", "imagecodecs"), ("RG3_JLSL", "imagecodecs"), ("RG3_RLE", "pylibjpeg")],
)
@pytest.mark.real
@pytest.mark.skipif(not CODECS.is_dir(), reason=f"no dicom-codecs under {REAL} (set MAMMOFLOW_REAL_DATA)")
def test_one_real_image_in_four_codecs_is_one_array(name, decoder):
    plain = io.BytesIO(imagecodecs.zstd_decode((CODECS / "WG04" / "RG3_UNC.zst").read_bytes()))
    image = read_image(CODECS / "WG04" / name)
    np.testing.assert_array_equal(image.pixels, pydicom.dcmread(plain).pixel_array)
    assert image.decoder == decoder


# Files whose bytes are broken, or that hold no image.
BROKEN = {"966.dcm": "CorruptPixelData", "MR_truncated.dcm": "TruncatedPixelData", "no_meta.dcm": "CorruptHeader"}


@pytest.mark.real
@pytest.mark.skipif(not CODECS.is_dir(), reason=f"no dicom-codecs under {REAL} (set MAMMOFLOW_REAL_DATA)")
def test_each_real_file_decodes_or_gives_its_named_error():
    names, syntaxes, refused = set(), set(), {}
    for path in sorted(CODECS.rglob("*")):
        if not path.is_file() or path.suffix in (".txt", ".rst", ".zst") or path.name == "LICENSE":
            continue
        names.add(path.relative_to(CODECS))
        try:
            image = read_image(path, "dicom")
        except DecodeError as error:
            refused[path.name] = type(error).__name__
            continue
        syntaxes.add(image.transfer_syntax)
        reference = pydicom.dcmread(path, force=True)
        if path.name != "MR_small_implicit.dcm" and reference.BitsStored == reference.BitsAllocated:
            decoder = pydicom.pixels.get_decoder(image.transfer_syntax)
            expected, _ = decoder.as_array(reference, index=0, raw=True)
            assert np.abs(image.pixels.astype(int) - expected).max() <= 1, path
    assert refused == BROKEN
    assert len(names) >= 40
    assert len(syntaxes) >= 10


@pytest.mark.real
@pytest.mark.skipif(not FILMS.is_dir(), reason=f"no ddsm-ljpeg-pvrg under {REAL} (set MAMMOFLOW_REAL_DATA)")
def test_a_ddsm_film_gets_its_scanner_s_curve():
    expected = np.frombuffer((FILMS / "expected_97x61_12bit.bigendian.raw").read_bytes(), ">u2").reshape(97, 61)
    image = read_image(FILMS / "p12_k7_transposed.LJPEG", "ljpeg", film=Film(97, 61, 12, "LUMISYS"))
    np.testing.assert_array_equal(image.pixels, expected)
    assert (image.decoder, image.header.presentation) == ("pvrg", "film")
    assert image.header.modality_lut.entries[0] < image.header.modality_lut.entries[-1]
    with pytest.raises(errors.UnknownFormat, match="ics"):
        read_image(FILMS / "p12_k7.LJPEG", "ljpeg")

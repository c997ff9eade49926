"""Why one image could not be used. The class name and the message go to the ledger's ``error`` column.

These are facts about one file, not about the run: the stages record them and go on with the next image.
"""

# ruff: noqa: N818 - the class names are the words of the ledger; "Error" on each of them would say nothing there


class DecodeError(Exception):
    """Base of everything that makes one image unusable."""

    def __str__(self) -> str:
        return " ".join(super().__str__().split())  # one line: decoders answer with paragraphs

    @property
    def word(self) -> str:
        """``ClassName: message``, cut to what a table can show."""
        return f"{type(self).__name__}: {self}"[:300]


class UnreadableFile(DecodeError):
    """The file is absent, empty, or the file system refuses to read it."""


class UnknownFormat(DecodeError):
    """The bytes are of no format that is read here."""


class CorruptHeader(DecodeError):
    """The header cannot be parsed, or lacks what is needed to lay out the pixels."""


class MissingPixelData(DecodeError):
    """A DICOM object without pixels, such as a report."""


class TruncatedPixelData(DecodeError):
    """The file ends before its last pixel."""


class CorruptPixelData(DecodeError):
    """No decoder could decode the pixels."""


class UnsupportedSyntax(DecodeError):
    """A transfer syntax or a pixel layout for which no decoder is installed."""


class TooLarge(DecodeError):
    """The header announces more pixels than any mammogram has."""


class ColourImage(DecodeError):
    """More than one sample per pixel, or a palette."""


class MultiFrame(DecodeError):
    """Several frames, and the table does not say which one, or it names one that is not there."""


class EmptyMask(DecodeError):
    """A lesion mask without a single marked pixel."""


class NoBox(DecodeError):
    """A finding whose table gives neither a box nor points nor a mask."""


class DecoderCrashed(DecodeError):
    """The process ended while this image was decoded, twice; the second time it had no other image."""


class TookTooLong(DecodeError):
    """Decoding did not end within ``image_seconds``, twice."""


class OutOfMemory(DecodeError):
    """There was not enough memory for this image, also when it was the only one."""


class StoreUnwritable(DecodeError):
    """The store could not be written (a full disk, say), so that the run stopped. Nothing is wrong with the image."""


class InternalError(DecodeError):
    """A fault of the converter, found by this image; its log holds the traceback."""

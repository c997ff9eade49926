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


class NoSpacing(DecodeError):
    """A size in millimetres is asked for, and neither header nor table gives the pixel spacing."""


class EmptyMask(DecodeError):
    """A lesion mask without a single marked pixel."""


class NoBox(DecodeError):
    """A finding whose table gives neither a box nor points nor a mask."""


class DecoderCrashed(DecodeError):
    """The decoder ended its process, also when this was its only image."""


class TookTooLong(DecodeError):
    """Decoding did not end within image_seconds, also when this was the only image."""


class OutOfMemory(DecodeError):
    """There was not enough memory, also when this was the only image: give the job more, or leave the image out."""


class StoreUnwritable(DecodeError):
    """The store could not be written (a full disk, say); nothing is wrong with the image."""


class InternalError(DecodeError):
    """A fault of mammoflow that this image found: please report it, with the traceback of the log."""


def meaning(word: str) -> str:
    """One sentence on a ledger's ``error``, by its class; empty for a word that is none of these."""
    name = word.partition(":")[0]
    return next((" ".join(kind.__doc__.split()) for kind in DecodeError.__subclasses__() if kind.__name__ == name), "")

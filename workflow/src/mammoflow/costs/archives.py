"""Sizes of the archives as published, for a plan that is made before an inventory exists."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Size:
    """``coding``: how most pixels are stored, a key of :data:`mammoflow.costs.rates.SECONDS_PER_MB`.

    ``gigabytes``: all mammogram files, 1e9 bytes; None where nobody states it. ``lesion_images``: images with at least
    one marked lesion, which the crop step decodes again; None where unknown.
    """

    gigabytes: float | None
    coding: str
    lesion_images: int | None


SIZES = {
    # IDC index v25: the full mammograms, 81.5 + 21.1 GB of the collection's 163.5 GB.
    "cbis_ddsm": Size(102.6, "uncompressed", 3103),
    # 322 PGM files of 1024 x 1024 bytes; 119 of them in Info.txt with a circle.
    "mias": Size(0.338, "uncompressed", 119),
    # The competition's data page. JPEG 2000 and JPEG lossless are mixed: taken as JPEG 2000, the slow one.
    "rsna": Size(314.0, "jpeg2000", 0),
    # PhysioNet's page. 16.9 MB a file is nearly rows x columns x 2 bytes, so uncompressed. 11 % of images have a box.
    "vindr_mammo": Size(338.0, "uncompressed", 2200),
    "cmmd": Size(22.86, "uncompressed", 0),  # IDC index v25
    "tcga_brca": Size(88.1, "uncompressed", 0),  # IDC index v25: 87.7 GB of MR and 0.4 GB of mammograms
    "inbreast": Size(8.5, "uncompressed", 343),  # 343 XML files of contours
    "ddsm": Size(230.9, "pvrg", 4029),  # the archive's page; overlays in its listing: 1897 + 1774 + 358
    "bcdr": Size(None, "uncompressed", None),
    "dicom_folder": Size(None, "jpeg2000", None),
}

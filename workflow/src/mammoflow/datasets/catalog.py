"""What is known of each archive before a file is opened: title, licence, access, grey-scale rule, expected counts.

Standard library only: the Snakefile imports this module.
"""

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class IntensityRule:
    """How stored values become displayed grey (DICOM PS3.3 C.11.1, C.11.2).

    rescale: apply Rescale Slope and Intercept.  voi: apply the VOI LUT or window of the header; when the header has
    none, and where voi is False, the range 0..2**bits-1 is used.  invert: MONOCHROME1 is inverted after the VOI step.
    """

    rescale: bool = True
    voi: bool = True
    invert_monochrome1: bool = True


# What licences ask, from the least to the most: a model card names the strictest that a model has learned from.
TERMS = ("attribution", "non-commercial", "research only", "agreement", "your own")


@dataclass(frozen=True)
class Archive:
    """One public archive. ``expected`` counts are warnings, never failures: archives get revised."""

    name: str
    title: str
    licence: str
    terms: str  # its kind, one of TERMS
    access: str
    put_here: str
    citation: str
    intensity: IntensityRule = field(default_factory=IntensityRule)
    localised: bool = True
    not_supervised: str = ""  # why no cohort may learn from it, and what it is good for
    expected: dict[str, int] = field(default_factory=dict)

    def intensity_settings(self) -> dict[str, Any]:
        """The rule as plain values, for a recipe."""
        return asdict(self.intensity)


# Finished 8-bit pictures and optical densities: no window of the header applies (the film is already graded).
FINISHED = IntensityRule(rescale=False, voi=False, invert_monochrome1=True)

# Services that give the archive to a program; the first is the default. The others have to be applied for.
ROUTES = {
    "cbis_ddsm": ("idc", "nbia"),
    "cmmd": ("idc", "nbia"),
    "tcga_brca": ("idc", "nbia"),
    "rsna": ("kaggle",),
    "vindr_mammo": ("physionet",),
}

ARCHIVES: dict[str, Archive] = {
    archive.name: archive
    for archive in [
        Archive(
            name="cbis_ddsm",
            title="CBIS-DDSM: Curated Breast Imaging Subset of DDSM",
            licence="CC BY 3.0",
            terms="attribution",
            access="Open, no account: The Cancer Imaging Archive (NBIA Data Retriever) or NCI Imaging Data Commons",
            put_here="the four *_case_description_*_set.csv tables and the DICOM tree, in any layout of those tools",
            citation="Lee RS et al. A curated mammography data set for use in computer-aided detection and diagnosis "
            "research. Sci Data 4:170177 (2017). doi:10.7937/K9/TCIA.2016.7O02S9CY",
            intensity=FINISHED,
            expected={"images": 3103, "findings": 3568, "patients": 1566},
        ),
        Archive(
            name="mias",
            title="mini-MIAS: the MIAS database reduced to 200 micron pixels",
            licence="Research only; no sale; redistribution not granted (see Licence.txt)",
            terms="research only",
            access="Open download: all-mias.tar.gz from the Pilot European Image Processing Archive",
            put_here="Info.txt (or README) and mdb001.pgm to mdb322.pgm",
            citation="Suckling J et al. The Mammographic Image Analysis Society digital mammogram database. "
            "Excerpta Medica, International Congress Series 1069:375-378 (1994).",
            intensity=FINISHED,
            expected={"images": 322, "findings": 123, "patients": 161},
        ),
        Archive(
            name="rsna",
            title="RSNA Screening Mammography Breast Cancer Detection (Kaggle 2022-23)",
            licence="RSNA terms of use: non-commercial, no re-identification, no redistribution",
            terms="non-commercial",
            access="Free Kaggle account, accept the competition's rules once; or RSNA MIRA",
            put_here="train.csv and train_images/<patient_id>/<image_id>.dcm (unzipped)",
            citation="Carr C et al. RSNA Screening Mammography Breast Cancer Detection. Kaggle (2022). "
            "https://kaggle.com/competitions/rsna-breast-cancer-detection",
            localised=False,
            expected={"images": 54706, "findings": 0, "patients": 11913},
        ),
        Archive(
            name="vindr_mammo",
            title="VinDr-Mammo 1.0.0: full-field digital mammography with breast-level assessment and lesion boxes",
            licence="PhysioNet Credentialed Health Data Use Agreement 1.5.0; no redistribution",
            terms="agreement",
            access="PhysioNet account with credentials (CITI training) and a signed agreement",
            put_here="breast-level_annotations.csv, finding_annotations.csv and images/<study_id>/<image_id>.dicom",
            citation="Nguyen HT et al. VinDr-Mammo: a large-scale benchmark dataset for computer-aided diagnosis in "
            "full-field digital mammography. Sci Data 10:277 (2023). doi:10.1038/s41597-023-02100-7",
            expected={"images": 20000, "patients": 5000},
        ),
        Archive(
            name="cmmd",
            title="CMMD: The Chinese Mammography Database",
            licence="CC BY 4.0",
            terms="attribution",
            access="Open, no account: The Cancer Imaging Archive (NBIA Data Retriever) or NCI Imaging Data Commons; "
            "the clinical table is an attachment of TCIA's page",
            put_here="CMMD_clinicaldata_revision.xlsx (or .csv) and the DICOM tree, in any layout of those tools",
            citation="Cui C et al. The Chinese Mammography Database (CMMD). The Cancer Imaging Archive (2021). "
            "doi:10.7937/tcia.eqde-4b16",
            intensity=FINISHED,
            localised=False,
            # 3,744: one finding without a place per image of the 1,872 labelled breasts.
            expected={"images": 5202, "findings": 3744, "patients": 1775},
        ),
        Archive(
            name="tcga_brca",
            title="TCGA-BRCA radiology: breast MR of invasive carcinomas, and mammograms of five patients, unlabelled",
            licence="CC BY 3.0",
            terms="attribution",
            access="Open, no account: The Cancer Imaging Archive (NBIA Data Retriever) or NCI Imaging Data Commons",
            put_here="the downloaded DICOM tree, in any layout of those tools, with the IDC index of the collection "
            "(*idc*.csv or *idc*.csv.gz) beside it where you have it",
            citation="Lingle W et al. The Cancer Genome Atlas Breast Invasive Carcinoma Collection (TCGA-BRCA). "
            "The Cancer Imaging Archive (2016). doi:10.7937/K9/TCIA.2016.AB2NAZRP",
            localised=False,
            not_supervised="every woman in it has an invasive cancer and most images are MR, so there is no benign "
            "class to learn from; use its mammograms unlabelled: inventory, conversion, manifest",
        ),
        Archive(
            name="inbreast",
            title="INbreast Release 1.0: full-field digital mammography with contours",
            licence="Research only, no redistribution; agreement with INESC TEC and the hospital",
            terms="agreement",
            access="By request to INESC TEC (Breast Research Group); no automatic download",
            put_here="INbreast.csv (or INbreast.xls saved as .xlsx), AllDICOMs/ and AllXML/ of 'INbreast Release 1.0'",
            citation="Moreira IC et al. INbreast: toward a full-field digital mammographic database. "
            "Acad Radiol 19(2):236-248 (2012). doi:10.1016/j.acra.2011.09.014",
            expected={"images": 410},
        ),
        Archive(
            name="ddsm",
            title="DDSM: Digital Database for Screening Mammography (original lossless JPEG films)",
            licence="Free for research with citation",
            terms="research only",
            access="ftp figment.csee.usf.edu/pub/DDSM (often down) or a colleague's copy; no automatic download",
            put_here="the volumes (cancers/, benigns/, normals/, benign_without_callbacks/) with the .ics, .LJPEG and "
            ".OVERLAY files of each case",
            citation="Heath M et al. The Digital Database for Screening Mammography. Proc. 5th International Workshop "
            "on Digital Mammography, 212-218 (2001).",
            intensity=IntensityRule(voi=False),  # its modality step is the scanner's optical density curve
            expected={"images": 10480, "patients": 2620},
        ),
        Archive(
            name="bcdr",
            title="BCDR: Breast Cancer Digital Repository (film and digital sub-sets)",
            licence="Research only, registration; no redistribution",
            terms="research only",
            access="Registration at bcdr.eu (bcdr.inegi.up.pt); no automatic download",
            put_here="the unzipped sub-sets (BCDR-D01_dataset/, BCDR-F01_dataset/, BCDR-DN01_dataset/ ...), each with "
            "its bcdr_*_img.csv, bcdr_*_outlines.csv and patient_*/ folders",
            citation="Guevara Lopez MA et al. BCDR: a breast cancer digital repository. "
            "15th International Conference on Experimental Mechanics (2012).",
            intensity=FINISHED,
        ),
        Archive(
            name="dicom_folder",
            title="Your own DICOM tree, with an optional table of labels",
            licence="Yours",
            terms="your own",
            access="Your own archive",
            put_here="the DICOM tree, with labels.csv and findings.csv beside it where you have them",
            citation="",
        ),
    ]
}

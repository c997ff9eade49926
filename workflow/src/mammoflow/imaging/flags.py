"""Every flag that the ledger of ``convert`` may carry, and what it means. Standard library only: settings read it.

A flag never leaves an image out by itself; ``manifest.exclude_flags`` names those that shall.
"""

FLAGS: dict[str, str] = {
    # What the header says about the exposure (acquisition.py).
    "for_processing": "unprocessed detector data (For Processing), whose grey is not made for reading",
    "quality_control": "Quality Control Image is YES: a test object, no patient",
    "specimen": "view code: tissue specimen",
    "implant": "Breast Implant Present is YES",
    "partial_view": "Partial View is YES: the breast was taken in several pictures",
    "burned_in_annotation": "Burned In Annotation is YES: the pixels may identify the patient",
    "spot_compression": "view modifier or paddle: spot compression",
    "magnification": "view modifier, paddle or magnification factor above 1.25",
    "implant_displaced": "view modifier: implant displaced (Eklund)",
    "axillary_tail": "view modifier: axillary tail",
    "cleavage": "view modifier: cleavage, both breasts in one picture",
    "tangential": "view modifier: tangential",
    "rolled": "view modifier: rolled",
    "anterior_compression": "view modifier: anterior compression",
    "infra_mammary_fold": "view modifier: infra-mammary fold",
    "axillary_tissue": "view modifier: axillary tissue",
    # What the pixels show (quality.py; each has a number in the ledger).
    "blank_image": "hardly any grey is used (contrast)",
    "noise_only": "white noise (noise_score)",
    "inverted_grey": "air is brighter than tissue (background_excess)",
    "bright_background": "no dark background: magnified or inverted (background_level)",
    "saturated": "much of the breast is at the last grey (saturation_fraction)",
    "text_suspected": "writing beside the breast, more than a side marker (text_score)",
    "implant_suspected": "a wide, even, bright body in the breast (implant_score)",
    "straight_edge": "a straight edge across the breast, as of a paddle (straight_edge_score)",
    "rectangular_field": "what is bright is a rectangle, as a collimated field (box_fill)",
    "breast_cut_off": "the breast leaves the picture opposite to the chest wall (cut_off_fraction)",
    # Where and how the breast lies (working.py).
    "no_breast_found": "nothing stands out from the background",
    "orientation_uncertain": "the outline does not tell the side of the chest wall (side_score)",
    "laterality_disagrees": "the chest wall stands on the other side than the table says (side_score)",
    "enlarged": "enlarged to reach the wanted pixel spacing",
    # How the stored values were read (header.py, intensity.py, decode.py).
    "constant_image": "all pixels are equal",
    "photometric_assumed": "no usable Photometric Interpretation; read as MONOCHROME2",
    "unknown_voi_function": "unknown VOI LUT Function; read as LINEAR",
    "invalid_rescale": "Rescale Slope is 0; not applied",
    "invalid_window": "a window of the header is not valid and was left out",
    "invalid_lut": "an empty lookup table was left out",
    "window_index_clipped": "fewer windows than window_index asks for; the last was taken",
    "window_misses_image": "the window shows none of the image; the full range was used",
    "unused_bits_masked": "bits above Bits Stored were set and are ignored",
    "exceeds_bits_stored": "a compressed stream holds values beyond Bits Stored",
    "raw_offset": "signed raw values, shifted up by half their range",
    "fast_j2k": "JPEG 2000 decoded at a half, a quarter ... of its size, as the ledger's decoder says",
    "decoder_fallback": "the first decoder failed, another one read it",
}

"""A hospital's DICOM tree without its patients' identities: keyed pseudonyms, a whitelist, blanked corners, an audit.

docs/pseudonymisation.md says what it does and what it does not do.
"""

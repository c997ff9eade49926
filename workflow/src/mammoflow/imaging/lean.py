"""Import pydicom without the libraries that it merely probes for. Import this module before pydicom.

pydicom tries four optional libraries when it is imported and goes on without those that are absent. Together they cost
as much time as pydicom itself, and conversion uses none of them in its own process: requests and tqdm fetch pydicom's
test files, Pillow serves colour, and gdcm is asked only in a process of its own (:mod:`mammoflow.imaging.isolated`),
since it may end the one it runs in. Where pydicom is loaded already, nothing happens.
"""

import sys

_PROBED = ("requests", "tqdm", "PIL", "gdcm")

if "pydicom" not in sys.modules:
    _hidden = [name for name in _PROBED if name not in sys.modules]
    sys.modules.update(dict.fromkeys(_hidden))  # None: "import" raises ImportError (import system, sys.modules)
    try:
        import pydicom  # noqa: F401 - for its effect
    finally:
        for _name in _hidden:
            del sys.modules[_name]

"""mammoflow: from raw mammography archives to honestly evaluated models."""

__version__ = "0.1.0"

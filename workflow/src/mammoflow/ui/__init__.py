"""The page (``python -m mammoflow ui``): collect, check, split, train and read results in a browser.

The page holds no state of its own. What it shows is read from disk, what it starts runs in processes that outlive it:
``mammoflow.collect`` for archives, ``job`` for Snakemake. Only ``app`` and ``views`` import Streamlit; the rest is
plain functions.
"""

"""Imported inside a Dask worker: asks Dask where it is."""

from distributed import get_worker

address = get_worker().address

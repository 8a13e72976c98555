"""The compiled CPU backend: a whole model step in one C++ call. See `backend.CpuBackend`."""

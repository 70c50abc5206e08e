"""Kernels as clients know them: specs, states, the registry, and what ties one to its sandbox."""

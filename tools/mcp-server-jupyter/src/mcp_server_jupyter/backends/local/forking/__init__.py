"""Kernels that are forked from a process which has imported ipykernel already. Who may import it: this backend."""

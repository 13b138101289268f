"""Kernels in pods of a Kubernetes cluster."""

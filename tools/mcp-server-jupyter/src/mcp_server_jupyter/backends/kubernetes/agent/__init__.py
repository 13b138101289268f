"""The first process of a kernel's container. Plain files: the standard library and zmq, Python 3.9 or newer.

Delivered into the pod beside `backends/shared/recording.py`, in folders of the same names; see `delivery`.
"""

"""A cluster that exists only while a test runs: its API server and its DNS speak the real protocols over real sockets.

Nothing else in it is real: there is no scheduler and no kubelet, and a pod is whatever process `Cluster.node` makes of
it. The real thing is tried by `make e2e-cluster`.
"""

from .cluster import Cluster, FakeApi
from .dns_server import DnsServer
from .node import Node
from .pods import Lab, Pods, PodsHere, open_lab, pod_name

__all__ = ["Cluster", "DnsServer", "FakeApi", "Lab", "Node", "Pods", "PodsHere", "open_lab", "pod_name"]

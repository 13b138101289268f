"""How work is checked: the learner's code in a kernel of its own, the tests in a process of the service.

The kernel is told names, calls and their arguments; what comes back is compared here. Nothing is imported here.
"""

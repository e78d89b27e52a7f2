"""The contract of quorem: what stands on disk and on the wire, and the torch-free Python that gives it meaning."""

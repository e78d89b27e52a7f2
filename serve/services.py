"""Services: the names under which calls arrive."""

SCORER = "quorem.v1.Scorer"
INFERENCE = "inference.GRPCInferenceService"
HEAVY = ("Score", "ModelInfer")  # methods that compute
CONTROL = ("RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload", "ModelStatistics")  # that may block

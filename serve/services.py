"""Services: the names under which calls arrive."""

SCORER = "quorem.v1.Scorer"
INFERENCE = "inference.GRPCInferenceService"

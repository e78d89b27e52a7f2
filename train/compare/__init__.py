"""`quorem compare`: a study of many training runs, told as tables and figures with their seed noise."""

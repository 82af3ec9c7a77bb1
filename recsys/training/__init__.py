"""Lightning: tasks, the TorchRec strategy, callbacks and the command line."""

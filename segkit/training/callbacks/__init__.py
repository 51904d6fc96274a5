"""Lightning callbacks: averaged weights, checkpoints and interruption, logging, pruning."""

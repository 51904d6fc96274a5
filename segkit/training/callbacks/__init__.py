"""Lightning callbacks: checkpoints and interruption, logging, pruning."""

"""What happens around the steps: checkpoints, interruption, the table of epochs, pictures, progress."""

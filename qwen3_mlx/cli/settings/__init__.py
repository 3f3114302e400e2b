"""What is set, where it lies, and what a line may go on with."""

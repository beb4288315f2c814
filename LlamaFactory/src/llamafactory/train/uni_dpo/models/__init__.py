"""What a checkpoint says of itself: loading, history, prompts, exports."""

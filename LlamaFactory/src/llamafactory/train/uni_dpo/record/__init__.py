"""What a run shows of itself: metrics, the pair log and pictures."""

"""What the gateway says about itself: log events, and the status document."""

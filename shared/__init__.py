"""What the web side and the workers both need; imports neither of them."""

"""Reading archives from outside, of which nothing is believed: the directory, a verdict for each entry, its bytes."""

"""Decoding of photos in child processes: hostile files meet the codecs there and nowhere else."""

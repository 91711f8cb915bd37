"""Training of the network: datasets, learning, calibration, evaluation, publishing."""

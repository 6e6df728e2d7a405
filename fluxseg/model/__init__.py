"""The network, its loss and its scores."""

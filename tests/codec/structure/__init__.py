"""Frames whose parts have no fixed place."""

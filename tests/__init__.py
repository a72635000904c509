"""Tests; each is a sentence about what a user may rely on."""

"""The whole loop, and what a crash in the middle of it leaves behind."""

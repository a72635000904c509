"""Accounts, settings, jobs, the command line and the shape of the project."""

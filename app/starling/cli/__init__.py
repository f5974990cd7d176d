"""The command `starling`: one file for each group of its commands."""
